#!lua
-- pin: protect the whole group of a record from eviction, or stop doing so. System messages and
-- summaries keep theirs protected.
-- uses: state, terms, interrupted, caller, records, calls, protect
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 caller   3 seq   4 1 to pin, 0 to unpin
-- Returns {OK, records that moved, epoch}, NORECORD, or a refusal as append.
local seq, pin = tonumber(ARGV[3]), ARGV[4] == '1'
local state = load_state(terms.revision)
if not state.exists then
  return { caller.token ~= '' and 'LEASELOST' or 'NORECORD' }
end
local refused = refuse(state, false)
if refused then
  return refused
end

local group, home
local always = {}
for _, key in ipairs({ LOG, PIN }) do
  for _, value in ipairs(call('LRANGE', key, 0, -1)) do
    local record = parse_record(value)
    if record.seq == seq then
      group, home = record.group, key
    end
    if record.flags % 2 == 1 or math.floor(record.flags / 32) % 2 == 1 then
      always[record.group] = true
    end
  end
end
if not group then
  return { 'NORECORD' }
end

local moved, target = 0, pin and PIN or LOG
if target ~= home and not (home == PIN and always[group]) then
  moved = move_groups(state, { [group] = true }, home, target)
  settle_calls({ [group] = true }, pin)
  state.version = state.version + 1
end
state.revision = math.max(state.revision, terms.revision)
if terms.on_write then
  refresh(state, terms.ttl, TTL)
end
save_state(state)
expire_all(state)
return { 'OK', moved, state.epoch }
