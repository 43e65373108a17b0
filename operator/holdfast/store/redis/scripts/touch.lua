#!lua flags=allow-oom
-- touch: a read renews the expiry, where the policy says so, and notes when groups were read (fields a:<group> of `:meta`).
-- uses: state, terms
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 groups, joined by commas, where the policy keeps what is used
-- Returns {OK}.
local state = load_state(terms.revision)
if state.exists and state.layout == LAYOUT and terms.revision >= state.revision then
  local groups = ARGV[2] or ''
  for group in string.gmatch(groups, '%d+') do
    call('HSET', META, 'a:' .. group, format('%d', now))
  end
  if groups ~= '' then
    -- The limits drop the oldest groups without a look at these fields.
    local oldest = tonumber(string.match(call('LINDEX', LOG, 0) or '', '^%[%d+,%d+,%d+,%d+,(%d+),') or state.next)
    for _, field in ipairs(call('HKEYS', META)) do
      local group = string.match(field, '^a:(%d+)$')
      if group and tonumber(group) < oldest then
        call('HDEL', META, field)
      end
    end
  end
  if terms.on_read then
    refresh(state, terms.ttl, TTL)
    save_state(state)
    expire_all(state)
  end
end
return { 'OK' }
