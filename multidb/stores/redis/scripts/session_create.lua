-- Store a session and enter it in its user's index; the oldest make room for it.
-- KEYS[1]  the index: a sorted set of the ids of the user's sessions, by the moment each ends
-- KEYS[2]  the session, at the index's key, a colon and its id
-- ARGV[1]  its id
-- ARGV[2]  the digest of its token
-- ARGV[3]  what is told of it, as JSON
-- ARGV[4]  how long it lives at most, in milliseconds
-- ARGV[5]  how long it lives unused, in milliseconds
-- ARGV[6]  how many sessions a user may have
-- Returns the present moment in Unix milliseconds; the ids of the sessions that made room; and those
-- that had expired, each as its id and the moment it ended.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)

local displaced = {}
for _ = redis.call('ZCARD', KEYS[1]), tonumber(ARGV[6]), -1 do
  local id = redis.call('ZPOPMIN', KEYS[1])[1]
  redis.call('DEL', KEYS[1] .. ':' .. id)
  table.insert(displaced, id)
end

local ends = now + ARGV[4]
local expires = math.min(ends, now + ARGV[5])
redis.call('HSET', KEYS[2], 'about', ARGV[3], 'created', now, 'seen', now, 'ends', ends, 'token:' .. ARGV[2], 0)
redis.call('PEXPIREAT', KEYS[2], expires)
redis.call('ZADD', KEYS[1], expires, ARGV[1])
-- The index lives as long as the session in it that ends last.
redis.call('PEXPIREAT', KEYS[1], redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])
return {now, displaced, expired}
