#!lua
-- append: add records to one session, atomically.
-- uses: state, calls, backstop, protect
-- KEYS  meta log pin ids hist                                   (one hash slot)
-- ARGV  1 caller: token|epoch|seen|may create|key of the id|digest of the bodies
--       2 terms, packed
--       3.. a record each: tokens|flags|group|opens|closes|rest of the record, from the comma after the group
-- Returns {OK, first seq, count, tokens, evicted, epoch, over, torn} or {DUPLICATE, first seq, count, tokens, epoch},
-- or a refusal: CONFLICT, NOSESSION, EPOCH, LEASELOST, BUSY, STALEPOLICY, REGRESSED, FULL, NOROOM, LAYOUT.
-- Nothing is written before every check has passed.
local caller = parse_caller(ARGV[1])
local id, digest = string.match(ARGV[1], '|(%x*)|(%d+)$')
local terms = parse_terms(ARGV[2])
local state = load_state()
local wipe = replaces_tombstone(state, terms)
if wipe then
  state = read_state({})
end

-- A known id is answered first, whatever became of the lease: the caller only wants to know that it is stored.
if id ~= '' and not wipe then
  local score = redis.call('ZSCORE', IDS, id)
  if score then
    score = tonumber(score)
    if score % 1048576 ~= tonumber(digest) then
      return { 'CONFLICT', math.floor(score / 1048576) }
    end
    return { 'DUPLICATE', math.floor(score / 1048576), state.count, state.tokens, state.epoch }
  end
end
if not state.exists and caller.token == '' and not caller.create then
  return { 'NOSESSION' }
end
local refused = refuse(state, caller, terms, false)
if refused then
  return refused
end

-- Somebody else may have removed records, or left some without counters: then what is there is counted before anything
-- is decided. Asking also finds keys of another type before the first write.
local torn = not wipe and is_torn(state)
if torn then
  recount(state)
end

-- Which calls wait that these records answer?
local records, wanted = {}, {}
for n = 3, #ARGV do
  local tokens, flags, group, opens, closes, rest = string.match(ARGV[n], '^(%d+)|(%d+)|(%d+)|([^|]*)|([^|]*)|()')
  records[n - 2] = {
    tokens = tonumber(tokens), flags = tonumber(flags), group = tonumber(group),
    opens = opens, closes = closes, rest = string.sub(ARGV[n], rest),
  }
  for optional, call in string.gmatch(closes, '(%??)(%x+)') do
    wanted[#wanted + 1] = 'o:' .. call
  end
end
local waiting = {}
if #wanted > 0 and state.exists then
  for first = 1, #wanted, 1000 do
    local last = math.min(first + 999, #wanted)
    for n, group in ipairs(redis.call('HMGET', META, unpack(wanted, first, last))) do
      waiting[wanted[first + n - 1]] = group or nil
    end
  end
end

-- Where is an older record that a caller names as the group's?
local function find(seq)
  for _, key in ipairs({ LOG, PIN }) do
    for _, value in ipairs(redis.call('LRANGE', key, 0, -1)) do
      local record = parse_record(value)
      if record.seq == seq then
        return record.group, key == PIN
      end
    end
  end
end

-- Give each record its group: planning.groups is the specification.
local first, batch_tokens, keep, protected, older = state.next, 0, {}, {}, {}
local opened, answered = {}, {}
local promote = {}
for n, record in ipairs(records) do
  local seq = first + n - 1
  record.seq, batch_tokens = seq, batch_tokens + record.tokens
  local group, pinned = seq, record.flags % 4 ~= 0
  if record.group > 0 then
    local known, safe
    if record.group >= first and record.group < seq then
      known = records[record.group - first + 1].group
    elseif record.group < first then
      known, safe = find(record.group)
    end
    if known then
      group, state.joined = known, 1
      if safe then
        protected[group], older[group] = true, true
      end
    end
  end
  local explicit, matched, needed, closed = group ~= seq, false, false, 0
  for optional, call in string.gmatch(record.closes, '(%??)(%x+)') do
    local field = 'o:' .. call
    local found = waiting[field]
    if found then
      local answers, safe = string.match(found, '^(%d+)(p?)$')
      answers = tonumber(answers)
      if not matched and not explicit then
        group = answers
      end
      if safe == 'p' and answers < first then
        protected[answers], older[answers] = true, true
      end
      if answers == group then
        closed = closed + 1
      end
      matched, waiting[field], opened[field], answered[field] = true, nil, nil, true
    elseif optional == '' then
      needed = true
    end
  end
  if needed and not matched then
    record.flags = record.flags + 4
  end
  local count = 0
  for call in string.gmatch(record.opens, '%x+') do
    local field = 'o:' .. call
    waiting[field], opened[field], answered[field] = tostring(group), group, nil
    count = count + 1
  end
  record.flags = record.flags + math.min(count, 255) * 4096 + math.min(closed, 255) * 1048576
  if pinned then
    protected[group] = true
  end
  record.group, keep[group] = group, true
end
for group in pairs(protected) do
  if group < first and not older[group] then
    promote[group] = true
  end
end

-- Would it fit?
local before_tokens, before_count = state.tokens, state.count
if terms.refuse and ((terms.max_tokens > 0 and before_tokens + batch_tokens > terms.max_tokens)
    or (terms.max_messages > 0 and before_count + #records > terms.max_messages)) then
  return { 'FULL', before_count, before_tokens }
end
state.tokens, state.count = before_tokens + batch_tokens, before_count + #records
local plan = plan_backstop(state, terms, keep, before_count - state.pinned)
if plan.hopeless then
  return { 'NOROOM', before_count, before_tokens }
end

-- Every check has passed.
local fresh = not state.exists
if wipe then
  redis.call('UNLINK', META, LOG, PIN, IDS, HIST)
end
if fresh then
  new_session(state, terms)
end
local log, pin = {}, {}
local stamp = int(now)
for n, record in ipairs(records) do
  if protected[record.group] and record.flags % 4 == 0 then
    record.flags = record.flags + 2
  end
  local value = '[' .. record.tokens .. ',' .. record.flags .. ',' .. record.seq .. ',' .. stamp .. ',' .. record.group .. record.rest
  state.bytes = state.bytes + #value
  if protected[record.group] then
    pin[#pin + 1] = value
    state.pinned, state.pinned_tokens = state.pinned + 1, state.pinned_tokens + record.tokens
  else
    log[#log + 1] = value
  end
end
push(LOG, log)
push(PIN, pin)
state.next, state.version = first + #records, state.version + 1
evict(state, plan)
if next(promote) then
  move_groups(state, promote, LOG, PIN)
  mark_calls(promote, true)
end
local fields = { 'k', k_field(state) }
if terms.revision > state.revision or fresh or plan.n > 0 or torn then
  state.revision = math.max(state.revision, terms.revision)
  state.shape = state.shape + ((plan.n > 0 or torn) and 1 or 0)
  fields[3], fields[4] = 's', s_field(state)
end
if terms.refresh % 2 == 1 or fresh then
  refresh(state, terms, terms.ttl, 'ttl')
  fields[#fields + 1], fields[#fields + 2] = 'x', x_field(state)
end
if state.pinned > 0 or state.joined > 0 or torn then
  fields[#fields + 1], fields[#fields + 2] = 'p', p_field(state)
end
for field, group in pairs(opened) do
  fields[#fields + 1], fields[#fields + 2] = field, group .. (protected[group] and 'p' or '')
end
for at = 1, #fields, 1000 do
  redis.call('HSET', META, unpack(fields, at, math.min(at + 999, #fields)))
end
for field in pairs(answered) do
  redis.call('HDEL', META, field)
end
forget_calls(plan.gone)
if id ~= '' and terms.ids > 0 then
  redis.call('ZADD', IDS, int(first * 1048576 + digest), id)
  if math.floor(first / 16) ~= math.floor(state.next / 16) then
    redis.call('ZREMRANGEBYRANK', IDS, 0, -terms.ids - 1)
  end
end
expire_all(state)
return { 'OK', first, state.count, state.tokens, plan.n, state.epoch, plan.over and 1 or 0, torn and 1 or 0 }
