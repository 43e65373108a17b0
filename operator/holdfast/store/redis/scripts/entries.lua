#!lua flags=no-writes
-- entries: a part of the walk over an index, and its size. A tenant may put names of any length there, which would be
-- held in the memory of whoever walks: what is too long for a session's name is passed by.
-- KEYS  sessions
-- ARGV  1 cursor   2 about how many places to look at   3 bytes of the longest name
-- Returns {where it goes on, {name, score...}, entries that there are}.
local found, longest = redis.call('ZSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2]), tonumber(ARGV[3])
local entries, kept = found[2], 0
local there = #entries
for n = 1, there, 2 do
  if #entries[n] <= longest then
    entries[kept + 1], entries[kept + 2] = entries[n], entries[n + 1]
    kept = kept + 2
  end
end
for n = kept + 1, there do
  entries[n] = nil
end
return { found[1], entries, redis.call('ZCARD', KEYS[1]) }
