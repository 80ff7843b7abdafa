-- Check a token and touch the session it opens; if there is a new token, it takes the other's place.
-- KEYS[1]  the index of the user's sessions
-- KEYS[2]  the session
-- ARGV[1]  its id
-- ARGV[2]  the digest of the token, which is known to have been issued once for the session
-- ARGV[3]  how long the session lives unused, in milliseconds
-- ARGV[4]  how long after the last touch nothing is written, in milliseconds
-- ARGV[5]  the digest of the new token, or '' for none
-- ARGV[6]  how long the other may be used along with it, in milliseconds
-- ARGV[7]  how many tokens of one session may be in use at a time
-- Returns nil if the session has ended. Else a word; the present moment; what is told of the session
-- and the moments it began, was last used and ends at the latest, in Unix milliseconds; 1 if this was
-- its first touch; and the sessions found expired, each as its id and the moment it ended. The word
-- is 'live'; 'reused' if the token had been rotated and its time was over, which has ended the
-- session; or 'crowded' if there may be no new token. Of several that took the place of one, who holds
-- the session may use one only: where there are too many, the oldest goes.
-- Uses shared/sessions.lua
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local opened, retires = open_session(KEYS[1], KEYS[2], ARGV[1], ARGV[2], now)
if not opened or not retires then
  return opened
end

if ARGV[5] ~= '' then
  local fields = redis.call('HGETALL', KEYS[2])
  local count, oldest, issued = 0, nil, now
  for i = 1, #fields, 2 do
    local field, moment = fields[i], tonumber(fields[i + 1])
    if field:sub(1, 6) == 'token:' then
      if moment > 0 and moment <= now then
        redis.call('HDEL', KEYS[2], field)
      else
        count = count + 1
        local another = moment <= 0 and -moment < now - ARGV[6] and field ~= 'token:' .. ARGV[2]
        if another and -moment < issued then
          oldest, issued = field, -moment
        end
      end
    end
  end
  if count >= tonumber(ARGV[7]) then
    if not oldest then
      opened[1] = 'crowded'
      return opened
    end
    redis.call('HDEL', KEYS[2], oldest)
  end
  if tonumber(retires) <= 0 then
    redis.call('HSET', KEYS[2], 'token:' .. ARGV[2], now + ARGV[6])
  end
  redis.call('HSET', KEYS[2], 'token:' .. ARGV[5], -now)
end

touch_session(KEYS[1], KEYS[2], ARGV[1], now, ARGV[3], tonumber(ARGV[4]), opened)
return opened
