-- lib/caller: what the caller knows of the session. ARGV[2] is epoch, highest seq seen, a byte, token. The byte is 1 if
-- the session may be created, 2 more if the call may have been carried out before, 4 more if labels stand before the
-- token: 32 digits of each, then |; 8 more if the session cannot have ended by itself since its epoch was seen.
local caller
do
  local epoch, seen, bits = numbers('<ddB', ARGV[2])
  caller = { epoch = epoch, seen = seen, create = bits % 2 == 1, sure = bits >= 8, token = string.sub(ARGV[2], 18) }
  bits = bits % 8
  if bits > 1 then
    caller.again = math.floor(bits / 2) % 2 == 1
    if bits >= 4 then
      caller.labels, caller.token = string.match(caller.token, '^(%x*)|(.*)$')
    end
  end
end

-- Epoch, lease, revision and highest seq seen, in this order; nil, or the refusal. `maintenance` writes need no lease.
-- VANISHED: the session that the caller is sure of is not there, or is another one that began since. Not where somebody
-- erased it, nor where only the counters went: what is left of it is counted then (lib/mend).
local function refuse(state, maintenance)
  if state.layout ~= LAYOUT then
    return { 'LAYOUT', state.layout }
  end
  local known = caller.epoch == state.epoch
  if caller.token ~= '' then
    local held = state.token == caller.token and state.till > now
    if not held and interrupted(caller.token) then
      return { 'INTERRUPTED' }
    end
    if not known then
      return { 'EPOCH', state.epoch }
    end
    if not held then
      return { 'LEASELOST' }
    end
  elseif not maintenance and terms.enforced and state.till > now and state.token ~= '' then
    return { 'BUSY', state.till - now, call('HGET', META, 'h') or '' }
  end
  if terms.revision < state.revision then
    return { 'STALEPOLICY', state.revision }
  end
  if known then
    if caller.seen > state.next - 1 then
      return { 'REGRESSED', state.next - 1 }
    end
  elseif caller.sure and tonumber(call('HGET', META, 'e') or 0) <= now and (state.exists
    and state.created * 1000 > caller.epoch or not state.exists and call('EXISTS', LOG, PIN) == 0) then
    return { 'VANISHED' }
  end
  return nil
end
