#!lua flags=allow-oom
-- erase: remove every key of a session. For a while `:meta` keeps `e`, until when a repetition of what was sent before is
-- refused, and `r`, the answer for a repetition of the erasure itself. To all others the session does not exist.
-- uses: state, terms
-- KEYS  meta log pin ids hist q                                  (waiters' lists of the same slot are found by q)
-- ARGV  1 terms   2 milliseconds for which repetitions are refused   3 1 to erase while somebody holds an enforced lease
--       4 what tells this erasure from others
-- Returns {OK, numbers joined by |: 1 if there was a session, epoch, last seq, messages, bytes; its labels, joined by
-- commas}, BUSY, STALEPOLICY or LAYOUT. What cannot be read is erased as well, and not counted.
local readable, state = pcall(load_state, terms.revision)
-- Whoever may write to the session may write any number: one that no session has must not become a receipt's.
for _, name in ipairs({ 'epoch', 'next', 'count', 'bytes', 'revision' }) do
  readable = readable and state[name] >= 0 and state[name] <= 2 ^ 53
end
if not readable then
  state = { exists = false, token = '', till = 0, revision = 0, layout = LAYOUT }
end
local labels, mark, answer = {}, nil, nil
local fields = redis.pcall('HGETALL', META)
for at = 1, #fields, 2 do
  if string.sub(fields[at], 1, 2) == 'b:' then
    labels[#labels + 1] = string.match(fields[at], '^b:(%x+)$')
  elseif fields[at] == 'e' then
    mark = fields[at + 1]
  elseif fields[at] == 'r' then
    answer = string.match(fields[at + 1], '^' .. ARGV[4] .. '|(.+)$')
  end
end
if answer and not state.exists then
  call('PEXPIREAT', META, mark) -- without effect: replicas confirm a write, and this connection may have made none
  return { 'OK', answer, '' }
end
if state.layout > LAYOUT then
  return { 'LAYOUT', state.layout }
end
if terms.enforced and ARGV[3] ~= '1' and state.till > now and state.token ~= '' then
  return { 'BUSY', state.till - now, call('HGET', META, 'h') or '' }
end
if terms.revision < state.revision then
  return { 'STALEPOLICY', state.revision }
end

local wake = string.sub(META, 1, -5) .. 'w:'
for _, token in ipairs(redis.pcall('ZRANGE', KEYS[6], 0, -1)) do
  call('UNLINK', wake .. token)
end
call('UNLINK', wake .. state.token)
answer = '0|0|0|0|0'
if state.exists then
  answer = format('1|%.0f|%d|%d|%d', state.epoch, state.next - 1, state.count, state.bytes)
end
-- Where there is nothing but the mark of an erasure before, that one stays as it is.
if call('UNLINK', unpack(KEYS)) > (mark and not state.exists and 1 or 0) then
  mark = format('%d', now + tonumber(ARGV[2]))
end
if mark then
  call('HSET', META, 'e', mark, 'r', ARGV[4] .. '|' .. answer)
  call('PEXPIREAT', META, mark)
else
  -- A replica may have what is gone here. It confirms a write of this connection, so there has to be one.
  call('HSET', META, 'e', '0')
  call('UNLINK', META)
end
return { 'OK', answer, table.concat(labels, ',') }
