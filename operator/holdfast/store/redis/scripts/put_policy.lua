#!lua
-- put_policy: write the policy document if it differs, and raise its revision. Safe to repeat.
-- uses: owner
-- KEYS  policy owner usage sessions
-- ARGV  1 uid   2 leader's epoch   3 SHA-256 of the document   4 document
-- Returns {OK, revision in force}, {OTHER}, {FENCED, epoch}, {DELETING} when this uid is being deleted, or {LAYOUT, layout}.
local uid, epoch, sha, document = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local owner = load_owner()
local refused = refuse(owner, uid, epoch)
if refused then
  return refused
end
if owner.deleting == uid then
  return { 'DELETING' }
end
note_epoch(owner, epoch)
if owner.state == 'active' and owner.sha == sha then
  return { 'OK', owner.revision }
end
local revision = owner.revision + 1
-- The counter was lost, or never was ours: the time in seconds is above whatever these sessions have seen.
if owner.revision == 0 and owner.sessions > 0 then
  revision = tonumber(clock[1])
end
redis.call('HSET', POLICY, 'layout', LAYOUT, 'revision', int(revision), 'state', 'active', 'sha256', sha, 'doc', document)
return { 'OK', revision }
