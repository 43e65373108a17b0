#!lua flags=allow-oom
-- flusher: be the one who flushes a session, for some time; or stop being it. Field `f` of `:meta` is until ms|token.
-- uses: state
-- KEYS  meta log pin ids hist
-- ARGV  1 token   2 milliseconds; 0 to stop
-- Returns {OK, 1 if the token is the flusher's now, 0 if not}.
local token, milliseconds = ARGV[1], tonumber(ARGV[2])
local state, noted = load_state(), call('HGET', META, 'f')
local till, owner = string.match(noted or '', '^(%d+)|(.+)$')
local free = not till or tonumber(till) <= now
if not state.exists or state.rule == BURIED then
  return { 'OK', 0 }
end
if milliseconds == 0 then
  if owner == token then
    call('HDEL', META, 'f')
  end
  return { 'OK', 0 }
end
if not free and owner ~= token then
  return { 'OK', 0 }
end
call('HSET', META, 'f', format('%d|%s', now + milliseconds, token))
return { 'OK', 1 }
