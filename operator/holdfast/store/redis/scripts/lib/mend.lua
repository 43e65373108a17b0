-- lib/mend: something outside may remove records or counters, as a server does that evicts keys.
-- True where the lists are not what the counters say. Then what is left was counted; what is missing counts as dropped,
-- and no sequence number is given out again.
local function mend(state)
  if call('LLEN', LOG) == state.count - state.pinned and call('LLEN', PIN) == state.pinned then
    return false
  end
  local before = state.count
  state.tokens, state.count, state.bytes, state.pinned, state.pinned_tokens = 0, 0, 0, 0, 0
  for _, key in ipairs({ LOG, PIN }) do
    for _, value in ipairs(call('LRANGE', key, 0, -1)) do
      local record = parse_record(value)
      state.next = math.max(state.next, record.seq + 1)
      state.tokens, state.count, state.bytes = state.tokens + record.tokens, state.count + 1, state.bytes + record.bytes
      if key == PIN then
        state.pinned, state.pinned_tokens = state.pinned + 1, state.pinned_tokens + record.tokens
      end
    end
  end
  state.dropped = state.dropped + math.max(0, before - state.count)
  return true
end
