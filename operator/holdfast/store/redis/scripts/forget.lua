#!lua flags=allow-oom
-- forget: drop entries of the index, each only if nobody has noted its session since it was looked at.
-- KEYS  sessions                                                 (the memory's slot, not the session's)
-- ARGV  1 milliseconds for which it was not noted at least, then of each entry: session, score as it was seen
-- Returns the sessions that were dropped.
local clock = redis.call('TIME')
local before = clock[1] * 1000 + math.floor(clock[2] / 1000) - tonumber(ARGV[1])
local dropped = {}
for n = 2, #ARGV, 2 do
  local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[n]) or nil)
  if score and score == tonumber(ARGV[n + 1]) and score <= before then
    redis.call('ZREM', KEYS[1], ARGV[n])
    dropped[#dropped + 1] = ARGV[n]
  end
end
return dropped
