-- lib/protect: whole groups are protected or not. Every record of the protected list has a flag that says so: 1 for a
-- system message, 2 for what is pinned or belongs to the group of one of both. Both lists are ordered by seq.

-- The record with the pinned flag set or cleared; system messages need none.
local function with_pin(record, wanted)
  local system, pinned = record.flags % 2 == 1, math.floor(record.flags / 2) % 2 == 1
  if system or pinned == wanted then
    return record
  end
  local flags = int(record.flags + (wanted and 2 or -2))
  return parse_record((string.gsub(record.value, '^(%[%d+,)%d+', '%1' .. flags, 1)))
end

-- Move the records of these groups to the other list, each before the first one that is newer. Returns how many.
local function move_groups(state, groups, from, to)
  local others, moved = {}, 0
  for n, value in ipairs(redis.call('LRANGE', to, 0, -1)) do
    others[n] = parse_record(value)
  end
  for _, value in ipairs(redis.call('LRANGE', from, 0, -1)) do
    local record = parse_record(value)
    if groups[record.group] then
      local changed, pivot = with_pin(record, to == PIN), nil
      for _, other in ipairs(others) do
        if other.seq > record.seq then
          pivot = other.value
          break
        end
      end
      redis.call('LREM', from, 1, value)
      if pivot then
        redis.call('LINSERT', to, 'BEFORE', pivot, changed.value)
      else
        redis.call('RPUSH', to, changed.value)
      end
      local sign = to == PIN and 1 or -1
      state.pinned, state.pinned_tokens = state.pinned + sign, state.pinned_tokens + sign * record.tokens
      state.bytes = state.bytes + changed.bytes - record.bytes
      moved = moved + 1
    end
  end
  return moved
end
