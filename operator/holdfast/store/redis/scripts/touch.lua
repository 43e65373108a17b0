#!lua flags=allow-oom
-- touch: a read renews the expiry, where the policy says so.
-- uses: state
-- KEYS  meta log pin ids hist
-- ARGV  1 terms, packed
-- Returns {OK}.
local terms = parse_terms(ARGV[1])
local state = load_state()
if state.exists and terms.revision >= state.revision and not replaces_tombstone(state, terms) then
  refresh(state, terms, terms.ttl, 'ttl')
  redis.call('HSET', META, 'x', x_field(state))
  expire_all(state)
end
return { 'OK' }
