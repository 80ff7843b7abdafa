-- Reserve room for an upload among those that its user has under way.
-- KEYS[1]  the user's uploads: by id, the moment each ends, a colon, and its size
-- ARGV[1]  the upload's id
-- ARGV[2]  its size in bytes
-- ARGV[3]  how long it lives, in milliseconds
-- ARGV[4]  how many a user may have
-- ARGV[5]  how many bytes they may have together
-- Returns 'ok', 'many' or 'much'.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local ends = now + ARGV[3]
local mine, count, bytes, last = tonumber(ARGV[2]), 1, 0, ends
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  local until_, size = held[i + 1]:match('^(%d+):(%d+)$')
  if tonumber(until_) <= now then
    redis.call('HDEL', KEYS[1], held[i])
  elseif held[i] == ARGV[1] then
    -- It may have begun: then it stays as large as it is.
    mine = math.max(mine, tonumber(size))
  else
    count, bytes, last = count + 1, bytes + size, math.max(last, tonumber(until_))
  end
end
if count > tonumber(ARGV[4]) then
  return 'many'
elseif bytes + mine > tonumber(ARGV[5]) then
  return 'much'
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f:%.0f', ends, mine))
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', last))
return 'ok'
