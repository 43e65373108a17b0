#!lua flags=allow-oom
-- clear: remove all records and begin a new epoch. The ids stay known, so that a late retry puts nothing back.
-- uses: state, terms, interrupted, caller, history
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 caller   3 1 to clear although somebody else holds an enforced lease
-- Returns {OK, records removed, epoch}, or a refusal as append.
local state = load_state(terms.revision)
if not state.exists then
  return { caller.token ~= '' and 'LEASELOST' or 'OK', 0, 0 }
end
local refused = refuse(state, ARGV[3] == '1')
if refused then
  return refused
end

local removed = state.count
local seqs = {}
-- Clearing is the way out where something else wrote to the session: what cannot be read leaves unnoted.
for _, key in ipairs({ LOG, PIN }) do
  for _, value in ipairs(redis.pcall('LRANGE', key, 0, -1)) do
    seqs[#seqs + 1] = tonumber(string.match(value, '^%[%d+,%d+,(%d+),'))
  end
end
if #seqs > 0 then
  table.sort(seqs)
  note(state, 'clear', seqs, state.tokens, 0)
end
call('UNLINK', LOG, PIN)
for _, field in ipairs(call('HKEYS', META)) do
  local kind = string.sub(field, 1, 2)
  if kind == 'o:' or kind == 'a:' then
    call('HDEL', META, field)
  end
end
state.tokens, state.count, state.bytes, state.pinned, state.pinned_tokens = 0, 0, 0, 0, 0
state.version = state.version + 1
state.epoch = math.max(now_us, state.epoch + 1)
state.revision = math.max(state.revision, terms.revision)
if terms.after_clear > 0 then
  refresh(state, terms.after_clear, AFTER_CLEAR)
else
  refresh(state, terms.ttl, TTL)
end
save_state(state)
expire_all(state)
return { 'OK', removed, state.epoch }
