-- Note that a device of a user is there.
-- KEYS[1]  the user's devices: a sorted set, by the moment until which each is taken to be there
-- ARGV[1]  the device
-- ARGV[2]  how long it is taken to be there, in milliseconds
-- ARGV[3]  how many devices a user may have; of more, those heard of the longest ago are forgotten
-- Returns 1.
-- Uses shared/presence.lua
local clock = redis.call('TIME')
beat(KEYS[1], ARGV[1], clock[1] * 1000 + math.floor(clock[2] / 1000), ARGV[2], ARGV[3])
return 1
