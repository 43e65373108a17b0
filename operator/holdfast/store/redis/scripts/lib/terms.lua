-- lib/terms: the numbers of the policy, and the expiry that follows from them. ARGV[1] are 13 doubles.
local terms
do
  local revision, max_tokens, max_messages, refuse, ttl, after_clear, after_flush, lifetime, refresh, lease, grant, enforced, ids =
    numbers('<ddddddddddddd', ARGV[1])
  terms = {
    revision = revision, max_tokens = max_tokens, max_messages = max_messages, refuse = refuse == 1, ttl = ttl,
    after_clear = after_clear, after_flush = after_flush, lifetime = lifetime,
    on_write = refresh % 2 == 1, on_read = refresh >= 2, lease = lease, grant = grant, enforced = enforced == 1, ids = ids,
  }
end

-- Set the expiry, but not before the lease may end and not after the longest life. A session that an edit made too old
-- has an hour left, or what it had if that was less, and is not renewed any more.
local function expire_at(state, at, rule)
  local before = state.x
  if state.till > now and state.till > at then
    at, rule = state.till, LEASE
  end
  if terms.lifetime > 0 then
    local last = state.created + terms.lifetime
    if last <= now then
      last = math.min(before, now + 3600000)
    end
    if last < at then
      at, rule = last, LIFETIME
    end
  end
  state.x, state.rule = at, rule
end

-- Give all keys of the session the one expiry; `every`: also those that it says it has not.
local function expire_all(state, every)
  local at = format('%d', state.x)
  call('PEXPIREAT', META, at)
  call('PEXPIREAT', LOG, at)
  if every or state.pinned > 0 then
    call('PEXPIREAT', PIN, at)
  end
  if every or state.ids > 0 then
    call('PEXPIREAT', IDS, at)
  end
  if every or state.hist > 0 then
    call('PEXPIREAT', HIST, at)
  end
end

-- A write or read that starts the idle time anew.
local function refresh(state, idle, rule)
  state.touched = now
  expire_at(state, now + idle, rule)
end
