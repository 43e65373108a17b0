#!lua flags=no-writes
-- tail: the protected records and, from the end, the others until a number of tokens is exceeded.
-- uses: state
-- KEYS  meta log pin ids hist
-- ARGV  1 tokens
-- Returns {the fields of meta, protected records, newest others in order, 1 if they are all, the time}.
local budget = tonumber(ARGV[1])
local fields = call('HMGET', META, 'k', 's', 'l', 'h')
local pieces, sum, last = {}, 0, -1
local complete = false
while sum <= budget do
  local values = call('LRANGE', LOG, last - 31, last)
  for n = #values, 1, -1 do
    sum = sum + tonumber(string.match(values[n], '^%[(%d+)'))
  end
  pieces[#pieces + 1] = values
  if #values < 32 then
    complete = true
    break
  end
  last = last - 32
end
local records = {}
for n = #pieces, 1, -1 do
  for _, value in ipairs(pieces[n]) do
    records[#records + 1] = value
  end
end
return { fields, call('LRANGE', PIN, 0, -1), records, complete and 1 or 0, clock }
