#!lua flags=no-writes
-- scan: a part of the walk over the keys of one server. Names that are too long for any of ours are passed by, as in
-- entries: a tenant may make keys of any length.
-- KEYS  none
-- ARGV  1 cursor   2 pattern   3 about how many places to look at   4 bytes of the longest name
-- Returns {where it goes on, {key...}}.
local found, kept, longest = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3]), {}, tonumber(ARGV[4])
for _, key in ipairs(found[2]) do
  if #key <= longest then
    kept[#kept + 1] = key
  end
end
return { found[1], kept }
