-- lib/expiry: the expiry of a live session under an edited policy.
-- The specification is holdfast.planning.plan_shortened; a property test holds the two together.
local function plan_shortened(state, terms, grace)
  local own = state.rule == 'afterClear' and terms.after_clear or state.rule == 'afterFlush' and terms.after_flush or 0
  local at, rule = state.touched + (own > 0 and own or terms.ttl), own > 0 and state.rule or 'ttl'
  local held = state.till > now and state.till or 0
  if held > at then
    at, rule = held, 'lease'
  end
  if terms.lifetime > 0 and state.created + terms.lifetime < at then
    at, rule = state.created + terms.lifetime, 'maxLifetime'
  end
  state.x, state.rule = math.max(at, math.min(state.x, now + grace)), rule
end
