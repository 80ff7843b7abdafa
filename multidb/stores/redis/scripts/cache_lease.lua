-- Take the lease of a cache entry that holds nothing of use: who has it may fill the entry.
-- KEYS[1]  the entry
-- ARGV[1]  the lease: 'L' and a token nobody else has
-- ARGV[2]  how long it stands, in milliseconds
-- ARGV[3]  what the entry was seen to hold: a value that cannot be read any more, or '' for nothing
-- Returns 1 if the lease was taken, 0 if the entry holds something else by now.
local held = redis.call('GET', KEYS[1]) or ''
if held ~= ARGV[3] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
