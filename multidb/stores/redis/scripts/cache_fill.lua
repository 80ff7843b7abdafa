-- Put a value into a cache entry, unless what it was loaded under is gone: an invalidation deleted
-- or marked it, it expired, or it was evicted.
-- KEYS[1]  the entry; also the channel on which those who wait for its lease are told
-- ARGV[1]  the lease that was taken before the value was loaded, or the value that is refreshed
-- ARGV[2]  the value, beginning with 'V'; '' gives the lease back and stores nothing
-- ARGV[3]  how long the value lives, in milliseconds
-- Returns 1 if it still stood, 0 if not.
local held = redis.pcall('GET', KEYS[1])
-- An 'A' in the place of the 'L': somebody waits.
local awaited = held == 'A' .. string.sub(ARGV[1], 2)
if not awaited and held ~= ARGV[1] then
  return 0
end
if ARGV[2] == '' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
end
if awaited then
  redis.call('PUBLISH', KEYS[1], '')
end
return 1
