#!lua flags=allow-oom
-- unlist: drop a session from the memory's index and from those of labels, unless it was noted since it was looked at.
-- KEYS  sessions, and with labels: labels, label...              (as of index)
-- ARGV  1 session   2 score as it was seen in the first index, empty if it was not there
-- Returns {OK, 1 if it was dropped}.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score and tonumber(score) ~= tonumber(ARGV[2]) then
  return { 'OK', 0 }
end
redis.call('ZREM', KEYS[1], ARGV[1])
for n = 3, #KEYS do
  if redis.call('ZREM', KEYS[n], ARGV[1]) == 1 and redis.call('EXISTS', KEYS[n]) == 0 then
    redis.call('ZREM', KEYS[2], string.sub(KEYS[n], -32))
  end
end
return { 'OK', 1 }
