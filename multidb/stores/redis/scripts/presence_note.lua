-- Enter a user who is there into the register, and tell if it was not in it.
-- KEYS[1]  the register: a sorted set of users, by the moment at which to look whether each is still there
-- KEYS[2]  its events, a stream; also the channel on which their ids are told
-- ARGV[1]  the user
-- ARGV[2]  how long it is taken to be there, in milliseconds
-- ARGV[3]  how many events are kept, about
-- Returns 1 if the user has come, 0 if it was there.
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local seen = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or nil)

local function tell(kind, at)
  local id = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'kind', kind, 'user', ARGV[1],
    'at', string.format('%.0f', math.floor(at / 1000)))
  redis.call('PUBLISH', KEYS[2], id)
end

-- Greater each time, lest who looked before take it for what was there then.
redis.call('ZADD', KEYS[1], string.format('%.0f', math.max(now + ARGV[2] * 1000, (seen or 0) + 1)), ARGV[1])
-- Below 0: somebody has left from a device, and nobody has looked yet.
if seen and (seen < 0 or seen > now) then
  return 0
end
if seen then
  -- It was gone, and nobody has come to tell of it yet.
  tell('leave', seen)
end
tell('join', now)
return 1
