#!lua
-- append: add records to one session, atomically.
-- uses: state, terms, ids, interrupted, caller, records, mend, calls, backstop, protect
-- KEYS  meta log pin ids hist                                   (one hash slot)
-- ARGV  1 terms   2 caller   3 the id as lib/ids has it, empty without one   4 digest of the bodies, 0 where it is not to be
--       compared
--       5.. each record in two: tokens, flags, group as doubles, then opens|closes where there are calls;
--           and the rest of the record, from the comma after the group
-- Returns {OK, seven doubles: first seq, count, tokens, evicted, epoch, over, torn} or
-- {DUPLICATE, first seq, count, tokens, epoch}, or a refusal: CONFLICT, NOSESSION, EPOCH, LEASELOST, BUSY, STALEPOLICY,
-- REGRESSED, VANISHED, FULL, NOROOM, ERASED, LAYOUT. Nothing is written before every check has passed.
local id, digest = ARGV[3], tonumber(ARGV[4])
-- Any message of an assistant may answer a thought (`|?digest`). It is by far the most frequent answer, so whether one
-- waits is asked along with the state.
local thought = #ARGV == 6 and string.match(ARGV[5], '^|%?(%x+)$', 25)
local state = thought and load_state(terms.revision, 'o:' .. thought) or load_state(terms.revision)

-- A known id is answered first, whatever became of the lease: the caller only wants to know that it is stored.
local name, entries, at
if id ~= '' and not state.wipe then
  name, entries, at = look_up(state, id)
  if at then
    local score = numbers('<I7', entries, at + 9)
    local kept = score % 1048576
    if kept ~= 0 and digest ~= 0 and kept ~= digest then
      return { 'CONFLICT', math.floor(score / 1048576) }
    end
    if state.exists then
      -- A write without effect: WAIT waits for what its connection wrote, and this one may have written nothing yet.
      call('PEXPIREAT', IDS, format('%d', state.x))
    end
    return { 'DUPLICATE', math.floor(score / 1048576), state.count, state.tokens, state.epoch }
  end
end
-- A repetition of what was there before the session was erased would put it back.
if caller.again and caller.token == '' and not (state.exists and caller.epoch == state.epoch)
  and tonumber(call('HGET', META, 'e') or 0) > now then
  return { 'ERASED' }
end
local refused = refuse(state, false)
if refused then
  return refused
end
if not state.exists and caller.token == '' and not caller.create then
  return { 'NOSESSION' }
end
-- What a replacement takes away counts as gone from here on; it goes once every check has passed.
local replaced = caller.empty and state.exists and { tokens = state.tokens }
if replaced then
  state.tokens, state.count, state.bytes, state.pinned, state.pinned_tokens, state.joined = 0, 0, 0, 0, 0, 0
end

-- Which calls wait that these records answer?
local records, answers, marked = {}, nil, false
for n = 5, #ARGV, 2 do
  local head = ARGV[n]
  local tokens, flags, group = numbers('<ddd', head)
  local record = { tokens = tokens, flags = flags, group = group, rest = ARGV[n + 1] }
  marked = marked or flags % 4 ~= 0
  if #head > 24 and not (thought and (replaced or not state.asked)) then
    record.opens, record.closes = string.match(head, '^([^|]*)|(.*)$', 25)
    answers = answers or {}
    for name in string.gmatch(record.closes, '%x+') do
      answers[#answers + 1] = 'o:' .. name
    end
  end
  records[#records + 1] = record
end
local waiting = {}
if answers and state.exists and not replaced then
  for first = 1, #answers, 1000 do
    local last = math.min(first + 999, #answers)
    for n, group in ipairs(call('HMGET', META, unpack(answers, first, last))) do
      waiting[answers[first + n - 1]] = group or nil
    end
  end
end

-- Somebody else may have removed records, or left some without counters: then what is there is counted before anything
-- is decided. Asking also finds a key of another type before the first write. A session without protected records is
-- spared the question: the length of its log shows when the new records are pushed.
local torn = not state.wipe and not replaced and (not state.exists or state.pinned > 0 or marked) and mend(state)

-- Give each record its group: planning.groups is the specification.
local first, batch_tokens, keep, protected, older = state.next, 0, {}, {}, {}
local opened, answered, promote
for n = 1, #records do
  local record, seq = records[n], first + n - 1
  local group = seq
  record.seq, batch_tokens = seq, batch_tokens + record.tokens
  if record.group > 0 then
    local known, safe
    if record.group >= first and record.group < seq then
      known = records[record.group - first + 1].group
    elseif record.group < first and not replaced then
      for _, key in ipairs({ LOG, PIN }) do
        for _, value in ipairs(call('LRANGE', key, 0, -1)) do
          local other = parse_record(value)
          if other.seq == record.group then
            known, safe = other.group, key == PIN
          end
        end
      end
    end
    if known then
      group, state.joined = known, 1
      if safe then
        protected[group], older[group] = true, true
      end
    end
  end
  if record.opens then
    opened, answered = opened or {}, answered or {}
    local explicit, matched, needed, closed, count = group ~= seq, false, false, 0, 0
    for optional, name in string.gmatch(record.closes, '(%??)(%x+)') do
      local field = 'o:' .. name
      local found = waiting[field]
      if found then
        local answer, safe = string.match(found, '^(%d+)(p?)$')
        answer = tonumber(answer)
        if not matched and not explicit then
          group = answer
        end
        if safe == 'p' and answer < first then
          protected[answer], older[answer] = true, true
        end
        if answer == group then
          closed = closed + 1
        end
        matched, waiting[field], opened[field], answered[field] = true, nil, nil, true
      elseif optional == '' then
        needed = true
      end
    end
    for name in string.gmatch(record.opens, '%x+') do
      local field = 'o:' .. name
      waiting[field], opened[field], answered[field] = format('%d', group), group, nil
      count = count + 1
    end
    record.flags = record.flags + (needed and not matched and 4 or 0)
      + count % 256 * 2 ^ 12 + closed % 256 * 2 ^ 20
      + math.floor(count / 256) * 2 ^ 28 + math.floor(closed / 256) * 2 ^ 40
  end
  if record.flags % 4 ~= 0 then
    protected[group] = true
  end
  record.group, keep[group] = group, true
end
for group in pairs(protected) do
  if group < first and not older[group] then
    promote = promote or {}
    promote[group] = true
  end
end

-- Would it fit? What is refused by the counters is refused only once they are known to be right.
local plan
while true do
  local count, tokens = state.count, state.tokens
  local full = terms.refuse and ((terms.max_tokens > 0 and tokens + batch_tokens > terms.max_tokens)
    or (terms.max_messages > 0 and count + #records > terms.max_messages))
  if not full then
    state.tokens, state.count = tokens + batch_tokens, count + #records
    plan = plan_backstop(state, terms, keep, count - state.pinned)
    if not plan.hopeless then
      break
    end
    state.tokens, state.count = tokens, count
  end
  if torn or state.wipe or replaced or not mend(state) then
    return { full and 'FULL' or 'NOROOM', count, tokens }
  end
  torn = true
end

-- Every check has passed.
local fresh = not state.exists
if state.wipe then
  call('UNLINK', META, LOG, PIN, IDS, HIST)
elseif fresh then
  call('UNLINK', IDS)
end
if replaced then
  caller.empty(state, replaced.tokens)
end
if fresh then
  state.epoch, state.created, state.touched = now_us, now, now
end
local log, pin, expected = {}, {}, state.count - state.pinned - #records
for n = 1, #records do
  local record = records[n]
  local safe = protected[record.group]
  if safe and record.flags % 4 == 0 then
    record.flags = record.flags + 2
  end
  local value = format('[%d,%d,%d,%d,%d', record.tokens, record.flags, record.seq, now, record.group) .. record.rest
  state.bytes = state.bytes + #value
  if safe then
    pin[#pin + 1] = value
    state.pinned, state.pinned_tokens = state.pinned + 1, state.pinned_tokens + record.tokens
  else
    log[#log + 1] = value
  end
end
local length = expected
for at = 1, #log, 1000 do
  length = call('RPUSH', LOG, unpack(log, at, math.min(at + 999, #log)))
end
for at = 1, #pin, 1000 do
  call('RPUSH', PIN, unpack(pin, at, math.min(at + 999, #pin)))
end
state.next, state.version = first + #records, state.version + 1
if length ~= expected + #log and mend(state) then
  torn, plan = true, plan_backstop(state, terms, keep, state.count - state.pinned)
end
if plan.n > 0 then
  evict(state, plan)
end
if promote then
  move_groups(state, promote, LOG, PIN)
  settle_calls(promote, true)
end
if terms.revision > state.revision then
  state.revision = terms.revision
end
if terms.on_write or fresh or replaced then
  refresh(state, terms.ttl, TTL)
end
if id ~= '' and terms.ids > 0 then
  if not name then
    name, entries = look_up(state, id)
  end
  remember(state, id, first * 1048576 + digest, name, entries)
end
save_state(state)
if caller.labels then
  for label in string.gmatch(caller.labels, string.rep('%x', 32)) do
    call('HSET', META, 'b:' .. label, '')
  end
end
if opened then
  for field, group in pairs(opened) do
    call('HSET', META, field, format('%d', group) .. (protected[group] and 'p' or ''))
  end
  for field in pairs(answered) do
    call('HDEL', META, field)
  end
end
if plan.n > 0 then
  settle_calls(plan.gone)
end
expire_all(state, fresh or torn)
return { 'OK', pack('<ddddddd', first, state.count, state.tokens, plan.n, state.epoch, plan.over and 1 or 0, torn and 1 or 0) }
