-- lib/interrupted: turns that were taken from their holders; field `i` of `:meta` is until ms|start of each token.
-- Whether the turn was taken from this token, and its time would not be over yet. Asked on refusing only.
local function interrupted(token)
  local noted = call('HGET', META, 'i')
  local till = noted and tonumber(string.match(noted, '^%d+')) or 0
  return till > now and string.find(noted, '|' .. string.sub(token, 1, 8), 1, true) ~= nil
end
