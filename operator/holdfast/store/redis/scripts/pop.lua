#!lua flags=allow-oom
-- pop: take the newest record out.
-- uses: state, calls
-- KEYS  meta log pin ids hist
-- ARGV  1 caller: token|epoch|seen|0   2 terms, packed   3 seq the caller expects   4 digests of the calls it makes
--       5 digests of the calls it answers
-- Returns {OK, records taken (0 when another record is the newest now), epoch}, or a refusal as append.
local caller, terms, expected = parse_caller(ARGV[1]), parse_terms(ARGV[2]), tonumber(ARGV[3])
local state = load_state()
if not state.exists or replaces_tombstone(state, terms) then
  return { caller.token ~= '' and 'LEASELOST' or 'OK', 0, 0 }
end
local refused = refuse(state, caller, terms, false)
if refused then
  return refused
end
local key, newest
for _, list in ipairs({ LOG, PIN }) do
  local value = redis.call('LINDEX', list, -1)
  if value then
    local record = parse_record(value)
    if not newest or record.seq > newest.seq then
      key, newest = list, record
    end
  end
end
if not newest or newest.seq ~= expected then
  return { 'OK', 0, state.epoch }
end

redis.call('RPOP', key)
state.tokens, state.count = state.tokens - newest.tokens, state.count - 1
state.bytes, state.version, state.shape = state.bytes - newest.bytes, state.version + 1, state.shape + 1
if key == PIN then
  state.pinned, state.pinned_tokens = state.pinned - 1, state.pinned_tokens - newest.tokens
  redis.call('HSET', META, 'p', p_field(state))
end
for call in string.gmatch(ARGV[4], '%x+') do
  redis.call('HDEL', META, 'o:' .. call)
end
-- What an answer leaves is an unanswered call again; an orphan never was one.
if newest.closes > 0 then
  for call in string.gmatch(ARGV[5], '%x+') do
    redis.call('HSET', META, 'o:' .. call, newest.group .. (key == PIN and 'p' or ''))
  end
end
-- It began its group, and the others of it were newer: nobody can answer there any more.
if newest.seq == newest.group then
  forget_calls({ [newest.group] = true })
end
state.revision = math.max(state.revision, terms.revision)
if terms.refresh % 2 == 1 then
  refresh(state, terms, terms.ttl, 'ttl')
end
redis.call('HSET', META, 'k', k_field(state), 's', s_field(state), 'x', x_field(state))
expire_all(state)
return { 'OK', 1, state.epoch }
