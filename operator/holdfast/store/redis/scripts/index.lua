#!lua
-- index: note that a session exists and was seen now, unless it would be one too many.
-- KEYS  sessions, and with labels: labels, label...              (the memory's slot, not the session's)
-- ARGV  1 session   2 milliseconds that an index nobody manages lives on; 0 leaves its expiry alone
--       3 how many sessions the memory may have; 0: any number
-- Returns {OK}, or {SESSIONS, how many there are, how many there may be} and has written nothing.
-- An operator makes the index of its memory permanent, and gives it an expiry again when it lets go of it. Without one
-- the index would outlive its last session for ever. The indexes of labels expire whoever manages the memory; `labels`
-- names them by the last 32 digits of their keys, each until it expires.
local clock, life, most = redis.call('TIME'), tonumber(ARGV[2]), tonumber(ARGV[3])
if most > 0 and not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  local sessions = redis.call('ZCARD', KEYS[1])
  if sessions >= most then
    return { 'SESSIONS', sessions, most }
  end
end
local seen = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
for n, key in ipairs(KEYS) do
  local began = redis.call('EXISTS', key) == 0
  if n == 2 then
    redis.call('ZREMRANGEBYSCORE', key, '-inf', seen)
    for other = 3, #KEYS do
      local last = seen + math.max(life, redis.call('PTTL', KEYS[other]))
      redis.call('ZADD', key, string.format('%.0f', last), string.sub(KEYS[other], -32))
    end
  else
    redis.call('ZADD', key, seen, ARGV[1])
  end
  if life > 0 and (began or redis.call('PTTL', key) > 0) then
    redis.call('PEXPIRE', key, math.max(life, redis.call('PTTL', key)))
  end
end
return { 'OK' }
