#!lua flags=allow-oom
-- bury: replace a session by a tombstone: an empty session of a new epoch, whose revision refuses those who still write
-- under the deleted policy. What is not ours among its keys goes as well.
-- uses: state
-- KEYS  meta log pin ids hist q
-- ARGV  1 revision of the deletion   2 milliseconds the tombstone lives
-- Returns {DONE}, {SAME} when it was buried before, {GONE}, or {NEWER, revision} when the memory was made again.
local revision = tonumber(ARGV[1])
local readable, state = pcall(load_state)
if not readable or not state.revision then
  state = read_state({})
end
if redis.call('EXISTS', unpack(KEYS)) == 0 then
  return { 'GONE' }
end
if state.revision > revision then
  return { 'NEWER', state.revision }
end
if state.rule == 'buried' and state.revision == revision then
  return { 'SAME' }
end

redis.call('UNLINK', unpack(KEYS))
local stone = read_state({})
stone.epoch, stone.created, stone.touched = math.max(now_us, state.epoch + 1), now, now
stone.revision, stone.x, stone.rule = revision, now + tonumber(ARGV[2]), 'buried'
redis.call('HSET', META, 'k', k_field(stone), 's', s_field(stone), 'x', x_field(stone))
redis.call('PEXPIREAT', META, int(stone.x))
return { 'DONE' }
