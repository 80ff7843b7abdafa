-- List a user's live sessions, the one that was used last first.
-- KEYS[1]  the index of the user's sessions
-- Returns the sessions, each as its id, what is told of it and the moments it began, was last used
-- and ends at the latest, in Unix milliseconds; and those that had expired, each as its id and the
-- moment it ended.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)

local live = {}
for _, id in ipairs(redis.call('ZREVRANGE', KEYS[1], 0, -1)) do
  local held = redis.call('HMGET', KEYS[1] .. ':' .. id, 'about', 'created', 'seen', 'ends')
  if held[1] then
    table.insert(live, {id, unpack(held)})
  else
    -- Evicted: nothing opens it any more.
    redis.call('ZREM', KEYS[1], id)
  end
end
return {live, expired}
