#!lua flags=allow-oom
-- pop: take the newest record out.
-- uses: state, terms, interrupted, caller, records, calls, history
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 caller   3 seq the caller expects   4 digests of the calls it makes   5 digests of the calls it answers
-- Returns {OK, records taken (0 when another record is the newest now), epoch}, or a refusal as append.
local expected = tonumber(ARGV[3])
local state = load_state(terms.revision)
if not state.exists then
  return { caller.token ~= '' and 'LEASELOST' or 'OK', 0, 0 }
end
local refused = refuse(state, false)
if refused then
  return refused
end
local key, newest
for _, list in ipairs({ LOG, PIN }) do
  local value = call('LINDEX', list, -1)
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

call('RPOP', key)
state.tokens, state.count = state.tokens - newest.tokens, state.count - 1
state.bytes, state.version = state.bytes - newest.bytes, state.version + 1
if key == PIN then
  state.pinned, state.pinned_tokens = state.pinned - 1, state.pinned_tokens - newest.tokens
end
for name in string.gmatch(ARGV[4], '%x+') do
  call('HDEL', META, 'o:' .. name)
end
-- What an answer leaves is an unanswered call again; an orphan never was one.
if newest.closes > 0 then
  for name in string.gmatch(ARGV[5], '%x+') do
    call('HSET', META, 'o:' .. name, format('%d', newest.group) .. (key == PIN and 'p' or ''))
  end
end
-- It began its group, and the others of it were newer: nobody can answer there any more.
if newest.seq == newest.group then
  settle_calls({ [newest.group] = true })
end
note(state, 'pop', { newest.seq }, newest.tokens, 0)
state.revision = math.max(state.revision, terms.revision)
if terms.on_write then
  refresh(state, terms.ttl, TTL)
end
save_state(state)
expire_all(state)
return { 'OK', 1, state.epoch }
