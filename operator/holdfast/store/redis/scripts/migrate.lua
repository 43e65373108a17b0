#!lua
-- migrate: bring a session of an older layout to this version's, step by step and as one change. Safe to repeat.
-- uses: layouts
-- KEYS  meta log pin ids hist
-- ARGV  1 this version's layout
-- Returns {DONE}, {SAME}, {GONE}, or {LAYOUT, layout} when it is newer, or no step leads on from it.
local wanted = tonumber(ARGV[1])
local function layout()
  return string.byte(redis.call('HGET', KEYS[1], 's') or '')
end
local found = layout()
if not found then
  return { 'GONE' }
end
if found == wanted then
  return { 'SAME' }
end
for from = found, wanted - 1 do
  if not STEPS[from] then
    return { 'LAYOUT', found }
  end
end
if found > wanted then
  return { 'LAYOUT', found }
end
while layout() < wanted do
  STEPS[layout()]()
end
return { 'DONE' }
