-- Marks of a cache entry, `W` and then each as token:deadline, in Unix milliseconds: the entry's value is
-- about to change, or just has. They are written to the entry and to its witnesses, the keys after it in
-- KEYS, so that they are not lost with one key that is evicted.

-- For how long a witness is kept at least, in milliseconds: of what may be evicted it is none of the first,
-- where those go first that are about to expire. Nothing is told by a witness but what stands in it.
local KEPT = 3600000

-- Return the present moment, by the server's clock.
local function moment()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + math.floor(clock[2] / 1000)
end

-- Return the marks that stand at a moment in what these keys hold, all but one, and the last deadline.
local function standing(held, but, now)
  local marks, last = {}, now
  -- A witness says the same as its entry; if one of them was evicted, marks that were set later are in both.
  local seen = {[but] = true}
  for i = 1, #KEYS do
    if held[i] and string.sub(held[i], 1, 1) == 'W' then
      for token, deadline in string.gmatch(held[i], '(%x+):(%d+)') do
        -- Of a process that died no mark outlives its own deadline, however often others are set.
        if not seen[token] and tonumber(deadline) > now then
          seen[token] = true
          marks[#marks + 1] = token .. ':' .. deadline
          last = math.max(last, tonumber(deadline))
        end
      end
    end
  end
  return marks, last
end

-- Have an entry and its witnesses hold marks, from now until the last deadline. Returns what they hold.
local function mark(marks, now, last)
  local held = 'W' .. table.concat(marks, ',')
  redis.call('SET', KEYS[1], held, 'PX', string.format('%.0f', last - now))
  for i = 2, #KEYS do
    redis.call('SET', KEYS[i], held, 'PX', string.format('%.0f', math.max(KEPT, last - now)))
  end
  return held
end

-- Return the marks that only a witness still has, which the entry then holds again, or nil.
local function lost(held)
  local witnessed = false
  for i = 2, #KEYS do
    witnessed = witnessed or held[i]
  end
  if not witnessed then
    return nil
  end
  local now = moment()
  local marks, last = standing(held, '', now)
  if #marks > 0 then
    return mark(marks, now, last)
  end
  redis.call('DEL', unpack(KEYS, 2))
  return nil
end

-- Tell those who wait for the lease that an entry held, if it was one.
local function wake(entry, held)
  if held and string.sub(held, 1, 1) == 'A' then
    redis.call('PUBLISH', entry, '')
  end
end
