#!lua flags=allow-oom
-- expire: give every key of a session the one expiry that its meta says. Looks anew: what was seen before may be over.
-- uses: state
-- KEYS  meta log pin ids hist
-- ARGV  1 milliseconds that a session has left which should have ended   2 milliseconds for keys of a session whose
--       counters are gone or none of ours, where they have no expiry at all
-- Returns {OK, keys that were set right} or {LAYOUT, layout}.
local readable, state = pcall(load_state)
if readable and state.layout ~= LAYOUT then
  return { 'LAYOUT', state.layout }
end
local at
if readable and state.exists then
  if state.x <= now then
    state.x = now + tonumber(ARGV[1])
    save_state(state)
  end
  at = state.x
end
local repaired = 0
for n = 1, 5 do
  local has = call('PEXPIRETIME', KEYS[n])
  if at and has ~= -2 and has ~= at then
    call('PEXPIREAT', KEYS[n], format('%d', at))
    repaired = repaired + 1
  elseif not at and has == -1 then
    call('PEXPIRE', KEYS[n], ARGV[2])
    repaired = repaired + 1
  end
end
return { 'OK', repaired }
