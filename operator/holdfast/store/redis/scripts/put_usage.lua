#!lua
-- put_usage: note what a memory holds, as far as measured.
-- uses: owner
-- KEYS  policy owner usage sessions
-- ARGV  1 uid   2 leader's epoch   3 sessions   4 messages   5 tokens   6 bytes
-- Returns {OK}, {OTHER}, {FENCED, epoch} or {LAYOUT, layout}.
local owner = load_owner()
local refused = refuse(owner, ARGV[1], tonumber(ARGV[2]))
if refused then
  return refused
end
note_epoch(owner, tonumber(ARGV[2]))
local at = int(clock[1] * 1000 + math.floor(clock[2] / 1000))
redis.call('HSET', USAGE, 'sessions', ARGV[3], 'messages', ARGV[4], 'tokens', ARGV[5], 'bytes', ARGV[6], 'at', at)
return { 'OK' }
