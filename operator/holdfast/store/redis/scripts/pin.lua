#!lua
-- pin: protect the whole group of a record from eviction, or stop doing so. A system message keeps its group protected.
-- uses: state, calls, protect
-- KEYS  meta log pin ids hist
-- ARGV  1 caller: token|epoch|seen|0   2 terms, packed   3 seq   4 1 to pin, 0 to unpin
-- Returns {OK, records that moved, epoch}, NORECORD, or a refusal as append.
local caller, terms, seq, pin = parse_caller(ARGV[1]), parse_terms(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local state = load_state()
if not state.exists or replaces_tombstone(state, terms) then
  return { caller.token ~= '' and 'LEASELOST' or 'NORECORD' }
end
local refused = refuse(state, caller, terms, false)
if refused then
  return refused
end

local group, home
local system = {}
for _, key in ipairs({ LOG, PIN }) do
  for _, value in ipairs(redis.call('LRANGE', key, 0, -1)) do
    local record = parse_record(value)
    if record.seq == seq then
      group, home = record.group, key
    end
    if record.flags % 2 == 1 then
      system[record.group] = true
    end
  end
end
if not group then
  return { 'NORECORD' }
end

local moved, target = 0, pin and PIN or LOG
if target ~= home and not (home == PIN and system[group]) then
  moved = move_groups(state, { [group] = true }, home, target)
  mark_calls({ [group] = true }, pin)
  state.version, state.shape = state.version + 1, state.shape + 1
end
state.revision = math.max(state.revision, terms.revision)
if terms.refresh % 2 == 1 then
  refresh(state, terms, terms.ttl, 'ttl')
end
redis.call('HSET', META, 'k', k_field(state), 's', s_field(state), 'x', x_field(state), 'p', p_field(state))
expire_all(state)
return { 'OK', moved, state.epoch }
