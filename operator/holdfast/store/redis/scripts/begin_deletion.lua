#!lua flags=allow-oom
-- begin_deletion: refuse writers from now on. Safe to repeat: the revision is raised once.
-- uses: owner
-- KEYS  policy owner usage sessions
-- ARGV  1 uid   2 leader's epoch
-- Returns {OK, revision}, {OTHER}, {FENCED, epoch} or {LAYOUT, layout}.
local uid, epoch = ARGV[1], tonumber(ARGV[2])
local owner = load_owner(true)
local refused = refuse(owner, uid, epoch)
if refused then
  return refused
end
note_epoch(owner, epoch)
if owner.no_index then
  redis.call('UNLINK', SESSIONS)
end
if owner.deleting == uid and owner.state == 'deleting' then
  return { 'OK', owner.revision }
end
local revision = owner.revision + 1
redis.call('HSET', OWNER, 'deleting', uid)
redis.call('HSET', POLICY, 'layout', LAYOUT, 'revision', int(revision), 'state', 'deleting')
-- Readers of a policy ask for the document first; here is one that says nothing, where there was none.
redis.call('HSETNX', POLICY, 'doc', '{}')
return { 'OK', revision }
