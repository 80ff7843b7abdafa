-- Read the generation of a tag, and begin one if there is none.
-- KEYS[1]  the tag
-- ARGV[1]  the generation to begin: 'G' and a token nobody else has
-- ARGV[2]  how long it is kept at least, in milliseconds: as long as what is filled under it
-- Returns what the tag holds: a generation, or the marks of commits under way.
local held = redis.pcall('GET', KEYS[1])
-- For twice as long, so that it is not prolonged at each call: those who keep copies in their process
-- are told of that as of any change.
local lives = 2 * ARGV[2]
if type(held) ~= 'string' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', lives)
  return ARGV[1]
end
if string.sub(held, 1, 1) == 'G' and redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], lives)
end
return held
