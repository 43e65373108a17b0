#!lua flags=allow-oom
-- renew: lengthen the lease by its TTL; counts as a write for the session's expiry.
-- uses: state, terms, interrupted, lease
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 token   3 epoch   4 holder as shown to others, empty to leave it
-- Returns {OK, policy revision the session has seen}, LEASELOST, INTERRUPTED, LAYOUT or EPOCH.
local token, holder = ARGV[2], ARGV[4]
local state = load_state()
if state.token ~= token or state.till <= now then
  return { interrupted(token) and 'INTERRUPTED' or 'LEASELOST' }
end
if state.layout ~= LAYOUT then
  return { 'LAYOUT', state.layout }
end
if tonumber(ARGV[3]) ~= state.epoch then
  return { 'EPOCH', state.epoch }
end
state.till = now + terms.lease
-- Terms that are older than the session's must not bring an old expiry back.
if terms.revision >= state.revision and terms.on_write then
  refresh(state, terms.ttl, TTL)
else
  keep_alive(state)
end
if holder ~= '' then
  call('HSET', META, 'h', holder)
end
save_lease(state)
save_state(state)
expire_all(state)
return { 'OK', state.revision }
