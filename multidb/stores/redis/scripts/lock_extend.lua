-- Let a lock live on. Repeating it is harmless.
-- KEYS[1]  the lock
-- ARGV[1]  the token of who holds it
-- ARGV[2]  how long it lives from now on, in milliseconds
-- Returns 1, or 0 if somebody else holds it, or nobody.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
