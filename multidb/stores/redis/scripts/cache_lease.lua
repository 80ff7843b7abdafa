-- Take the lease of a cache entry that holds nothing of use: who has it may fill the entry.
-- KEYS[1]  the entry; also the channel on which those who wait for a lease that is replaced are told
-- ARGV[1]  the lease: 'L' and a token nobody else has
-- ARGV[2]  how long it stands, in milliseconds
-- ARGV[3]  what the entry was seen to hold: what is to be replaced, or '' for nothing
-- Returns nil if the lease was taken, else what the entry holds by now.
-- Uses shared/marks.lua
local held = redis.pcall('GET', KEYS[1])
-- What is no string is nobody's entry, and stands in the way.
if type(held) == 'string' and held ~= ARGV[3] then
  return held
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
wake(KEYS[1], held)
return nil
