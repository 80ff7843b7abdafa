-- Sessions. What is in the index is live, and nothing else. Moments are in Unix milliseconds.

-- Check a token. Returns nil if the session has ended; else what `session_use.lua` returns, of a session
-- that is not touched, and the moment that is held of the token. One that had been rotated and whose
-- time is over, ends the session.
local function open_session(index, session, id, digest, now)
  local score = redis.call('ZSCORE', index, id)
  if not score or tonumber(score) <= now then
    return nil
  end
  local held = redis.call('HMGET', session, 'about', 'created', 'seen', 'ends', 'token:' .. digest)
  local about, created, seen, ends, retires = unpack(held)
  if not about then
    return nil
  end
  -- While a token is current, minus the moment it was issued, 0 for the first; after that the moment
  -- until which it may be used. Those whose time is over are forgotten, so one that is not there is
  -- such a one.
  if not retires or (tonumber(retires) > 0 and tonumber(retires) <= now) then
    redis.call('ZREM', index, id)
    redis.call('DEL', session)
    return {'reused', now, about, created, seen, ends, 0, {}}
  end
  return {'live', now, about, created, seen, ends, 0, {}}, retires
end

-- Note in a session, and in what `open_session` returned of it, that it is used, unless that was done lately.
local function touch_session(index, session, id, now, idle, interval, opened)
  local created, seen, ends = opened[4], opened[5], opened[6]
  if now - seen < interval then
    return
  end
  if seen == created then
    opened[7] = 1
  end
  opened[5] = now
  local expires = math.min(tonumber(ends), now + idle)
  redis.call('HSET', session, 'seen', now)
  redis.call('PEXPIREAT', session, expires)
  redis.call('ZADD', index, expires, id)
  opened[8] = redis.call('ZRANGEBYSCORE', index, '-inf', now, 'WITHSCORES')
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  redis.call('PEXPIREAT', index, redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2])
end
