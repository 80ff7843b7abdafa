-- Begin an upload, unless it has begun.
-- KEYS[1]  the upload
-- ARGV[1]  the document it will be, as JSON
-- ARGV[2]  whose it is
-- ARGV[3]  its size in bytes
-- ARGV[4]  how long it lives, in milliseconds
-- Returns the moment it ends, in Unix milliseconds, or 0 if there is one already.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local clock = redis.call('TIME')
local ends = clock[1] * 1000 + math.floor(clock[2] / 1000) + ARGV[4]
redis.call('HSET', KEYS[1], 'document', ARGV[1], 'user', ARGV[2], 'size', ARGV[3], 'ends', ends, 'received', 0, 'next', 0)
redis.call('PEXPIREAT', KEYS[1], ends)
return ends
