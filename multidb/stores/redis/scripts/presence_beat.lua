-- Note that a device of a user is there.
-- KEYS[1]  the user's devices: a sorted set, by the moment until which each is taken to be there
-- ARGV[1]  the device
-- ARGV[2]  how long it is taken to be there, in milliseconds
-- ARGV[3]  how many devices a user may have; of more, those heard of the longest ago are forgotten
-- Returns 1.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - ARGV[3])
-- The key is there for as long as one device is: so EXISTS tells whether the user is.
redis.call('PEXPIREAT', KEYS[1], redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])
return 1
