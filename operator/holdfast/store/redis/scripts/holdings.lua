#!lua flags=no-writes
-- holdings: the counters and times of a session, if they have their length: a tenant may put anything there.
-- KEYS  meta
-- ARGV  nothing
-- Returns {OK, k, s}, {GONE} where there is no session or only a tombstone, {BROKEN}, or {LAYOUT, layout}.
local fields = redis.call('HMGET', KEYS[1], 'k', 's')
local k, s = fields[1], fields[2]
if not k then
  return { 'GONE' }
end
local layout, rule = string.byte(s or '', 1, 2)
if layout and layout ~= 1 and layout < 32 then  -- a higher one is text, which something else wrote
  return { 'LAYOUT', layout }
end
if not s or #s ~= 49 or #k ~= 64 then
  return { 'BROKEN' }
end
if rule == 6 then
  return { 'GONE' }
end
return { 'OK', k, s }
