-- lib/lease: the turn's lease in `:meta`, and the waiters in `:q` (token -> arrival in us).
-- A token ends in the milliseconds its waiter will wait in all, so a waiter that died leaves the line by itself.
-- `:w:<token>` is a list: a wake-up that carries the grant, or `gone` once its waiter has left for good.
local QUEUE = KEYS[6]
local WAKE = string.sub(META, 1, -5) .. 'w:'
local GONE = 'gone'

local function patience_of(token)
  return tonumber(string.match(token, '%-(%d+)$') or 0)
end

local function grant(state, token, milliseconds)
  state.token, state.till = token, now + milliseconds
  state.fence = math.max(state.fence + 1, now_us)
end

-- The session lives at least as long as the lease, but never beyond its longest life. True where that moved its expiry.
local function keep_alive(state)
  if state.x >= state.till or state.layout ~= LAYOUT then
    return false
  end
  expire_at(state, state.till, LEASE)
  return true
end

local function save_lease(state)
  call('HSET', META, 'l', format('%s|%d|%d', state.token, state.till, state.fence))
end

-- Take the turn away from its holder, who is told so until its time ends.
local function take_away(state)
  local noted = call('HGET', META, 'i')
  local till, tokens = string.match(noted or '', '^(%d+)(|.+)$')
  if not till or tonumber(till) <= now then
    till, tokens = 0, ''
  end
  tokens = '|' .. string.sub(state.token, 1, 8) .. tokens
  call('HSET', META, 'i', format('%d', math.max(state.till, tonumber(till))) .. string.sub(tokens, 1, 45))
  call('DEL', WAKE .. state.token)
end

local function line_up(token)
  local patience = patience_of(token)
  if patience > 0 then
    call('ZADD', QUEUE, 'NX', format('%d', now_us), token)
    call('PEXPIRE', QUEUE, math.max(call('PTTL', QUEUE), patience + 60000))
  end
  return patience > 0 and 'WAIT' or 'BUSY', call('ZRANK', QUEUE, token) or call('ZCARD', QUEUE)
end

-- The first in line who still waits; those before have given up or died.
local function first_waiter()
  while true do
    local head = call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES')
    if not head[1] then
      return nil
    end
    if tonumber(head[2]) / 1000 + patience_of(head[1]) > now then
      return head[1]
    end
    call('ZREM', QUEUE, head[1])
  end
end

-- Give the turn to the first in line for the grant time, and wake exactly that waiter with all it has to know.
local function hand_over(state)
  call('HDEL', META, 'h')
  local token = first_waiter()
  if not token then
    state.token, state.till = '', 0
    save_lease(state)
    return
  end
  call('ZREM', QUEUE, token)
  grant(state, token, terms.grant)
  save_lease(state)
  if keep_alive(state) then
    save_state(state)
    expire_all(state)
  end
  redis.pcall('RPUSH', WAKE .. token, format('%d|%d|%d|%d', state.fence, state.epoch, state.next - 1, state.till))
  redis.pcall('PEXPIRE', WAKE .. token, 5000)
end
