-- lib/calls: tool calls that wait for their result, fields of `:meta`: o:<digest of the call> -> group, then p if protected.
-- Forget the calls that wait in these groups; or, with `protected`, say in them whether their group is.
local function settle_calls(groups, protected)
  if not next(groups) then
    return
  end
  local fields = call('HGETALL', META)
  for at = 1, #fields, 2 do
    if string.sub(fields[at], 1, 2) == 'o:' then
      local group = string.match(fields[at + 1], '^%d+')
      if groups[tonumber(group)] then
        if protected == nil then
          call('HDEL', META, fields[at])
        else
          call('HSET', META, fields[at], group .. (protected and 'p' or ''))
        end
      end
    end
  end
end
