-- Store a session and enter it in its user's index.
-- KEYS[1]  the session
-- KEYS[2]  the user's index: a sorted set of session digests by the moment they end
-- ARGV[1]  the session, as JSON
-- ARGV[2]  the session's digest
-- ARGV[3]  the moment it ends, in Unix milliseconds
-- ARGV[4]  the present moment, likewise
-- Returns 1.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3] - ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[2])
-- The index lives as long as the session in it that ends last.
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[2], last[2])
return 1
