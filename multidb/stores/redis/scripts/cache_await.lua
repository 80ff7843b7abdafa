-- Ask to be told, on the channel of its name, when a cache entry holds something else than this lease.
-- KEYS[1]  the entry
-- ARGV[1]  the lease, 'L' and its token
-- Returns for how many milliseconds it stands, or 0 if it stands no more.
local held = redis.pcall('GET', KEYS[1])
local awaited = 'A' .. string.sub(ARGV[1], 2)
if held == ARGV[1] then
  redis.call('SET', KEYS[1], awaited, 'KEEPTTL')
elseif held ~= awaited then
  return 0
end
return redis.call('PTTL', KEYS[1])
