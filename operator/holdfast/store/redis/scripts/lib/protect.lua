-- lib/protect: whole groups are protected or not. Every record of the protected list has a flag that says so: 1 for a
-- system message, 2 for what is pinned or belongs to the group of one of both. Both lists are ordered by seq.
-- Move the records of these groups to the other list, each before the first one that is newer. Returns how many.
local function move_groups(state, groups, from, to)
  local others, moved = {}, 0
  for n, value in ipairs(call('LRANGE', to, 0, -1)) do
    others[n] = parse_record(value)
  end
  for _, value in ipairs(call('LRANGE', from, 0, -1)) do
    local record = parse_record(value)
    if groups[record.group] then
      local changed, pivot, wanted = value, nil, to == PIN
      if record.flags % 2 == 0 and (math.floor(record.flags / 2) % 2 == 1) ~= wanted then
        local flags = format('%d', record.flags + (wanted and 2 or -2))
        changed = string.gsub(value, '^(%[%d+,)%d+', '%1' .. flags, 1)
      end
      for _, other in ipairs(others) do
        if other.seq > record.seq then
          pivot = other.value
          break
        end
      end
      call('LREM', from, 1, value)
      if pivot then
        call('LINSERT', to, 'BEFORE', pivot, changed)
      else
        call('RPUSH', to, changed)
      end
      local sign = wanted and 1 or -1
      state.pinned, state.pinned_tokens = state.pinned + sign, state.pinned_tokens + sign * record.tokens
      state.bytes = state.bytes + #changed - record.bytes
      moved = moved + 1
    end
  end
  return moved
end
