-- Read the generation of a tag, and begin one if there is none.
-- KEYS[1]  the tag
-- KEYS[2…] its witnesses
-- ARGV[1]  the generation to begin: 'G' and a token nobody else has
-- ARGV[2]  how long it is kept at least, in milliseconds: as long as what is filled under it
-- Returns what the tag holds: a generation, or the marks of commits under way.
-- Uses shared/marks.lua
local held = redis.call('MGET', unpack(KEYS))
-- For twice as long, so that it is not prolonged at each call: those who keep copies in their process
-- are told of that as of any change.
local lives = 2 * ARGV[2]
if not held[1] then
  local marks = lost(held)
  if marks then
    return marks
  end
  redis.call('SET', KEYS[1], ARGV[1], 'PX', lives)
  return ARGV[1]
end
if string.sub(held[1], 1, 1) == 'G' and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], lives)
end
return held[1]
