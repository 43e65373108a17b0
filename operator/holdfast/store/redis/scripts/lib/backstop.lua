-- lib/backstop: which records leave so that the session is within its hard limits.
-- The specification is holdfast.planning.backstop; a property test holds the two together. Here the list is read in
-- small pieces, and a group is not looked for further than its last answered call.

-- state: counters with the new records included. limits: max_tokens and max_messages. keep: groups that stay.
-- length: records in the log, as the counters say; there may be fewer.
local function plan_backstop(state, limits, keep, length)
  local over_tokens = limits.max_tokens > 0 and state.tokens - limits.max_tokens or 0
  local over_count = limits.max_messages > 0 and state.count - limits.max_messages or 0
  if over_tokens <= 0 and over_count <= 0 then
    return { n = 0 }
  end
  local log, loaded = {}, 0

  -- Read as needed: first one, since most groups are one record, then in larger pieces.
  local function record_at(index)
    while index > loaded and loaded < length do
      local step = loaded == 0 and 1 or loaded == 1 and 4 or 32
      local values = call('LRANGE', LOG, loaded, loaded + step - 1)
      for n = 1, #values do
        log[loaded + n] = parse_record(values[n])
      end
      loaded = loaded + #values
      if #values < step then
        length = loaded
      end
    end
    return log[index]
  end

  -- Positions of a group from its first record on, its tokens, whether a call of it still waits, and its last record.
  local function collect(index)
    local first = log[index]
    local members, tokens, balance, last = { index }, first.tokens, first.opens - first.closes, first
    local at = index
    while state.joined > 0 or balance > 0 do
      at = at + 1
      local record = record_at(at)
      if not record then
        break
      end
      if record.group == first.group then
        members[#members + 1] = at
        tokens, last = tokens + record.tokens, record
        balance = balance + record.opens - record.closes
      end
    end
    return members, tokens, balance > 0, last
  end

  local plan = { evict = {}, gone = {}, n = 0, tokens = 0, bytes = 0 }
  local waiting_tokens, waiting_count, skipped, index = 0, 0, {}, 0
  while over_tokens > 0 or over_count > 0 do
    index = index + 1
    local record = record_at(index)
    if not record then
      break
    end
    if not plan.evict[index] and not skipped[record.group] and not keep[record.group] then
      local members, tokens, open, last = collect(index)
      if open and last.ts + terms.lease > now then
        skipped[record.group] = true
        waiting_tokens, waiting_count = waiting_tokens + tokens, waiting_count + #members
      else
        if open then
          plan.gone[record.group] = true
        end
        for _, member in ipairs(members) do
          plan.evict[member] = log[member]
          plan.bytes = plan.bytes + log[member].bytes
        end
        plan.n, plan.tokens = plan.n + #members, plan.tokens + tokens
        over_tokens, over_count = over_tokens - tokens, over_count - #members
      end
    end
  end
  plan.over = over_tokens > 0 or over_count > 0
  plan.hopeless = over_tokens > waiting_tokens or over_count > waiting_count
  return plan
end

-- Take the records of a plan out: those at the head in one cut, the others by value (each is unique by its seq).
local function evict(state, plan)
  local head = 0
  while plan.evict[head + 1] do
    head = head + 1
  end
  if head > 0 then
    call('LTRIM', LOG, head, -1)
  end
  if head < plan.n then
    for index, record in pairs(plan.evict) do
      if index > head then
        call('LREM', LOG, 1, record.value)
      end
    end
  end
  state.tokens, state.count = state.tokens - plan.tokens, state.count - plan.n
  state.bytes, state.dropped = state.bytes - plan.bytes, state.dropped + plan.n
end
