#!lua flags=allow-oom
-- release: end the lease or leave the line; hand the turn to the next in line. Safe to repeat.
-- uses: state, terms, lease
-- KEYS  meta log pin ids hist q w:<token>
-- ARGV  1 terms   2 token   3 1 if an acquire of this token may come yet, which must find nothing
-- Returns {OK, 1 if the lease was held by this token}.
local token = ARGV[2]
call('ZREM', QUEUE, token)
call('DEL', KEYS[7])
if ARGV[3] == '1' then
  call('RPUSH', KEYS[7], GONE)
  call('PEXPIRE', KEYS[7], 60000)
end
local state = load_state()
if not state.exists or state.token ~= token then
  return { 'OK', 0 }
end
hand_over(state)
return { 'OK', 1 }
