#!lua flags=allow-oom
-- clear: remove all records and begin a new epoch. The ids stay known, so that a late retry puts nothing back.
-- uses: state
-- KEYS  meta log pin ids hist
-- ARGV  1 caller: token|epoch|seen|0   2 terms, packed   3 1 to clear although somebody else holds an enforced lease
-- Returns {OK, records removed, epoch}, or a refusal as append.
local caller, terms = parse_caller(ARGV[1]), parse_terms(ARGV[2])
local state = load_state()
if not state.exists or replaces_tombstone(state, terms) then
  return { caller.token ~= '' and 'LEASELOST' or 'OK', 0, 0 }
end
local refused = refuse(state, caller, terms, ARGV[3] == '1')
if refused then
  return refused
end

redis.call('UNLINK', LOG, PIN)
local removed = state.count
local fields = redis.call('HKEYS', META)
for _, field in ipairs(fields) do
  if string.sub(field, 1, 2) == 'o:' or field == 'p' then
    redis.call('HDEL', META, field)
  end
end
state.tokens, state.count, state.bytes, state.pinned, state.pinned_tokens = 0, 0, 0, 0, 0
state.version, state.shape = state.version + 1, state.shape + 1
state.epoch = math.max(now_us, state.epoch + 1)
state.revision = math.max(state.revision, terms.revision)
refresh(state, terms, terms.after_clear > 0 and terms.after_clear or terms.ttl, terms.after_clear > 0 and 'afterClear' or 'ttl')
redis.call('HSET', META, 'k', k_field(state), 's', s_field(state), 'x', x_field(state))
expire_all(state)
return { 'OK', removed, state.epoch }
