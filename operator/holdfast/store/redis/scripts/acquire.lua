#!lua
-- acquire: take the turn, or a place in line. Calling again with the same token keeps the place.
-- uses: state, lease
-- KEYS  meta log pin ids hist q
-- ARGV  1 token   2 terms, packed   3 holder as shown to others   4 1 if the session may be created
-- Returns {GRANTED, fence, epoch, last seq}, {WAIT, ms left, holder, waiters in front},
-- {BUSY, ms left, holder, waiters} when the token says not to wait, NOSESSION, STALEPOLICY or LAYOUT.
local token, terms, holder = ARGV[1], parse_terms(ARGV[2]), ARGV[3]
local state = load_state()
local wipe = replaces_tombstone(state, terms)
if wipe then
  state = read_state({})
end
if not state.exists and ARGV[4] ~= '1' then
  return { 'NOSESSION' }
end
local refused = refuse(state, { token = '', epoch = 0, seen = 0 }, terms, true)
if refused then
  return refused
end

local live = state.token ~= '' and state.till > now
if live and state.token ~= token then
  local patience = tonumber(string.match(token, '%-(%d+)$') or 0)
  local answer = 'BUSY'
  if patience > 0 then
    answer = 'WAIT'
    redis.call('ZADD', QUEUE, 'NX', int(now_us), token)
    redis.call('PEXPIRE', QUEUE, math.max(redis.call('PTTL', QUEUE), patience + 60000))
  end
  local place = redis.call('ZRANK', QUEUE, token) or redis.call('ZCARD', QUEUE)
  return { answer, state.till - now, redis.call('HGET', META, 'h') or '', place }
end

-- Nothing refuses any more. A session that is only waited for begins with the turn.
if wipe then
  redis.call('UNLINK', META, LOG, PIN, IDS, HIST)
end
local fields = {}
if not state.exists then
  new_session(state, terms)
  fields = { 'k', k_field(state), 's', s_field(state) }
end
local first = live and token or first_waiter() or token
if first ~= token then
  -- The holder died. The first in line is somebody else.
  local patience = tonumber(string.match(token, '%-(%d+)$') or 0)
  if #fields > 0 then
    redis.call('HSET', META, unpack(fields))
  end
  hand_over(state, terms)
  if patience > 0 then
    redis.call('ZADD', QUEUE, 'NX', int(now_us), token)
    redis.call('PEXPIRE', QUEUE, math.max(redis.call('PTTL', QUEUE), patience + 60000))
  end
  local place = redis.call('ZRANK', QUEUE, token) or redis.call('ZCARD', QUEUE)
  return { patience > 0 and 'WAIT' or 'BUSY', state.till - now, '', place }
end

if live then
  state.till = now + terms.lease
else
  grant(state, token, terms.lease)
end
keep_alive(state, terms)
for _, value in ipairs({ 'l', l_field(state), 'x', x_field(state), 'h', holder }) do
  fields[#fields + 1] = value
end
redis.call('HSET', META, unpack(fields))
expire_all(state)
redis.call('ZREM', QUEUE, token)
return { 'GRANTED', state.fence, state.epoch, state.next - 1 }
