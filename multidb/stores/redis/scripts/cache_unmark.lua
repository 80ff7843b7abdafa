-- Take back a mark once its commit is over, or invalidate a cache entry that was not marked: what was
-- loaded before is gone, and the entry may be filled again unless another mark stands.
-- KEYS[1]  the entry; also the channel on which those who wait for its lease are told
-- ARGV[1]  the mark, or '' if there was none
-- Returns how many marks stand.
local held = redis.pcall('GET', KEYS[1])
if type(held) == 'string' and string.sub(held, 1, 1) == 'W' then
  local clock = redis.call('TIME')
  local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
  local marks, last = {}, now
  for token, deadline in string.gmatch(held, '(%x+):(%d+)') do
    if token ~= ARGV[1] and tonumber(deadline) > now then
      marks[#marks + 1] = token .. ':' .. deadline
      last = math.max(last, tonumber(deadline))
    end
  end
  if #marks > 0 then
    redis.call('SET', KEYS[1], 'W' .. table.concat(marks, ','), 'PX', string.format('%.0f', last - now))
    return #marks
  end
end
redis.call('DEL', KEYS[1])
if type(held) == 'string' and string.sub(held, 1, 1) == 'A' then
  redis.call('PUBLISH', KEYS[1], '')
end
return 0
