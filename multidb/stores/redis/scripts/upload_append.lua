-- Add a chunk to an upload. Repeating it at its place is harmless.
-- KEYS[1]  the upload
-- KEYS[2]  its parts: a sorted set of 'offset:length', by offset
-- KEYS[3]  its chunks, by offset
-- ARGV[1]  the chunk
-- ARGV[2]  where it belongs, in bytes; '' for after all that is there without a gap
-- ARGV[3]  how many parts there may be
-- Returns 'ok' and how many bytes are there, and how many without a gap; or 'gone' if there is no such
-- upload, 'beyond' if it would be longer than declared, 'other' if something else is there, in whole
-- or in part, or 'many' if there are too many parts.
local held = redis.call('HMGET', KEYS[1], 'size', 'ends', 'received', 'next')
if not held[1] then
  return {'gone'}
end
local size, received, next_ = tonumber(held[1]), tonumber(held[3]), tonumber(held[4])
local offset = tonumber(ARGV[2]) or next_
local length = #ARGV[1]
if offset + length > size then
  return {'beyond'}
end

-- The neighbours: what begins at or before it, and after it.
local before = redis.call('ZREVRANGEBYSCORE', KEYS[2], offset, '-inf', 'LIMIT', 0, 1)[1]
local after = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. offset, '+inf', 'LIMIT', 0, 1)[1]
if before then
  local start, long = before:match('^(%d+):(%d+)$')
  if tonumber(start) == offset and redis.call('HGET', KEYS[3], start) == ARGV[1] then
    return {'ok', received, next_}
  elseif start + long > offset then
    return {'other'}
  end
end
if after and tonumber(after:match('^%d+')) < offset + length then
  return {'other'}
end
if redis.call('ZCARD', KEYS[2]) >= tonumber(ARGV[3]) then
  return {'many'}
end

redis.call('HSET', KEYS[3], string.format('%.0f', offset), ARGV[1])
redis.call('ZADD', KEYS[2], offset, string.format('%.0f:%.0f', offset, length))
received = received + length
while next_ < size do
  local part = redis.call('ZRANGEBYSCORE', KEYS[2], next_, next_)[1]
  if not part then
    break
  end
  next_ = next_ + part:match(':(%d+)$')
end
redis.call('HSET', KEYS[1], 'received', received, 'next', next_)
redis.call('PEXPIREAT', KEYS[2], held[2])
redis.call('PEXPIREAT', KEYS[3], held[2])
return {'ok', received, next_}
