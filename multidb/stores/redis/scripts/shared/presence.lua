-- Presence: a user's devices, a sorted set, by the moment until which each is taken to be there.

-- Note that a device is there for so many milliseconds from now, a Unix moment in milliseconds.
local function beat(devices, device, now, timeout, most)
  redis.call('ZREMRANGEBYSCORE', devices, '-inf', now)
  redis.call('ZADD', devices, now + timeout, device)
  redis.call('ZREMRANGEBYRANK', devices, 0, -1 - most)
  -- The key is there for as long as one device is: so EXISTS tells whether the user is.
  redis.call('PEXPIREAT', devices, redis.call('ZREVRANGE', devices, 0, 0, 'WITHSCORES')[2])
end
