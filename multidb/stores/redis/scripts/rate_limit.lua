-- Admit a call if all its limits do, and let it count against each; or against none.
-- KEYS     the endpoint of each limit: a hash of what counts, by rate
-- ARGV[1]  'hit'; 'peek' to only look; 'refund' to let as many of the latest calls count no more
-- ARGV[2]  for how many it counts
-- ARGV[3]  the present moment in Unix microseconds, or '' for the server's own
-- ARGV[4]  of the first limit the algorithm: 'gcra', 'sliding_window' or 'fixed_window'
-- ARGV[5]  how many calls it admits
-- ARGV[6]  in which time, in microseconds; and so on, by threes
-- Returns 1 if it is admitted, or would be, else 0; then of each limit how many it would admit now, and
-- the microseconds until it would admit this call, and until nothing counts against it.
-- Uses shared/limits.lua
local clock = redis.call('TIME')
local now = tonumber(ARGV[3]) or clock[1] * 1000000 + clock[2]
local limits = {}
for i, key in ipairs(KEYS) do
  limits[i] = read_limit(key, ARGV[3 * i + 1], ARGV[3 * i + 2], ARGV[3 * i + 3], now)
end
return decide(limits, ARGV[1], tonumber(ARGV[2]), now)
