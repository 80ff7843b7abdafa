-- Mark a cache entry before a commit that changes its value: what it holds is gone, and nothing may
-- fill it until every mark has been taken back, or has outlived its deadline.
-- KEYS[1]  the entry; also the channel on which those who wait for its lease are told
-- KEYS[2…] its witnesses
-- ARGV[1]  the mark: a token nobody else has
-- ARGV[2]  how long it stands, in milliseconds: longer than the commit may take
-- Returns how many marks stand.
-- Uses shared/marks.lua
local now = moment()
local held = redis.call('MGET', unpack(KEYS))
local marks, last = standing(held, ARGV[1], now)
marks[#marks + 1] = ARGV[1] .. ':' .. string.format('%.0f', now + ARGV[2])
mark(marks, now, math.max(last, now + ARGV[2]))
wake(KEYS[1], held[1])
return #marks
