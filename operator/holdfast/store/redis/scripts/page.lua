#!lua flags=no-writes
-- page: records with a sequence number above a given one. Both lists are ordered by seq, so a binary search finds the place.
-- uses: state, records
-- KEYS  meta log pin ids hist
-- ARGV  1 seq, exclusive   2 limit
-- Returns {records of the log, protected records, the fields of meta, the time, groups with a waiting tool call,
-- group of the newest record}: of both kinds of records at most `limit`.
local after, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local function above(key)
  local low, high = 0, call('LLEN', key)
  while low < high do
    local middle = math.floor((low + high) / 2)
    if parse_record(call('LINDEX', key, middle)).seq > after then
      high = middle
    else
      low = middle + 1
    end
  end
  return call('LRANGE', key, low, low + limit - 1)
end
local newest = { seq = 0, group = 0 }
for _, key in ipairs({ LOG, PIN }) do
  local value = call('LINDEX', key, -1)
  local record = value and parse_record(value)
  if record and record.seq > newest.seq then
    newest = record
  end
end
local waiting, fields = {}, call('HGETALL', META)
for at = 1, #fields, 2 do
  if string.sub(fields[at], 1, 2) == 'o:' then
    waiting[#waiting + 1] = tonumber(string.match(fields[at + 1], '^%d+'))
  end
end
return { above(LOG), above(PIN), call('HMGET', META, 'k', 's', 'l', 'h'), clock, waiting, newest.group }
