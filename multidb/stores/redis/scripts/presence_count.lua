-- Count the users of a register who are there.
-- KEYS[1]  the register: a sorted set of users, by the moment at which to look whether each is still there
-- Returns how many.
local clock = redis.call('TIME')
return redis.call('ZCOUNT', KEYS[1], string.format('(%.0f', clock[1] * 1000000 + clock[2]), '+inf')
