#!lua
-- index: note that a session exists and was seen now.
-- KEYS  sessions                                                 (the memory's slot, not the session's)
-- ARGV  1 session   2 milliseconds that an index nobody manages lives on; 0 leaves its expiry alone
-- Returns {OK}.
-- An operator makes the index of its memory permanent, and gives it an expiry again when it lets go of it. Without one
-- the index would outlive its last session for ever.
local clock, life = redis.call('TIME'), tonumber(ARGV[2])
local seen = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
local began = redis.call('EXISTS', KEYS[1]) == 0
redis.call('ZADD', KEYS[1], seen, ARGV[1])
if life > 0 and (began or redis.call('PTTL', KEYS[1]) > 0) then
  redis.call('PEXPIRE', KEYS[1], math.max(life, redis.call('PTTL', KEYS[1])))
end
return { 'OK' }
