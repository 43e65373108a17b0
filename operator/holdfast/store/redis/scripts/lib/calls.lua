-- lib/calls: tool calls that wait for their result, fields of `:meta`: o:<digest of the call> -> group, then p if protected.

-- Forget calls that wait in a group that has left.
local function forget_calls(gone)
  if not next(gone) then
    return
  end
  local fields = redis.call('HGETALL', META)
  for at = 1, #fields, 2 do
    if string.sub(fields[at], 1, 2) == 'o:' then
      if gone[tonumber(string.match(fields[at + 1], '^%d+'))] then
        redis.call('HDEL', META, fields[at])
      end
    end
  end
end

-- Say in the open calls of these groups whether the group is protected.
local function mark_calls(groups, protected)
  local fields = redis.call('HGETALL', META)
  for at = 1, #fields, 2 do
    if string.sub(fields[at], 1, 2) == 'o:' then
      local group = string.match(fields[at + 1], '^%d+')
      if groups[tonumber(group)] then
        redis.call('HSET', META, fields[at], group .. (protected and 'p' or ''))
      end
    end
  end
end
