-- Marks of a cache entry, `W` and then each as token:deadline, in Unix milliseconds: the entry's value is
-- about to change, or just has.

-- Return the marks that an entry holds and that stand at a moment, all but one, and the last deadline.
local function standing(held, but, now)
  local marks, last = {}, now
  if type(held) == 'string' and string.sub(held, 1, 1) == 'W' then
    for token, deadline in string.gmatch(held, '(%x+):(%d+)') do
      -- Of a process that died no mark outlives its own deadline, however often others are set.
      if token ~= but and tonumber(deadline) > now then
        marks[#marks + 1] = token .. ':' .. deadline
        last = math.max(last, tonumber(deadline))
      end
    end
  end
  return marks, last
end

-- Have the entry hold marks, from now until the last deadline.
local function mark(entry, marks, now, last)
  redis.call('SET', entry, 'W' .. table.concat(marks, ','), 'PX', string.format('%.0f', last - now))
end

-- Tell those who wait for the lease that an entry held, if it was one.
local function wake(entry, held)
  if type(held) == 'string' and string.sub(held, 1, 1) == 'A' then
    redis.call('PUBLISH', entry, '')
  end
end
