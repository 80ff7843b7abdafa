-- End a session and take it out of its user's index.
-- KEYS[1]  the session
-- KEYS[2]  the user's index
-- ARGV[1]  the session's digest
-- Returns 1 if it was live, 0 if it had ended.
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[1])
