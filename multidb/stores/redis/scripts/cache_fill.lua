-- Put a value into a cache entry, unless its lease is gone: an invalidation deleted it, it
-- expired, or it was evicted.
-- KEYS[1]  the entry
-- ARGV[1]  the lease that was taken before the value was loaded
-- ARGV[2]  the value, beginning with 'V'; '' gives the lease back and stores nothing
-- ARGV[3]  how long the value lives, in milliseconds
-- Returns 1 if the lease still stood, 0 if not.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
return 1
