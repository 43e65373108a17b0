#!lua flags=allow-oom
-- bury: replace a session by a tombstone: an empty session of a new epoch, whose revision refuses those who still write
-- under the deleted policy. What is not ours among its keys goes as well.
-- uses: state
-- KEYS  meta log pin ids hist q
-- ARGV  1 revision of the deletion   2 milliseconds the tombstone lives
-- Returns {DONE}, {SAME} when it was buried before, {GONE}, or {NEWER, revision} when the memory was made again.
local revision = tonumber(ARGV[1])
if call('EXISTS', unpack(KEYS)) == 0 then
  return { 'GONE' }
end
local readable, state = pcall(load_state)
if not readable then
  state = { revision = 0, epoch = 0, rule = TTL }
end
if state.revision > revision then
  return { 'NEWER', state.revision }
end
if state.rule == BURIED and state.revision == revision then
  return { 'SAME' }
end

call('UNLINK', unpack(KEYS))
local at = now + tonumber(ARGV[2])
call('HSET', META, 'k', pack(K, 1, 0, 0, 0, 0, 0, 0, 0),
  's', pack(S, LAYOUT, BURIED, 0, 0, 0, 0, 0, math.max(now_us, state.epoch + 1), now, revision, at, now))
call('PEXPIREAT', META, format('%d', at))
return { 'DONE' }
