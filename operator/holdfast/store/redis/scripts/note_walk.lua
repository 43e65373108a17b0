#!lua flags=allow-oom
-- note_walk: note beside the marker how far a rollout is, so that a restart goes on there.
-- uses: owner
-- KEYS  policy owner usage sessions
-- ARGV  1 uid   2 leader's epoch   3 what to note; empty: that there is no rollout
-- Returns {OK}, {OTHER}, {FENCED, epoch} or {LAYOUT, layout}.
local owner = load_owner()
local refused = refuse(owner, ARGV[1], tonumber(ARGV[2]))
if refused then
  return refused
end
note_epoch(owner, tonumber(ARGV[2]))
if ARGV[3] == '' then
  redis.call('HDEL', OWNER, 'walk')
else
  redis.call('HSET', OWNER, 'walk', ARGV[3])
end
return { 'OK' }
