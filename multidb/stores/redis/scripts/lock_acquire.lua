-- Take a lock, or learn when to try again. Repeating it is harmless.
-- KEYS[1]  the lock: the token of who holds it
-- KEYS[2]  its fence: the number that the last holder was given
-- KEYS[3]  the queue: a sorted set of the tokens of those who wait in order, by when they came
-- KEYS[4]  the same, by the moment after which who waits is taken for dead
-- KEYS[5]  the note that who asks has given up
-- ARGV[1]  the token of who asks
-- ARGV[2]  how long the lock lives, in milliseconds
-- ARGV[3]  how long the fence is kept unused, in milliseconds
-- ARGV[4]  how long who asks will keep its place in the queue without asking again, in milliseconds;
--          0 for not queueing
-- Returns the fence and 0, or 0 and the milliseconds after which the lock may be free.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if redis.call('EXISTS', KEYS[5]) == 1 then
  return {0, 0}
end
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then
  return {tonumber(redis.call('GET', KEYS[2]) or 0), 0}
end

local first
if redis.call('EXISTS', KEYS[3]) == 1 then
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', now)) do
    redis.call('ZREM', KEYS[3], dead)
    redis.call('ZREM', KEYS[4], dead)
  end
  first = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
end

if not held and (not first or first == ARGV[1]) then
  if first then
    redis.call('ZREM', KEYS[3], ARGV[1])
    redis.call('ZREM', KEYS[4], ARGV[1])
  end
  -- No less than the time in microseconds: were the number lost, the next one would still be greater.
  local fence = math.max(tonumber(redis.call('GET', KEYS[2]) or 0) + 1, clock[1] * 1000000 + clock[2])
  redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[3])
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return {fence, 0}
end

local patience = tonumber(ARGV[4])
if patience > 0 then
  redis.call('ZADD', KEYS[3], 'NX', clock[1] * 1000000 + clock[2], ARGV[1])
  redis.call('ZADD', KEYS[4], now + patience, ARGV[1])
  for i = 3, 4 do
    if redis.call('PTTL', KEYS[i]) < patience then
      redis.call('PEXPIRE', KEYS[i], patience)
    end
  end
end
if held then
  return {0, redis.call('PTTL', KEYS[1])}
end
return {0, redis.call('ZSCORE', KEYS[4], first) - now}
