#!lua
-- put_policy: write the policy document if it differs, and raise its revision. Safe to repeat. The document is compared
-- with what is stored, and not only its hash: somebody may have edited it there.
-- uses: owner
-- KEYS  policy owner usage sessions
-- ARGV  1 uid   2 leader's epoch   3 SHA-256 of the document   4 document   5 revision that was in force before
-- Returns {OK, revision in force}, {OTHER}, {FENCED, epoch}, {DELETING} when this uid is being deleted, or {LAYOUT, layout}.
local uid, epoch, sha, document, before = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local owner = load_owner()
local refused = refuse(owner, uid, epoch)
if refused then
  return refused
end
if owner.deleting == uid then
  return { 'DELETING' }
end
note_epoch(owner, epoch)
-- A server that lost data may have lost the counter, while processes still hold the revision that was in force. What an
-- older version wrote gets a new revision as well, so that a rollout looks at every session.
local same = owner.sha == sha and redis.call('HGET', POLICY, 'doc') == document
if same and owner.layout == LAYOUT and owner.state == 'active' and owner.revision >= before then
  return { 'OK', owner.revision }
end
local revision = math.max(owner.revision, before) + 1
-- The counter was lost, or never was ours: the time in seconds is above whatever these sessions have seen.
if owner.revision == 0 and before == 0 and owner.sessions > 0 then
  revision = tonumber(clock[1])
end
redis.call('HSET', POLICY, 'layout', LAYOUT, 'revision', int(revision), 'state', 'active', 'sha256', sha, 'doc', document)
return { 'OK', revision }
