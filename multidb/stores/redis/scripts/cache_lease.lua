-- Take the lease of a cache entry that holds nothing of use: who has it may fill the entry.
-- KEYS[1]  the entry; also the channel on which those who wait for a lease that is replaced are told
-- KEYS[2…] its witnesses
-- ARGV[1]  the lease: 'L' and a token nobody else has
-- ARGV[2]  how long it stands, in milliseconds
-- ARGV[3]  what the entry was seen to hold: what is to be replaced, or '' for nothing
-- Returns nil if the lease was taken, else what the entry holds by now.
-- Uses shared/marks.lua
-- What is no string is nobody's entry, and stands in the way: MGET says nothing of it.
local held = redis.call('MGET', unpack(KEYS))
if held[1] and held[1] ~= ARGV[3] then
  return held[1]
end
local marks = lost(held)
if marks then
  return marks
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
wake(KEYS[1], held[1])
return nil
