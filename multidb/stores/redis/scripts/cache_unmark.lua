-- Take back a mark once its commit is over, or invalidate a cache entry that was not marked: what was
-- loaded before is gone, and the entry may be filled again unless another mark stands.
-- KEYS[1]  the entry; also the channel on which those who wait for its lease are told
-- KEYS[2…] its witnesses
-- ARGV[1]  the mark, or '' if there was none
-- Returns how many marks stand.
-- Uses shared/marks.lua
local now = moment()
local held = redis.call('MGET', unpack(KEYS))
local marks, last = standing(held, ARGV[1], now)
if #marks > 0 then
  mark(marks, now, last)
else
  redis.call('DEL', unpack(KEYS))
end
wake(KEYS[1], held[1])
return #marks
