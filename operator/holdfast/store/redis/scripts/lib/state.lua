-- lib/state: read and write `:meta`, the one hash that holds a session's numbers.
-- k  next seq|tokens|count|bytes|version|dropped      s  layout|epoch us|created ms|shape|revision
-- x  expiry ms|last refresh ms|rule or "buried"       l  lease token|until ms|fence      h  holder
-- p  protected count|protected tokens|joined          o:<digest>  group of an open tool call, then p if protected
-- Every value stays within 64 bytes: one byte more turns the hash from a listpack into a table.
local META, LOG, PIN, IDS, HIST = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local LAYOUT = 1

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now_us = clock[1] * 1000000 + clock[2]

local function int(number)
  return string.format('%.0f', number)
end

local function parse_terms(packed)
  local revision, tokens, messages, refuse, ttl, after_clear, after_flush, lifetime, refresh, lease, grant, enforced, ids =
    string.match(packed, '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
  return {
    revision = tonumber(revision), max_tokens = tonumber(tokens), max_messages = tonumber(messages),
    refuse = refuse == '1', ttl = tonumber(ttl), after_clear = tonumber(after_clear),
    after_flush = tonumber(after_flush), lifetime = tonumber(lifetime), refresh = tonumber(refresh),
    lease = tonumber(lease), grant = tonumber(grant), enforced = enforced == '1', ids = tonumber(ids),
  }
end

-- The caller's part: token|epoch|seen|may create.
local function parse_caller(packed)
  local token, epoch, seen, create = string.match(packed, '^([^|]*)|(%d+)|(%d+)|(%d)')
  return { token = token, epoch = tonumber(epoch), seen = tonumber(seen), create = create == '1' }
end

local function read_state(fields)
  local state = {
    next = 1, tokens = 0, count = 0, bytes = 0, version = 0, dropped = 0,
    epoch = 0, created = 0, shape = 0, revision = 0, x = 0, touched = 0, rule = 'ttl',
    token = '', till = 0, fence = 0, pinned = 0, pinned_tokens = 0, joined = 0,
  }
  local k, s, x, l, p = fields[1], fields[2], fields[3], fields[4], fields[5]
  state.exists = k and true or false
  if not k then
    return state
  end
  local a, b, c, d, e, f = string.match(k, '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)|(%d+)$')
  state.next, state.tokens, state.count = tonumber(a), tonumber(b), tonumber(c)
  state.bytes, state.version, state.dropped = tonumber(d), tonumber(e), tonumber(f)
  a, b, c, d, e = string.match(s, '^(%d+)|(%d+)|(%d+)|(%d+)|(%d+)')
  state.layout = tonumber(a)
  state.epoch, state.created, state.shape, state.revision = tonumber(b), tonumber(c), tonumber(d), tonumber(e)
  a, b, c = string.match(x, '^(%d+)|(%d+)|(%a+)$')
  state.x, state.touched, state.rule = tonumber(a), tonumber(b), c
  if l then
    a, b, c = string.match(l, '^([^|]*)|(%d+)|(%d+)$')
    state.token, state.till, state.fence = a, tonumber(b), tonumber(c)
  end
  if p then
    a, b, c = string.match(p, '^(%d+)|(%d+)|(%d+)$')
    state.pinned, state.pinned_tokens, state.joined = tonumber(a), tonumber(b), tonumber(c)
  end
  return state
end

local function load_state()
  return read_state(redis.call('HMGET', META, 'k', 's', 'x', 'l', 'p'))
end

local function k_field(state)
  return state.next .. '|' .. state.tokens .. '|' .. state.count .. '|' .. int(state.bytes)
    .. '|' .. state.version .. '|' .. state.dropped
end

local function s_field(state)
  return LAYOUT .. '|' .. int(state.epoch) .. '|' .. int(state.created) .. '|' .. state.shape .. '|' .. state.revision
end

local function x_field(state)
  return int(state.x) .. '|' .. int(state.touched) .. '|' .. state.rule
end

local function l_field(state)
  return state.token .. '|' .. int(state.till) .. '|' .. int(state.fence)
end

local function p_field(state)
  return state.pinned .. '|' .. state.pinned_tokens .. '|' .. state.joined
end

-- The tombstone that a deleted memory left is no session for whoever comes with the policy of a memory made again.
local function replaces_tombstone(state, terms)
  return state.rule == 'buried' and terms.revision > state.revision
end

local function new_session(state, terms)
  state.exists, state.layout = true, LAYOUT
  state.epoch, state.created, state.touched, state.revision = now_us, now, now, terms.revision
end

-- Nothing lives longer than the longest life. A session that an edit made too old has an hour left, or what it had if
-- that was less, and is not renewed any more.
local GRACE = 3600000
local function cap(state, terms, before)
  local last = state.created + terms.lifetime
  if last <= now then
    last = math.min(before, now + GRACE)
  end
  if terms.lifetime > 0 and last < state.x then
    state.x, state.rule = last, 'maxLifetime'
  end
end

-- Idle life from now, not before the lease may end, not after the longest life.
local function refresh(state, terms, idle, rule)
  local before = state.x
  state.x, state.rule, state.touched = now + idle, rule, now
  local held = state.till > now and state.till or 0
  if held > state.x then
    state.x, state.rule = held, 'lease'
  end
  cap(state, terms, before)
end

local function expire_all(state)
  local at = int(state.x)
  redis.call('PEXPIREAT', META, at)
  redis.call('PEXPIREAT', LOG, at)
  redis.call('PEXPIREAT', PIN, at)
  redis.call('PEXPIREAT', IDS, at)
  redis.call('PEXPIREAT', HIST, at)
end

-- Epoch, lease, revision and highest seq seen, in this order; nil, or the refusal.
-- `maintenance` writes need no lease.
local function refuse(state, caller, terms, maintenance)
  if state.exists and state.layout ~= LAYOUT then
    return { 'LAYOUT', state.layout }
  end
  local known = caller.epoch == state.epoch
  if caller.token ~= '' then
    if not known then
      return { 'EPOCH', state.epoch }
    end
    if state.token ~= caller.token or state.till <= now then
      return { 'LEASELOST' }
    end
  elseif not maintenance and terms.enforced and state.till > now and state.token ~= '' then
    return { 'BUSY', state.till - now, redis.call('HGET', META, 'h') or '' }
  end
  if terms.revision < state.revision then
    return { 'STALEPOLICY', state.revision }
  end
  if known and caller.seen > state.next - 1 then
    return { 'REGRESSED', state.next - 1 }
  end
  return nil
end

-- Integers of a record: tokens, flags, seq, ts, group.
local function parse_record(value)
  local tokens, flags, seq, ts, group = string.match(value, '^%[(%d+),(%d+),(%d+),(%d+),(%d+),')
  if not tokens then
    error({ err = 'CORRUPT a record does not have the form of a record' })
  end
  flags = tonumber(flags)
  return {
    tokens = tonumber(tokens), flags = flags, seq = tonumber(seq), ts = tonumber(ts), group = tonumber(group),
    opens = math.floor(flags / 4096) % 256, closes = math.floor(flags / 1048576) % 256,
    protected = flags % 4 ~= 0, value = value, bytes = #value,
  }
end

local function push(key, values)
  for first = 1, #values, 1000 do
    redis.call('RPUSH', key, unpack(values, first, math.min(first + 999, #values)))
  end
end
