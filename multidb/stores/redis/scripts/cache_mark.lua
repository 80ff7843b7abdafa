-- Mark a cache entry before a commit that changes its value: what it holds is gone, and nothing may
-- fill it until every mark has been taken back, or has outlived its deadline.
-- KEYS[1]  the entry; also the channel on which those who wait for its lease are told
-- ARGV[1]  the mark: a token nobody else has
-- ARGV[2]  how long it stands, in milliseconds: longer than the commit may take
-- Returns how many marks stand.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local held = redis.pcall('GET', KEYS[1])
local last = now + ARGV[2]
local marks = {ARGV[1] .. ':' .. string.format('%.0f', last)}
if type(held) == 'string' and string.sub(held, 1, 1) == 'W' then
  for token, deadline in string.gmatch(held, '(%x+):(%d+)') do
    -- Of a process that died no mark outlives its own deadline, however often others are set.
    if token ~= ARGV[1] and tonumber(deadline) > now then
      marks[#marks + 1] = token .. ':' .. deadline
      last = math.max(last, tonumber(deadline))
    end
  end
end
redis.call('SET', KEYS[1], 'W' .. table.concat(marks, ','), 'PX', string.format('%.0f', last - now))
if type(held) == 'string' and string.sub(held, 1, 1) == 'A' then
  redis.call('PUBLISH', KEYS[1], '')
end
return #marks
