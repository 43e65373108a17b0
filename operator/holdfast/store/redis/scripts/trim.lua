#!lua flags=allow-oom
-- trim: drop the oldest whole groups down to a target. The backstop with other numbers; the newest group stays.
-- uses: state, terms, records, mend, calls, backstop, history
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 target in tokens, 0 for none   3 target in messages, 0 for none
-- Returns {OK, records evicted, tokens, messages}, {GONE}, STALEPOLICY or LAYOUT.
local state = load_state(terms.revision)
if not state.exists then
  return { 'GONE' }
end
if state.layout ~= LAYOUT then
  return { 'LAYOUT', state.layout }
end
if terms.revision < state.revision then
  return { 'STALEPOLICY', state.revision }
end
local torn = mend(state)
local newest = { seq = 0, group = 0 }
for _, key in ipairs({ LOG, PIN }) do
  local value = call('LINDEX', key, -1)
  local record = value and parse_record(value)
  if record and record.seq > newest.seq then
    newest = record
  end
end
local limits = { max_tokens = tonumber(ARGV[2]), max_messages = tonumber(ARGV[3]) }
local plan = plan_backstop(state, limits, { [newest.group] = true }, state.count - state.pinned)
if plan.n == 0 and not torn then
  return { 'OK', 0, state.tokens, state.count }
end
if plan.n > 0 then
  local seqs = {}
  for _, record in pairs(plan.evict) do
    seqs[#seqs + 1] = record.seq
  end
  table.sort(seqs)
  evict(state, plan)
  settle_calls(plan.gone)
  note(state, 'FIFO', seqs, plan.tokens, 0)
  if terms.after_flush > 0 then
    refresh(state, terms.after_flush, AFTER_FLUSH)
  end
end
state.revision = terms.revision
save_state(state)
expire_all(state, true)
return { 'OK', plan.n, state.tokens, state.count }
