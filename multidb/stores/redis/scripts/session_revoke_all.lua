-- End all sessions of a user at once, but for one. What is not in the index is not live, so the
-- index alone is touched, however many there are; the sessions themselves expire.
-- KEYS[1]  the index of the user's sessions; each is at the index's key, a colon and its id
-- ARGV[1]  the id of the session that stays, or '' for none
-- ARGV[2]  the moment, in Unix milliseconds, after which those began that stay too, or '' for any
-- Returns how many were ended, and the present moment in Unix milliseconds.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if (ARGV[2] or '') ~= '' then
  local ended = 0
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
    local created = redis.call('HGET', KEYS[1] .. ':' .. id, 'created')
    if id ~= ARGV[1] and tonumber(created or 0) <= tonumber(ARGV[2]) then
      redis.call('ZREM', KEYS[1], id)
      ended = ended + 1
    end
  end
  return {ended, now}
end
local kept = redis.call('ZSCORE', KEYS[1], ARGV[1])
local live = redis.call('ZCOUNT', KEYS[1], '(' .. now, '+inf')
redis.call('UNLINK', KEYS[1])
if kept and tonumber(kept) > now then
  redis.call('ZADD', KEYS[1], kept, ARGV[1])
  redis.call('PEXPIREAT', KEYS[1], kept)
  live = live - 1
end
return {live, now}
