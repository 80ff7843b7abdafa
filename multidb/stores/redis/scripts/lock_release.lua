-- Give back a lock, or one's place in its queue, and wake who comes next.
-- KEYS[1]  the lock; also the channel on which waking is told
-- KEYS[2]  the queue: a sorted set of the tokens of those who wait in order, by when they came
-- KEYS[3]  the same, by the moment after which who waits is taken for dead
-- KEYS[4]  the note that who asked has given up
-- ARGV[1]  the token of who gives back
-- ARGV[2]  how long the note is kept, in milliseconds; 0 for leaving none
-- Returns 1, or 0 if it did not hold the lock. Published is the token of who comes next, or '' if
-- everybody may try.
if ARGV[2] ~= '0' then
  redis.call('SET', KEYS[4], '', 'PX', ARGV[2])
end
local queued = redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
local held = redis.call('GET', KEYS[1]) == ARGV[1]
if held then
  redis.call('DEL', KEYS[1])
end
if held or (queued == 1 and redis.call('EXISTS', KEYS[1]) == 0) then
  redis.call('PUBLISH', KEYS[1], redis.call('ZRANGE', KEYS[2], 0, 0)[1] or '')
end
return held and 1 or 0
