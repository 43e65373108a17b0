-- The health of objects of holdfast.dev for Argo CD; for all kinds alike. In the ConfigMap argocd-cm:
--   resource.customizations.health.holdfast.dev_MemoryBackend: |    and so for MemoryResource and MemoryErasure
-- What needs a person is Degraded, what heals or goes on by itself is Progressing.
local function condition(type)
  local conditions = obj.status ~= nil and obj.status.conditions or {}
  for _, found in ipairs(conditions) do
    if found.type == type then
      return found
    end
  end
  return { status = "Unknown", reason = "Pending", message = "Waiting for the operator" }
end

local function health(status, found)
  return { status = status, message = found.reason .. ": " .. found.message }
end

for _, rule in ipairs({ { "Paused", "Suspended" }, { "Stalled", "Degraded" }, { "Reconciling", "Progressing" } }) do
  local found = condition(rule[1])
  if found.status == "True" then
    return health(rule[2], found)
  end
end
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "Waiting for the operator" }
end
local ready = condition("Ready")
return health(ready.status == "True" and "Healthy" or "Progressing", ready)
