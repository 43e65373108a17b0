#!lua flags=allow-oom
-- touch: a read renews the expiry, where the policy says so, and notes when groups were read (fields a:<group> of `:meta`).
-- uses: state, terms
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 groups, joined by commas, where the policy keeps what is used
-- Returns {OK}; or {DUE, label...} once in half an idle time: then the caller notes the session in the memory's indexes, which
-- are in another slot, under the labels that it has. Writers do so by themselves, and of a session that is only read they
-- would lose sight. Field `i` of `:meta` is when it was last asked for.
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
    if now - (tonumber(call('HGET', META, 'i') or '') or 0) > terms.ttl / 2 then
      call('HSET', META, 'i', format('%d', now))
      local reply = { 'DUE' }
      for _, field in ipairs(call('HKEYS', META)) do
        reply[#reply + 1] = string.match(field, '^b:(%x+)$')
      end
      return reply
    end
  end
end
return { 'OK' }
