-- Note that a device of a user is gone.
-- KEYS[1]  the user's devices: a sorted set, by the moment until which each is taken to be there
-- ARGV[1]  the device
-- Returns 1 if it was there, else 0.
local gone = redis.call('ZREM', KEYS[1], ARGV[1])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] then
  redis.call('PEXPIREAT', KEYS[1], last[2])
end
return gone
