-- Forget an upload and all its chunks.
-- KEYS[1]  the upload
-- KEYS[2]  its parts
-- KEYS[3]  its chunks
-- Returns whose it was, or nil if there was none.
local user = redis.call('HGET', KEYS[1], 'user')
redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
return user
