#!lua
-- acquire: take the turn, or a place in line. Calling again with the same token keeps the place.
-- uses: state, terms, interrupted, lease
-- KEYS  meta log pin ids hist q w:<token>
-- ARGV  1 terms   2 token   3 holder as shown to others   4 1 if the session may be created
--       5 1 to take the turn from its holder, before all who wait
-- Returns {GRANTED, fence, epoch, last seq}, {WAIT, ms left, holder, waiters in front, server's time in ms},
-- {BUSY, ...} alike when the token says not to wait or has been released, INTERRUPTED, NOSESSION, STALEPOLICY
-- or LAYOUT.
local token, holder, interrupts = ARGV[2], ARGV[3], ARGV[5] == '1'
if call('LINDEX', KEYS[7], 0) == GONE then
  -- Overtaken by its own release: whoever asked does not wait for an answer any more.
  return { 'BUSY', 0, '', 0, now }
end
local state = load_state(terms.revision)
if not state.exists and ARGV[4] ~= '1' then
  return { 'NOSESSION' }
end
if state.layout ~= LAYOUT then
  return { 'LAYOUT', state.layout }
end
if terms.revision < state.revision then
  return { 'STALEPOLICY', state.revision }
end

local live = state.token ~= '' and state.till > now
local elsewhere = live and state.token ~= token
if elsewhere and interrupts and interrupted(token) then
  -- A repeated call: it had the turn, and somebody interrupted it meanwhile.
  return { 'INTERRUPTED' }
end
if elsewhere and not interrupts then
  local answer, place = line_up(token)
  return { answer, state.till - now, call('HGET', META, 'h') or '', place, now }
end

-- Nothing refuses any more. A session that is only waited for begins with the turn.
local fresh = not state.exists
if state.wipe then
  call('UNLINK', META, LOG, PIN, IDS, HIST)
elseif fresh then
  call('UNLINK', IDS)
end
if fresh then
  state.epoch, state.created, state.touched, state.revision = now_us, now, now, terms.revision
end
local first = (live or interrupts) and token or first_waiter() or token
if first ~= token then
  -- The holder died. The first in line is somebody else.
  if fresh then
    save_state(state)
  end
  hand_over(state)
  local answer, place = line_up(token)
  return { answer, state.till - now, '', place, now }
end

if elsewhere then
  take_away(state)
end
if live and not elsewhere then
  state.till = now + terms.lease
else
  grant(state, token, terms.lease)
end
call('HSET', META, 'h', holder)
save_lease(state)
if keep_alive(state) or fresh then
  save_state(state)
  expire_all(state, fresh)
end
call('ZREM', QUEUE, token)
return { 'GRANTED', state.fence, state.epoch, state.next - 1 }
