#!lua flags=allow-oom
-- release: end the lease or leave the line; hand the turn to the next in line. Safe to repeat.
-- uses: state, lease
-- KEYS  meta log pin ids hist q
-- ARGV  1 token   2 terms, packed
-- Returns {OK, 1 if the lease was held by this token}.
local token, terms = ARGV[1], parse_terms(ARGV[2])
redis.call('ZREM', QUEUE, token)
redis.call('DEL', WAKE .. token)
local state = load_state()
if not state.exists or state.token ~= token then
  return { 'OK', 0 }
end
hand_over(state, terms)
return { 'OK', 1 }
