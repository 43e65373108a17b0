#!lua
-- index: note that a session exists and was seen now.
-- KEYS  sessions                                                 (the memory's slot, not the session's)
-- ARGV  1 session
-- Returns {OK}.
local clock = redis.call('TIME')
redis.call('ZADD', KEYS[1], string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)), ARGV[1])
return { 'OK' }
