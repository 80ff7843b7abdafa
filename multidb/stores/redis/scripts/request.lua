-- Begin a request: check its token and touch the session, have it count against its limits, and note that
-- the session is there as a device. Without a session nothing else happens; the limits refuse the
-- request alone, for whoever makes it is there all the same.
-- KEYS[1]  the index of the user's sessions
-- KEYS[2]  the session
-- KEYS[3]  the user's devices, as in presence_beat
-- KEYS     and the endpoint of each limit, as in rate_limit
-- ARGV[1]  the session's id
-- ARGV[2]  the digest of the token, which is known to have been issued once for the session
-- ARGV[3]  how long the session lives unused, in milliseconds
-- ARGV[4]  how long after the last touch nothing is written, in milliseconds
-- ARGV[5]  how long a device is taken to be there, in milliseconds
-- ARGV[6]  how many devices a user may have
-- ARGV[7]  for how many calls the request counts
-- ARGV[8]  of the first limit the algorithm
-- ARGV[9]  how many calls it admits
-- ARGV[10] in which time, in microseconds; and so on, by threes
-- Returns nil if there is no session; else what session_use returns; 1 if the device was noted, 0 if that was
-- done within the last quarter of the time it is taken to be there; and what rate_limit returns, or
-- nothing without a limit.
-- Uses shared/sessions.lua
-- Uses shared/limits.lua
-- Uses shared/presence.lua
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local opened, current = open_session(KEYS[1], KEYS[2], ARGV[1], ARGV[2], now)
if not opened then
  return nil
elseif not current then
  return {opened}
end
touch_session(KEYS[1], KEYS[2], ARGV[1], now, ARGV[3], tonumber(ARGV[4]), opened)

local noted = 0
local there = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not there or tonumber(there) < now + ARGV[5] * 3 / 4 then
  beat(KEYS[3], ARGV[1], now, ARGV[5], ARGV[6])
  noted = 1
end

if #KEYS == 3 then
  return {opened, noted}
end
local exact = clock[1] * 1000000 + clock[2]
local limits = {}
for i = 4, #KEYS do
  local first = 3 * i - 4
  limits[i - 3] = read_limit(KEYS[i], ARGV[first], ARGV[first + 1], ARGV[first + 2], exact)
end
return {opened, noted, decide(limits, 'hit', tonumber(ARGV[7]), exact)}
