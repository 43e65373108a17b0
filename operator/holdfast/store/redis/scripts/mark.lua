#!lua
-- mark: note once which data a server holds, so that one that was replaced or emptied is noticed. Safe to repeat.
-- KEYS  mark
-- ARGV  1 uid of the backend   2 instance: a name nobody else has
-- Returns {instance}: the one that was there, else the given one.
local there = redis.call('HGET', KEYS[1], 'instance')
if there then
  redis.call('PERSIST', KEYS[1])
  return { there }
end
redis.call('HSET', KEYS[1], 'backendUid', ARGV[1], 'createdAt', redis.call('TIME')[1], 'instance', ARGV[2])
return { ARGV[2] }
