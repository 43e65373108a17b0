-- lib/owner: whose a memory is, and the counter of its policy. Read first, and all four keys: one of another type stops
-- the script before it wrote anything. Only `sessions` is a tenant's to write: who owns the memory may pass it by with
-- `whatever`, and remove what is no index.
-- owner   cluster namespaceUid namespace name uid, epoch (the highest leader's), deleting (a uid), revision (kept where
--         the policy may end before)
-- policy  layout revision state sha256 doc       usage  sessions messages tokens bytes at       sessions  name -> ms
local POLICY, OWNER, USAGE, SESSIONS = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local LAYOUT = 1
local clock = redis.call('TIME')

local function int(number)
  return string.format('%.0f', number)
end

local function load_owner(whatever)
  local fields = redis.call('HMGET', OWNER, 'cluster', 'namespaceUid', 'namespace', 'name', 'uid', 'epoch', 'deleting', 'revision')
  local policy = redis.call('HMGET', POLICY, 'layout', 'revision', 'state', 'sha256')
  redis.call('HLEN', USAGE)
  local sessions = (whatever and redis.pcall or redis.call)('ZCARD', SESSIONS)
  return {
    cluster = fields[1], namespace_uid = fields[2], namespace = fields[3], name = fields[4], uid = fields[5],
    epoch = tonumber(fields[6] or 0), deleting = fields[7],
    layout = tonumber(policy[1] or 0), state = policy[3], sha = policy[4],
    revision = math.max(tonumber(fields[8] or 0), tonumber(policy[2] or 0)),
    sessions = tonumber(sessions) or 0, no_index = type(sessions) == 'table',
  }
end

-- nil if this uid under this leader may change the memory; else the refusal.
local function refuse(owner, uid, epoch)
  if owner.layout > LAYOUT then
    return { 'LAYOUT', owner.layout }
  end
  if owner.uid ~= uid then
    return { 'OTHER' }
  end
  if epoch < owner.epoch then
    return { 'FENCED', owner.epoch }
  end
  return nil
end

local function note_epoch(owner, epoch)
  if epoch > owner.epoch then
    redis.call('HSET', OWNER, 'epoch', int(epoch))
  end
end

-- The counter, somewhere else than in the policy, which may end before.
local function keep_revision(owner)
  redis.call('HSET', OWNER, 'revision', int(owner.revision))
end
