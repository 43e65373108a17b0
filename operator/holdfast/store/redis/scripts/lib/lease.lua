-- lib/lease: the turn's lease in `:meta`, and the waiters in `:q` (token -> arrival in us).
-- A token ends in the milliseconds its waiter will wait in all, so a waiter that died leaves the line by itself.
local QUEUE = KEYS[6]
local WAKE = string.sub(META, 1, -5) .. 'w:'

local function waits_until(token, arrived)
  return tonumber(arrived) / 1000 + tonumber(string.match(token, '%-(%d+)$') or 0)
end

local function grant(state, token, milliseconds)
  state.token, state.till = token, now + milliseconds
  state.fence = math.max(state.fence + 1, now_us)
end

-- The session lives at least as long as the lease, but never beyond its longest life.
local function keep_alive(state, terms)
  if state.x < state.till then
    local before = state.x
    state.x, state.rule = state.till, 'lease'
    cap(state, terms, before)
  end
end

-- The first in line who still waits; those before have given up or died.
local function first_waiter()
  while true do
    local head = redis.call('ZRANGE', QUEUE, 0, 0, 'WITHSCORES')
    if not head[1] then
      return nil
    end
    if waits_until(head[1], head[2]) > now then
      return head[1]
    end
    redis.call('ZREM', QUEUE, head[1])
  end
end

-- Give the turn to the first in line for the grant time, and wake exactly that waiter.
local function hand_over(state, terms)
  redis.call('HDEL', META, 'h')
  local token = first_waiter()
  if token then
    redis.call('ZREM', QUEUE, token)
    grant(state, token, terms.grant)
    keep_alive(state, terms)
  else
    state.token, state.till = '', 0
  end
  redis.call('HSET', META, 'l', l_field(state), 'x', x_field(state))
  if token then
    expire_all(state)
    redis.pcall('RPUSH', WAKE .. token, '1')
    redis.pcall('PEXPIRE', WAKE .. token, 5000)
  end
end
