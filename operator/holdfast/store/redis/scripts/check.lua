#!lua flags=no-writes
-- check: see whether every key of a session has the one expiry that its meta says. Writes nothing, and mostly says OK:
-- it runs for every session there is, so it reads no more of the state than it needs.
-- KEYS  meta log pin ids hist
-- ARGV  nothing
-- Returns {OK, k}, {WRONG, keys with another expiry or none, k}, {BURIED} or {WRONG, keys} of a tombstone, {GONE} when
-- there is no key, {STRAY, keys without an expiry, keys} when the counters are gone, {BROKEN, keys without an expiry, keys}
-- when they are none of ours, or {LAYOUT, layout}.
-- Lengths and places are those of lib/state.
local call = redis.call
local fields = redis.pcall('HMGET', KEYS[1], 'k', 's')
local k, s = fields[1], fields[2]
if not k or not s or #s ~= 49 or #k ~= 64 then
  local immortal, there = 0, 0
  for n = 1, 5 do
    local at = call('PEXPIRETIME', KEYS[n])
    there = at == -2 and there or there + 1
    immortal = at == -1 and immortal + 1 or immortal
  end
  if there == 0 then
    return { 'GONE' }
  end
  return { (k or fields.err) and 'BROKEN' or 'STRAY', immortal, there }
end
local layout, rule = string.byte(s, 1, 2)
if layout ~= 1 then
  return { 'LAYOUT', layout }
end
local x, wrong = struct.unpack('<d', s, 34), 0
for n = 1, 5 do
  local at = call('PEXPIRETIME', KEYS[n])
  if at ~= x and at ~= -2 then
    wrong = wrong + 1
  end
end
if rule == 6 then
  return wrong > 0 and { 'WRONG', wrong } or { 'BURIED' }
end
if wrong > 0 then
  return { 'WRONG', wrong, k }
end
return { 'OK', k }
