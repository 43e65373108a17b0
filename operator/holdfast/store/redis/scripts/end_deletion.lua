#!lua flags=allow-oom
-- end_deletion: remove what is left of a memory. Safe to repeat.
-- uses: owner
-- KEYS  policy owner usage sessions labels                       (indexes of labels of the same slot are named by labels)
-- ARGV  1 uid   2 leader's epoch   3 milliseconds for which epoch and revision are remembered
-- Returns {OK}, {MORE} when it is to be called again, {OTHER} also when this uid's deletion was not begun, {FENCED, epoch} or {LAYOUT, layout}.
local uid, epoch = ARGV[1], tonumber(ARGV[2])
local owner = load_owner(true)
if not owner.uid and owner.deleting == uid then
  return { 'OK' }
end
local refused = refuse(owner, uid, epoch)
if refused then
  return refused
end
if owner.deleting ~= uid then
  return { 'OTHER' }
end
note_epoch(owner, epoch)
local labels = redis.pcall('ZRANGE', KEYS[5], 0, 999)
if labels.err then  -- a tenant may put anything there, and must not hold the deletion up
  redis.call('UNLINK', KEYS[5])
  labels = {}
end
for _, label in ipairs(labels) do
  redis.call('UNLINK', string.sub(KEYS[5], 1, -6) .. label)
end
if redis.call('ZREMRANGEBYRANK', KEYS[5], 0, 999) == 1000 then
  return { 'MORE' }
end
keep_revision(owner)
redis.call('HDEL', OWNER, 'uid')
redis.call('PEXPIRE', OWNER, ARGV[3])
redis.call('UNLINK', POLICY, USAGE, SESSIONS)
return { 'OK' }
