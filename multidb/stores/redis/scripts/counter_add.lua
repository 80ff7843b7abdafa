-- Add to a counter, once for each flush.
-- KEYS[1]  the counter
-- KEYS[2]  the flushes it has seen: a hash of the last number each process has given
-- ARGV[1]  the process
-- ARGV[2]  the number of its flush, greater than those before
-- ARGV[3]  how much to add
-- ARGV[4]  how long both live from now on, in milliseconds
-- Returns what it has counted.
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0) then
  redis.call('INCRBY', KEYS[1], ARGV[3])
  redis.call('PEXPIRE', KEYS[1], ARGV[4])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end
return redis.call('GET', KEYS[1])
