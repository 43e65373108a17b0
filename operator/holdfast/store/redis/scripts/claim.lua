#!lua
-- claim: mark a memory's keys as somebody's. The first marker wins, and another one needs the consent of the backend's owner.
-- uses: owner
-- KEYS  policy owner usage sessions
-- ARGV  1 cluster   2 uid of the namespace   3 namespace   4 name   5 uid   6 leader's epoch   7 1 to take over from anybody
-- Returns {OURS}, {MENDED} where it was ours and something else in place of its index was removed, {TAKENOVER}, {OTHER},
-- {UNMARKED}, {FENCED, epoch} or {LAYOUT, layout}. What is ours is kept from expiring.
local cluster, namespace_uid, namespace, name, uid = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local epoch, adopt = tonumber(ARGV[6]), ARGV[7] == '1'
local owner = load_owner(true)
if owner.layout > LAYOUT then
  return { 'LAYOUT', owner.layout }
end
-- Only epochs of one cluster can be compared.
local same_cluster = owner.cluster == cluster
if same_cluster and epoch < owner.epoch then
  return { 'FENCED', owner.epoch }
end

local same_place = same_cluster and owner.namespace_uid == namespace_uid and owner.namespace == namespace and owner.name == name
local empty = owner.sessions == 0 and owner.layout == 0
local answer = 'OURS'
if same_place and owner.uid == uid then
  note_epoch(owner, epoch)
  if owner.no_index then
    redis.call('UNLINK', SESSIONS)
    answer = 'MENDED'
  end
else
  redis.call('ZCARD', SESSIONS)  -- what is not ours is left as it is, with an error
  if owner.uid or not empty then
    answer = 'TAKENOVER'
    if not same_place and not adopt then
      return { owner.cluster and 'OTHER' or 'UNMARKED' }
    end
  end
  redis.call('HSET', OWNER, 'cluster', cluster, 'namespaceUid', namespace_uid, 'namespace', namespace, 'name', name, 'uid', uid, 'epoch', int(epoch))
end
for _, key in ipairs(KEYS) do
  redis.call('PERSIST', key)
end
return { answer }
