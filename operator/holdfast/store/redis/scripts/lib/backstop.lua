-- lib/backstop: which records leave so that the session is within its hard limits.
-- The specification is holdfast.planning.backstop; a property test holds the two together. Here the list is read in
-- small pieces, and a group is not looked for further than its last answered call.

-- Records of the log, read as they are needed. `length` is what the counters say; there may be fewer.
local function reader(length)
  local log = { length = length, records = {}, n = 0 }
  function log.at(index)
    while index > log.n and log.n < log.length do
      local step = log.n == 0 and 2 or 32
      local values = redis.call('LRANGE', LOG, log.n, log.n + step - 1)
      for _, value in ipairs(values) do
        log.n = log.n + 1
        log.records[log.n] = parse_record(value)
      end
      if #values < step then
        log.length = log.n
      end
    end
    return log.records[index]
  end
  return log
end

-- Positions of a group from its first record on, its tokens, whether a call of it still waits, its last record, and
-- whether calls may wait that were not counted: 255 means that many or more.
local function collect(log, index, joined)
  local first = log.at(index)
  local members, tokens, balance, last = { index }, first.tokens, first.opens - first.closes, first
  local many = first.opens == 255
  local uncertain = joined or many
  local at = index
  while uncertain or balance > 0 do
    at = at + 1
    local record = log.at(at)
    if not record then
      break
    end
    if record.group == first.group then
      members[#members + 1] = at
      tokens, last = tokens + record.tokens, record
      balance = balance + record.opens - record.closes
      many = many or record.opens == 255
      uncertain = uncertain or many
    end
  end
  return members, tokens, balance > 0, last, many
end

-- state: counters with the new records included. keep: groups that stay. length: records in the log.
local function plan_backstop(state, terms, keep, length)
  local over_tokens = terms.max_tokens > 0 and math.max(0, state.tokens - terms.max_tokens) or 0
  local over_count = terms.max_messages > 0 and math.max(0, state.count - terms.max_messages) or 0
  local plan = { evict = {}, gone = {}, n = 0, tokens = 0, bytes = 0, waiting_tokens = 0, waiting_count = 0 }
  if over_tokens == 0 and over_count == 0 then
    return plan
  end
  local log, skipped, index = reader(length), {}, 0
  while over_tokens > 0 or over_count > 0 do
    index = index + 1
    local record = log.at(index)
    if not record then
      break
    end
    if not plan.evict[index] and not skipped[record.group] and not keep[record.group] then
      local members, tokens, open, last, many = collect(log, index, state.joined > 0)
      if open and last.ts + terms.lease > now then
        skipped[record.group] = true
        plan.waiting_tokens, plan.waiting_count = plan.waiting_tokens + tokens, plan.waiting_count + #members
      else
        if open or many then
          plan.gone[record.group] = true
        end
        for _, member in ipairs(members) do
          plan.evict[member] = log.records[member]
          plan.bytes = plan.bytes + log.records[member].bytes
        end
        plan.n, plan.tokens = plan.n + #members, plan.tokens + tokens
        over_tokens, over_count = over_tokens - tokens, over_count - #members
      end
    end
  end
  plan.over = over_tokens > 0 or over_count > 0
  plan.hopeless = over_tokens > plan.waiting_tokens or over_count > plan.waiting_count
  return plan
end

-- Take the records of a plan out: those at the head in one cut, the others by value (each is unique by its seq).
local function evict(state, plan)
  if plan.n == 0 then
    return
  end
  local head = 0
  while plan.evict[head + 1] do
    head = head + 1
  end
  if head > 0 then
    redis.call('LTRIM', LOG, head, -1)
  end
  for index, record in pairs(plan.evict) do
    if index > head then
      redis.call('LREM', LOG, 1, record.value)
    end
  end
  state.tokens, state.count = state.tokens - plan.tokens, state.count - plan.n
  state.bytes, state.dropped = state.bytes - plan.bytes, state.dropped + plan.n
end

-- Whether something outside removed records or counters, as a server does that evicts keys.
local function is_torn(state)
  return redis.call('LLEN', LOG) ~= state.count - state.pinned or redis.call('LLEN', PIN) ~= state.pinned
end

-- Count what is left; what is missing counts as dropped, and no sequence number is given out again.
local function recount(state)
  local before = state.count
  state.tokens, state.count, state.bytes, state.pinned, state.pinned_tokens = 0, 0, 0, 0, 0
  for _, key in ipairs({ LOG, PIN }) do
    for _, value in ipairs(redis.call('LRANGE', key, 0, -1)) do
      local record = parse_record(value)
      state.next = math.max(state.next, record.seq + 1)
      state.tokens, state.count, state.bytes = state.tokens + record.tokens, state.count + 1, state.bytes + record.bytes
      if key == PIN then
        state.pinned, state.pinned_tokens = state.pinned + 1, state.pinned_tokens + record.tokens
      end
    end
  end
  state.dropped = state.dropped + math.max(0, before - state.count)
end
