-- Take a user who is gone out of the register, and tell it; or note when to look again. Whoever does it
-- first is the only one.
-- KEYS[1]  the register: a sorted set of users, by the moment at which to look whether each is still there
-- KEYS[2]  its events, a stream; also the channel on which their ids are told
-- ARGV[1]  the user
-- ARGV[2]  the moment that stood in the register before it was looked whether the user is there
-- ARGV[3]  how long it will be there yet, in milliseconds; 0 if it is gone
-- ARGV[4]  how many events are kept, about
-- Returns 1 if it was told that the user has left, else 0.
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or nil) ~= tonumber(ARGV[2]) then
  return 0
end
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
if ARGV[3] ~= '0' then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + ARGV[3] * 1000), ARGV[1])
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'kind', 'leave', 'user', ARGV[1],
  'at', string.format('%.0f', math.floor(now / 1000)))
redis.call('PUBLISH', KEYS[2], id)
return 1
