-- lib/shorten: the expiry of a live session under an edited policy.
-- The specification is holdfast.planning.plan_shortened; a property test holds the two together.
local function shorten(state, grace)
  local own = state.rule == AFTER_CLEAR and terms.after_clear or state.rule == AFTER_FLUSH and terms.after_flush or 0
  local at, rule = state.touched + (own > 0 and own or terms.ttl), own > 0 and state.rule or TTL
  local held = state.till > now and state.till or 0
  if held > at then
    at, rule = held, LEASE
  end
  if terms.lifetime > 0 and state.created + terms.lifetime < at then
    at, rule = state.created + terms.lifetime, LIFETIME
  end
  state.x, state.rule = math.max(at, math.min(state.x, now + grace)), rule
end
