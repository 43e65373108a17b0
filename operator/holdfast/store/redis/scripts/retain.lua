#!lua flags=allow-oom
-- retain: leave a memory to its expiry.
-- uses: owner
-- KEYS  policy owner usage sessions
-- ARGV  1 uid   2 leader's epoch   3 expiry of the policy in ms since 1970   4 expiry of index and marker, not before
-- Returns {OK}, {OTHER}, {FENCED, epoch} or {LAYOUT, layout}.
local owner = load_owner()
local refused = refuse(owner, ARGV[1], tonumber(ARGV[2]))
if refused then
  return refused
end
note_epoch(owner, tonumber(ARGV[2]))
keep_revision(owner)
redis.call('PEXPIREAT', POLICY, ARGV[3])
redis.call('PEXPIREAT', USAGE, ARGV[3])
redis.call('PEXPIREAT', OWNER, ARGV[4])
redis.call('PEXPIREAT', SESSIONS, ARGV[4])
return { 'OK' }
