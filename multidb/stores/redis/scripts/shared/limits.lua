-- Rate limits. What counts against one is a list of entries, each some calls and the moment at which
-- they stop counting: all at once, or with GCRA one after the other, the last of them at that moment.
-- `repositories/local_limits.py` is the same in Python. Moments are in Unix microseconds, durations in
-- microseconds; a Lua number holds them exactly.

-- As many entries a period has a sliding window at most: what comes closer together shares one.
local CELLS = 50

-- Return a limit, and what counts against it now.
local function read_limit(key, algorithm, most, per, now)
  local limit = {
    key = key, field = algorithm .. ':' .. most .. ':' .. per,
    algorithm = algorithm, most = tonumber(most), per = tonumber(per), spacing = 0, entries = {}, used = 0,
  }
  if algorithm == 'gcra' then
    limit.spacing = math.ceil(limit.per / limit.most)
  end
  local packed = redis.call('HGET', key, limit.field)
  local kept = packed and cmsgpack.unpack(packed) or {}
  for i = 1, #kept, 2 do
    local left, count = kept[i] - now, kept[i + 1]
    if left > 0 then
      if limit.spacing > 0 then
        count = math.min(count, math.ceil(left / limit.spacing))
      end
      table.insert(limit.entries, {leaves = kept[i], count = count})
      limit.used = limit.used + count
    end
  end
  return limit
end

-- Return how long it is until so many more would be admitted.
local function until_admitted(limit, cost, now)
  local excess = limit.used + cost - limit.most
  for _, entry in ipairs(limit.entries) do
    if excess <= 0 then
      return 0
    elseif excess <= entry.count then
      return entry.leaves - (entry.count - excess) * limit.spacing - now
    end
    excess = excess - entry.count
  end
  return 0
end

local function write_limit(limit, now)
  local last = limit.entries[#limit.entries]
  if not last then
    redis.call('HDEL', limit.key, limit.field)
    return
  end
  local packed = {}
  for _, entry in ipairs(limit.entries) do
    table.insert(packed, entry.leaves)
    table.insert(packed, entry.count)
  end
  if redis.call('HSET', limit.key, limit.field, cmsgpack.pack(packed)) == 1 then
    -- Another rate of this endpoint: those that are not used any more go.
    for _, field in ipairs(redis.call('HKEYS', limit.key)) do
      local kept = cmsgpack.unpack(redis.call('HGET', limit.key, field))
      if kept[#kept - 1] <= now then
        redis.call('HDEL', limit.key, field)
      end
    end
  end
  local rest = math.ceil((last.leaves - now) / 1000)
  if redis.call('PTTL', limit.key) < rest then
    -- A little longer, lest every call that follows have to.
    redis.call('PEXPIRE', limit.key, math.ceil(rest * 5 / 4))
  end
end

-- Let so many more count.
local function take(limit, cost, now)
  local last = limit.entries[#limit.entries]
  local leaves, joins
  if limit.algorithm == 'fixed_window' then
    leaves = now - now % limit.per + limit.per
    joins = last
  elseif limit.algorithm == 'sliding_window' then
    local cell = math.ceil(limit.per / CELLS)
    leaves = now + limit.per
    joins = last and math.floor((last.leaves - limit.per) / cell) == math.floor(now / cell)
  else
    leaves = math.max(now + limit.per, last and last.leaves + limit.spacing or 0) + (cost - 1) * limit.spacing
    joins = #limit.entries > 1
  end
  if last then
    leaves = math.max(leaves, last.leaves)  -- the clock may have gone back
  end
  if joins then
    last.leaves, last.count = leaves, last.count + cost
  else
    table.insert(limit.entries, {leaves = leaves, count = cost})
  end
  limit.used = limit.used + cost
  write_limit(limit, now)
end

-- Let so many of the latest count no more.
local function give_back(limit, cost, now)
  while cost > 0 and #limit.entries > 0 do
    local last = limit.entries[#limit.entries]
    local some = math.min(cost, last.count)
    last.leaves, last.count = last.leaves - some * limit.spacing, last.count - some
    if last.count == 0 then
      table.remove(limit.entries)
    end
    limit.used, cost = limit.used - some, cost - some
  end
  write_limit(limit, now)
end

-- Admit a call if all limits do: 'hit', or only look: 'peek'; or 'refund'. Returns 1 if it is, or would be
-- admitted, else 0; then of each limit how many it would admit now, how long until it would admit
-- this call, and until nothing counts against it any more.
local function decide(limits, how, cost, now)
  local admitted, waits = 1, {}
  for i, limit in ipairs(limits) do
    if how == 'refund' then
      give_back(limit, cost, now)
    end
    waits[i] = until_admitted(limit, cost, now)
    if waits[i] > 0 then
      admitted = 0
    end
  end
  local reply = {admitted}
  for i, limit in ipairs(limits) do
    if how == 'hit' and admitted == 1 then
      take(limit, cost, now)
    end
    local last = limit.entries[#limit.entries]
    table.insert(reply, limit.most - limit.used)
    table.insert(reply, waits[i])
    table.insert(reply, last and last.leaves - now or 0)
  end
  return reply
end
