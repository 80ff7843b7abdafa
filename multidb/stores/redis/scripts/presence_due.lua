-- List users of a register at whom it is time to look.
-- KEYS[1]  the register: a sorted set of users, by the moment at which to look whether each is still there
-- ARGV[1]  how many at most
-- Returns each as the user and the moment that stands in the register.
local clock = redis.call('TIME')
local now = string.format('%.0f', clock[1] * 1000000 + clock[2])
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
