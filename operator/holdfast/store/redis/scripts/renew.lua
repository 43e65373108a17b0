#!lua flags=allow-oom
-- renew: lengthen the lease by its TTL; counts as a write for the session's expiry.
-- uses: state, lease
-- KEYS  meta log pin ids hist
-- ARGV  1 token   2 terms, packed   3 epoch
-- Returns {OK, policy revision the session has seen}, LEASELOST or EPOCH.
local token, terms = ARGV[1], parse_terms(ARGV[2])
local state = load_state()
if state.token ~= token or state.till <= now then
  return { 'LEASELOST' }
end
if tonumber(ARGV[3]) ~= state.epoch then
  return { 'EPOCH', state.epoch }
end
state.till = now + terms.lease
-- Terms that are older than the session's must not bring an old expiry back.
if terms.revision >= state.revision and terms.refresh % 2 == 1 then
  refresh(state, terms, terms.ttl, 'ttl')
else
  keep_alive(state, terms)
end
redis.call('HSET', META, 'l', l_field(state), 'x', x_field(state))
expire_all(state)
return { 'OK', state.revision }
