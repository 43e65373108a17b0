-- lib/history: what left, when and by which rule; entries of `:hist`, oldest first, none of them with content:
-- [at ms,"rule",first seq,last seq,records,tokens,seq of the summary or 0,"ranges of seqs"]
-- What the backstop drops is not written down: what neither lives nor is in the history was dropped by a limit.
local ENTRY = '[%d,"%s",%d,%d,%d,%d,%d,"%s"]'

-- Add an entry. Beyond 256 of them the two oldest become one, whose ranges are only its first and last.
local function enter(entry)
  if call('RPUSH', HIST, entry) > 256 then
    local sums = { 0, 0 }
    local low, high, at, rules, rule = nil, 0, 0, {}, nil
    for _, old in ipairs(call('LRANGE', HIST, 0, 1)) do
      local moment, name, from, to, count, size = string.match(old, '^%[(%d+),"([^"]*)",(%d+),(%d+),(%d+),(%d+),')
      low, high, at = math.min(low or tonumber(from), tonumber(from)), math.max(high, tonumber(to)), moment
      sums[1], sums[2] = sums[1] + count, sums[2] + size
      rules[name] = true
      rule = name
    end
    rule = next(rules, next(rules)) and 'several' or rule
    call('LTRIM', HIST, 2, -1)
    call('LPUSH', HIST, format(ENTRY, at, rule, low, high, sums[1], sums[2], 0, ''))
  end
end

-- seqs ascending.
local function note(state, rule, seqs, tokens, summary)
  local ranges, first = {}, 1
  for n = 1, #seqs do
    if n == #seqs or seqs[n + 1] ~= seqs[n] + 1 then
      ranges[#ranges + 1] = format(first == n and '%d' or '%d-%d', seqs[first], seqs[n])
      first = n + 1
    end
  end
  local text = table.concat(ranges, ',')
  enter(format(ENTRY, now, rule, seqs[1], seqs[#seqs], #seqs, tokens, summary, #text <= 512 and text or ''))
  state.hist = 1
end
