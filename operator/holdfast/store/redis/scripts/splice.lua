#!lua flags=allow-oom
-- splice: take exactly the planned records out, and put one summary in their place.
-- uses: state, terms, records, mend, calls, backstop, history
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 token of the flusher   3 epoch   4 rules by which records leave, joined by |
--       5 seq:number of its rule of every record the plan covers, ascending, joined by commas
--       6 SHA-1 of the stored bytes, in order, of those that are expected to be there: of the log, then of the summaries
--       7 tokens and flags of the summary as doubles, empty without one   8 its rest, from the comma after the group
-- Returns {OK, records removed, tokens, messages, seq of the summary or 0, records the limits dropped},
-- {CHANGED, seqs of those that are there} when they are others than expected: nothing was written; or GONE, also when
-- the session is another one by now, NOTFLUSHER, STALEPOLICY, LAYOUT.
-- What it did stands in the flusher's place, as 0|token!removed,summary,dropped, until somebody claims that: a call whose
-- reply was lost is repeated, and answered the same.
-- Needs no lease and leaves the tail alone. What was pinned or trimmed since the plan was made is sorted out here; what
-- was not covered stays.
local state = load_state(terms.revision)
if not state.exists or tonumber(ARGV[3]) ~= state.epoch then
  return { 'GONE' }
end
if state.layout ~= LAYOUT then
  return { 'LAYOUT', state.layout }
end
local till, owner = string.match(call('HGET', META, 'f') or '', '^(%d+)|(.+)$')
local mark = ARGV[2] .. '!'
if till == '0' and string.sub(owner, 1, #mark) == mark then
  local removed, summary, dropped = string.match(string.sub(owner, #mark + 1), '^(%d+),(%d+),(%d+)$')
  return { 'OK', tonumber(removed), state.tokens, state.count, tonumber(summary), tonumber(dropped) }
end
if owner ~= ARGV[2] or tonumber(till) <= now then
  return { 'NOTFLUSHER' }
end
if terms.revision < state.revision then
  return { 'STALEPOLICY', state.revision }
end
local torn = mend(state)

-- What the plan covers, and what of it is there.
local rules, covered, seqs = {}, {}, {}
for rule in string.gmatch(ARGV[4], '[^|]+') do
  rules[#rules + 1] = rule
end
for seq, rule in string.gmatch(ARGV[5], '(%d+):(%d+)') do
  covered[tonumber(seq)] = rules[tonumber(rule)]
  seqs[#seqs + 1] = tonumber(seq)
end
local found, folded, joined, kept, at = {}, {}, {}, {}, 0
repeat
  local chunk = call('LRANGE', LOG, at, at + 127)
  for n = 1, #chunk do
    local record = parse_record(chunk[n])
    if not covered[record.seq] then
      joined[record.group] = true
    else
      record.summary = math.floor(record.flags / 32) % 2 == 1
      found[#found + 1] = record
    end
  end
  at = at + 128
until #chunk < 128
for _, value in ipairs(call('LRANGE', PIN, 0, -1)) do
  local record = parse_record(value)
  if covered[record.seq] then
    if math.floor(record.flags / 32) % 2 == 1 then
      folded[#folded + 1] = record
    else
      kept[record.seq] = true
    end
  end
end
-- The client orders by what a record says of itself, and somebody may have taken a summary's protection away.
local values, short = {}, {}
for _, record in ipairs(found) do
  local list = record.summary and short or values
  list[#list + 1] = record.summary and record or record.value
end
for _, record in ipairs(folded) do
  short[#short + 1] = record
end
table.sort(short, function(one, other) return one.seq < other.seq end)
for _, record in ipairs(short) do
  values[#values + 1] = record.value
end
if redis.sha1hex(table.concat(values)) ~= ARGV[6] then
  local present = {}
  for _, list in ipairs({ found, folded }) do
    for _, record in ipairs(list) do
      present[#present + 1] = record.seq
    end
  end
  return { 'CHANGED', present }
end

-- Where a result joined a group since the plan was made, the call stays with it.
local there = {}
for _, record in ipairs(found) do
  if joined[record.group] then
    kept[record.seq] = true
  else
    there[#there + 1] = record
  end
end

-- The place of the summary: the newest of what it covers, unless somebody pinned that.
local summary, covers = 0, ARGV[7] ~= ''
local gone = {}
for _, seq in ipairs(seqs) do
  if not kept[seq] then
    summary = seq
    gone[#gone + 1] = seq
  end
end
if summary == 0 or (not covers and #there == 0) then
  call('HDEL', META, 'f')
  return { 'OK', 0, state.tokens, state.count, 0, 0 }
end

-- Every check has passed.
local head = 0
local front = #there > 0 and call('LRANGE', LOG, 0, #there - 1) or {}
while there[head + 1] and there[head + 1].value == front[head + 1] do
  head = head + 1
end
if head > 0 then
  call('LTRIM', LOG, head, -1)
end
local groups, by_rule, left = {}, {}, 0
for n, record in ipairs(there) do
  if n > head then
    call('LREM', LOG, 1, record.value)
  end
  groups[record.group] = true
  left = left + record.tokens
  state.tokens, state.count, state.bytes = state.tokens - record.tokens, state.count - 1, state.bytes - record.bytes
  local rule = covered[record.seq]
  local sum = by_rule[rule] or { seqs = {}, tokens = 0 }
  by_rule[rule] = sum
  sum.seqs[#sum.seqs + 1], sum.tokens = record.seq, sum.tokens + record.tokens
end
for _, record in ipairs(folded) do
  call('LREM', PIN, 1, record.value)
  left = left + record.tokens
  state.tokens, state.count, state.bytes = state.tokens - record.tokens, state.count - 1, state.bytes - record.bytes
  state.pinned, state.pinned_tokens = state.pinned - 1, state.pinned_tokens - record.tokens
end
local removed = #there + #folded
if covers then
  local tokens, flags = numbers('<dd', ARGV[7])
  local value = format('[%d,%d,%d,%d,%d', tokens, flags, summary, now, summary) .. ARGV[8]
  local pivot
  for _, other in ipairs(call('LRANGE', PIN, 0, -1)) do
    if parse_record(other).seq > summary then
      pivot = other
      break
    end
  end
  if pivot then
    call('LINSERT', PIN, 'BEFORE', pivot, value)
  else
    call('RPUSH', PIN, value)
  end
  state.tokens, state.count, state.bytes = state.tokens + tokens, state.count + 1, state.bytes + #value
  state.pinned, state.pinned_tokens = state.pinned + 1, state.pinned_tokens + tokens
  -- What the limits had dropped meanwhile is in the summary after all.
  state.dropped = math.max(0, state.dropped - (#gone - removed))
  note(state, 'HybridSummary', gone, left, summary)
else
  state.dropped = state.dropped + #there
  for _, rule in ipairs(rules) do
    local part = by_rule[rule]
    if part then
      note(state, rule, part.seqs, part.tokens, 0)
    end
  end
end
settle_calls(groups)

-- In a full session the summary takes the place of the oldest records that are left.
-- The newest group stays, in whichever list it is.
local newest = { seq = 0, group = 0 }
for _, key in ipairs({ LOG, PIN }) do
  local value = call('LINDEX', key, -1)
  local record = value and parse_record(value)
  if record and record.seq > newest.seq then
    newest = record
  end
end
local plan = plan_backstop(state, terms, { [newest.group] = true }, state.count - state.pinned)
if plan.n > 0 and not terms.refuse then
  evict(state, plan)
  settle_calls(plan.gone)
end

-- When groups were last read is of no use once they are gone.
local oldest = call('LINDEX', LOG, 0)
oldest = oldest and parse_record(oldest).group or state.next
for _, field in ipairs(call('HKEYS', META)) do
  local group = string.match(field, '^a:(%d+)$')
  if group and (groups[tonumber(group)] or tonumber(group) < oldest) then
    call('HDEL', META, field)
  end
end
call('HSET', META, 'f', format('0|%s%d,%d,%d', mark, removed, covers and summary or 0, plan.n))
if terms.after_flush > 0 then
  refresh(state, terms.after_flush, AFTER_FLUSH)
end
state.revision = terms.revision
save_state(state)
expire_all(state, true)
return { 'OK', removed, state.tokens, state.count, covers and summary or 0, plan.n }
