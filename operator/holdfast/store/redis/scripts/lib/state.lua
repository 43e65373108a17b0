-- lib/state: `:meta`, the one hash that holds a session's numbers, and the server's time.
-- k  next seq, tokens, count, bytes, version, dropped, protected count, protected tokens
-- s  layout, rule of the expiry, ids (lib/ids), joined, hist (1 or 0), number of the next id, how many ids are known,
--    epoch us, created ms, revision, expiry ms, last refresh ms
-- l  token|until ms|fence of the lease      h  its holder      o:<digest>  group of an open tool call, then p if protected
-- Numbers are kept as little-endian doubles: as text, reading and writing them was a third of an append. Every value
-- stays within 64 bytes: one byte more turns the hash from a listpack into a table. `joined` and `hist` say
-- whether a caller ever named a group, and there is a history.
-- Defining a function costs each call of a script as much as a small command: so there are few, and none for one use.
local META, LOG, PIN, IDS, HIST = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local LAYOUT, K, S = 1, '<dddddddd', '<BBBBBHHddddd'
local TTL, AFTER_CLEAR, AFTER_FLUSH, LIFETIME, LEASE, BURIED = 1, 2, 3, 4, 5, 6
local call, pack, numbers, format = redis.call, struct.pack, struct.unpack, string.format

local clock = call('TIME')
local seconds, micros = tonumber(clock[1]), tonumber(clock[2])
local now, now_us = seconds * 1000 + (micros - micros % 1000) / 1000, seconds * 1000000 + micros

-- With a revision: the tombstone that a deleted memory left is no session for whoever comes with the policy of a memory
-- made again. It reads as absent then, and `wipe` says that it is to be removed.
-- One more field of `:meta` may be named, whose value becomes `asked`.
local function load_state(revision, ...)
  local fields = call('HMGET', META, 'k', 's', 'l', ...)
  local k, s, l = fields[1], fields[2], fields[3]
  local layout, rule, ids, joined, hist, id, known, epoch, created, seen, x, touched
  local wipe = false
  if k then
    layout, rule, ids, joined, hist, id, known, epoch, created, seen, x, touched = numbers(S, s)
    wipe = rule == BURIED and revision ~= nil and revision > seen
  end
  if not k or wipe then
    -- Where only the counters vanished, the history goes on, and has to expire with what begins now. Ids are known by
    -- the counters alone: whoever begins the session removes what is left of them.
    return {
      exists = false, wipe = wipe, layout = LAYOUT, next = 1, tokens = 0, count = 0, bytes = 0, version = 0, dropped = 0,
      pinned = 0, pinned_tokens = 0, rule = TTL, ids = 0, joined = 0,
      hist = wipe and 0 or call('EXISTS', HIST), id = 0, known = 0, epoch = 0, created = 0, revision = 0, x = 0, touched = 0, token = '',
      till = 0, fence = 0,
    }
  end
  local following, tokens, count, bytes, version, dropped, pinned, pinned_tokens = numbers(K, k)
  local token, till, fence = '', 0, 0
  if l then
    token, till, fence = string.match(l, '^([^|]*)|(%d+)|(%d+)$')
    if not token then
      error({ err = 'CORRUPT the lease does not have its form' })
    end
    till, fence = tonumber(till), tonumber(fence)
  end
  return {
    exists = true, wipe = false, layout = layout, next = following, tokens = tokens, count = count, bytes = bytes,
    version = version, dropped = dropped, pinned = pinned, pinned_tokens = pinned_tokens, rule = rule, ids = ids,
    joined = joined, hist = hist, id = id, known = known, epoch = epoch, created = created, revision = seen, x = x,
    touched = touched, token = token, till = till, fence = fence, asked = fields[4],
  }
end

local function save_state(state)
  call('HSET', META,
    'k', pack(K, state.next, state.tokens, state.count, state.bytes, state.version, state.dropped, state.pinned,
      state.pinned_tokens),
    's', pack(S, LAYOUT, state.rule, state.ids, state.joined, state.hist, state.id, state.known, state.epoch, state.created,
      state.revision, state.x, state.touched))
end
