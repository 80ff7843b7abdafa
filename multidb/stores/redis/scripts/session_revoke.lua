-- End a session and take it out of its user's index.
-- KEYS[1]  the index of the user's sessions
-- KEYS[2]  the session
-- ARGV[1]  its id
-- Returns the present moment, what was told of it, and the moments it began, was last used and would
-- have ended at the latest, in Unix milliseconds; nil if it had ended.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
local held = redis.call('HMGET', KEYS[2], 'about', 'created', 'seen', 'ends')
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
if held[1] and score and tonumber(score) > now then
  return {now, unpack(held)}
end
return nil
