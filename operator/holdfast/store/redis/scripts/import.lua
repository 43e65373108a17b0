#!lua
-- import: add records of an export as they were, to a session that holds nothing or exactly what was imported before.
-- uses: state, terms, ids, interrupted, caller, records, history
-- KEYS  meta log pin ids hist
-- ARGV  1 terms   2 caller   3 what the session holds as seen by the caller: epoch, version, messages, then last seq and
--       dropped records of the export, 1 if the ids are all that is known from here on, how many digits the names of
--       their fields have or 0, and the number of entries of the history, as doubles   4 ids as lib/ids has them, each with
--       its score, a double   5 calls that wait after this part as digest:group   6 digests of calls that do not any more,
--       each joined by commas   7.. entries for the history, then records as they will be stored
-- Returns {OK, epoch, version}, {CHANGED} where the session is another one by now, or a refusal as append.
local epoch, version, count, last, dropped, anew, digits, entered = numbers('<dddddddd', ARGV[3])
local state = load_state(terms.revision)
local refused = refuse(state, false)
if refused then
  return refused
end
if epoch ~= state.epoch or version ~= state.version or count ~= state.count or (count > 0 and state.next - 1 ~= last)
  or call('LLEN', LOG) + call('LLEN', PIN) ~= (state.wipe and 0 or count) and count > 0 then
  return { 'CHANGED' }
end
local log, pin, tokens, bytes, pinned_tokens, safe = {}, {}, 0, 0, 0, {}
for n = 7 + entered, #ARGV do
  local record = parse_record(ARGV[n])
  if record.flags % 4 ~= 0 then
    pin[#pin + 1], pinned_tokens, safe[record.group] = record.value, pinned_tokens + record.tokens, true
  else
    log[#log + 1] = record.value
  end
  if record.group ~= record.seq then
    state.joined = 1
  end
  tokens, bytes = tokens + record.tokens, bytes + record.bytes
end
call('LLEN', HIST)
call('HGET', IDS, '')
for at = 1, anew == 0 and #ARGV[4] or 0, 19 do
  look_up(state, string.sub(ARGV[4], at, at + 10))
end

-- Every check has passed.
local fresh = not state.exists
if count == 0 then
  if state.wipe then
    call('UNLINK', META)
  end
  if fresh or anew == 1 then
    call('UNLINK', IDS)
  end
  call('UNLINK', LOG, PIN, HIST)
  state.next, state.dropped, state.hist, state.epoch = last + 1, dropped, 0, math.max(now_us, state.epoch + 1)
end
if fresh then
  state.created, state.touched = now, now
end
for n = 7, 6 + entered do
  enter(ARGV[n])
  state.hist = 1
end
if #log > 0 then
  call('RPUSH', LOG, unpack(log))
end
if #pin > 0 then
  call('RPUSH', PIN, unpack(pin))
end
state.tokens, state.count, state.bytes = state.tokens + tokens, state.count + #log + #pin, state.bytes + bytes
state.pinned, state.pinned_tokens = state.pinned + #pin, state.pinned_tokens + pinned_tokens
state.version, state.revision = state.version + 1, math.max(state.revision, terms.revision)
if anew == 1 then
  -- Each field is written once, however many of the ids are in it.
  state.ids, state.id, state.known = digits > 0 and digits or terms.ids > 512 and 2 or 1, 0, 0
  local fields = {}
  for at = math.max(1, #ARGV[4] - 19 * terms.ids + 1), #ARGV[4], 19 do
    local name, own, score = string.sub(ARGV[4], at, at + state.ids - 1), string.sub(ARGV[4], at + 2, at + 10),
      numbers('<d', ARGV[4], at + 11)
    local entries = fields[name] or {}
    entries[#entries + 1] = own .. pack('<I7H', score, state.id)
    fields[name], state.id, state.known = entries, state.id + 1, state.known + 1
  end
  for name, entries in pairs(fields) do
    call('HSET', IDS, name, table.concat(entries))
  end
  state.ids = state.known > 0 and state.ids or 0
elseif terms.ids > 0 then
  for at = 1, #ARGV[4], 19 do
    local id, score = string.sub(ARGV[4], at, at + 10), numbers('<d', ARGV[4], at + 11)
    local name, entries, known = look_up(state, id)
    if known then
      local before, behind = string.sub(entries, 1, known + 8), string.sub(entries, known + 16)
      call('HSET', IDS, name, before .. pack('<I7', score) .. behind)
    else
      remember(state, id, score, name, entries)
    end
  end
end
refresh(state, terms.ttl, TTL)
save_state(state)
for name in string.gmatch(ARGV[6], '%x+') do
  call('HDEL', META, 'o:' .. name)
end
for name, group in string.gmatch(ARGV[5], '(%x+):(%d+)') do
  call('HSET', META, 'o:' .. name, group .. (safe[tonumber(group)] and 'p' or ''))
end
for label in string.gmatch(caller.labels or '', string.rep('%x', 32)) do
  call('HSET', META, 'b:' .. label, '')
end
expire_all(state, true)
return { 'OK', state.epoch, state.version }
