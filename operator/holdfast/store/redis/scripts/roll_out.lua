#!lua flags=allow-oom
-- roll_out: bring a session under a policy: revision, limits, expiry. Needs no lease and leaves lease and waiters alone.
-- uses: plain, state, terms, records, mend, calls, backstop, shorten
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 milliseconds that a shortened expiry leaves at least
-- Returns DONE and nothing else for a plain session, {DONE, 1 if over a limit still, records evicted} for another one,
-- {SAME, 1 if over} when nothing was to be done, {GONE}, {NEWER, revision} or {LAYOUT, layout}.
local state = load_state()
if not state.exists or state.rule == BURIED then
  return { 'GONE' }
end
if state.layout ~= LAYOUT then
  return { 'LAYOUT', state.layout }
end
if terms.revision < state.revision then
  return { 'NEWER', state.revision }
end
local function over()
  return (terms.max_tokens > 0 and state.tokens > terms.max_tokens)
    or (terms.max_messages > 0 and state.count > terms.max_messages)
end
local behind = terms.revision > state.revision
if not behind and not over() then
  return { 'SAME', 0 }
end

local torn = mend(state)
local plan = { n = 0 }
if over() and not terms.refuse then
  -- The newest group stays, as it does in an append.
  local newest = { seq = 0, group = 0 }
  for _, key in ipairs({ LOG, PIN }) do
    local value = call('LINDEX', key, -1)
    local record = value and parse_record(value)
    if record and record.seq > newest.seq then
      newest = record
    end
  end
  plan = plan_backstop(state, terms, { [newest.group] = true }, state.count - state.pinned)
end
if not behind and not torn and plan.n == 0 then
  return { 'SAME', 1 }
end

if plan.n > 0 then
  evict(state, plan)
  settle_calls(plan.gone)
end
if behind then
  state.revision = terms.revision
  shorten(state, tonumber(ARGV[2]))
end
save_state(state)
expire_all(state, true)
return { 'DONE', over() and 1 or 0, plan.n }
