-- Check a token and touch the session it opens; if there is a new token, it takes the other's place.
-- What is in the index is live, and nothing else.
-- KEYS[1]  the index of the user's sessions
-- KEYS[2]  the session
-- ARGV[1]  its id
-- ARGV[2]  the digest of the token, of which is known that it was once issued for this session
-- ARGV[3]  how long the session lives unused, in milliseconds
-- ARGV[4]  how long after the last touch nothing is written, in milliseconds
-- ARGV[5]  the digest of the new token, or '' for none
-- ARGV[6]  how long the other may be used along with it, in milliseconds
-- ARGV[7]  how many tokens of one session may be in use at a time
-- Returns nil if the session has ended. Else a word; the present moment; what is told of the session
-- and the moments it began, was last used and ends at the latest, in Unix milliseconds; 1 if this was
-- its first touch; and the sessions found expired, each as its id and the moment it ended. The word
-- is 'live'; 'reused' if the token had been rotated and its time was over, which has ended the
-- session; or 'crowded' if there may be no new token.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) <= now then
  return nil
end
local token = 'token:' .. ARGV[2]
local held = redis.call('HMGET', KEYS[2], 'about', 'created', 'seen', 'ends', token)
local about, created, seen, ends, retires = unpack(held)
if not about then
  return nil
end

-- A token has 0 while it is current, and after that the moment until which it may be used. Those
-- whose time is over are forgotten, so one that is not there is such a one.
if not retires or (retires ~= '0' and tonumber(retires) <= now) then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('DEL', KEYS[2])
  return {'reused', now, about, created, seen, ends, 0, {}}
end

if ARGV[5] ~= '' then
  local fields = redis.call('HGETALL', KEYS[2])
  local count = 0
  for i = 1, #fields, 2 do
    if fields[i]:sub(1, 6) == 'token:' then
      if fields[i + 1] ~= '0' and tonumber(fields[i + 1]) <= now then
        redis.call('HDEL', KEYS[2], fields[i])
      else
        count = count + 1
      end
    end
  end
  if count >= tonumber(ARGV[7]) then
    return {'crowded', now, about, created, seen, ends, 0, {}}
  end
  if retires == '0' then
    redis.call('HSET', KEYS[2], token, now + ARGV[6])
  end
  redis.call('HSET', KEYS[2], 'token:' .. ARGV[5], 0)
end

local first, expired = 0, {}
if now - seen >= tonumber(ARGV[4]) then
  if seen == created then
    first = 1
  end
  seen = now
  local expires = math.min(tonumber(ends), now + ARGV[3])
  redis.call('HSET', KEYS[2], 'seen', now)
  redis.call('PEXPIREAT', KEYS[2], expires)
  redis.call('ZADD', KEYS[1], expires, ARGV[1])
  expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES')
  redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
  redis.call('PEXPIREAT', KEYS[1], redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])
end
return {'live', now, about, created, seen, ends, first, expired}
