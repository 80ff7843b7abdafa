-- Add to the members of a ranking, once for each flush.
-- KEYS[1]  the ranking: a sorted set of what was counted, by how often
-- KEYS[2]  the flushes it has seen: a hash of the last number each process has given
-- ARGV[1]  the process
-- ARGV[2]  the number of its flush, greater than those before
-- ARGV[3]  how long both live from now on, in milliseconds
-- ARGV[4]  the first member
-- ARGV[5]  how much to add to it; and so on, in pairs
-- Returns how many members there are.
if tonumber(ARGV[2]) > tonumber(redis.call('HGET', KEYS[2], ARGV[1]) or 0) then
  for i = 4, #ARGV, 2 do
    redis.call('ZINCRBY', KEYS[1], ARGV[i + 1], ARGV[i])
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
return redis.call('ZCARD', KEYS[1])
