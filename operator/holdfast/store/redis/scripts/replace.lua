#!lua
-- replace: remove all records and add others in their place, in a new epoch, atomically.
-- uses: state, terms, ids, interrupted, caller, records, mend, calls, backstop, protect, history
-- then: append
-- KEYS  meta log pin ids hist
-- ARGV  as of append; no records leave the session empty
-- Returns as append does. Ids stay known, so that a late retry puts nothing back.
caller.empty = function(state, tokens)
  local seqs = {}
  for _, key in ipairs({ LOG, PIN }) do
    for _, value in ipairs(call('LRANGE', key, 0, -1)) do
      seqs[#seqs + 1] = parse_record(value).seq
    end
  end
  if #seqs > 0 then
    table.sort(seqs)
    note(state, 'replace', seqs, tokens, 0)
  end
  call('UNLINK', LOG, PIN)
  for _, field in ipairs(call('HKEYS', META)) do
    if string.find(field, '^[ao]:') then
      call('HDEL', META, field)
    end
  end
  state.epoch = math.max(now_us, state.epoch + 1)
end
