-- lib/plain: a session of which a rollout has to change nothing but revision and expiry, as is so of nearly all.
-- This stands before everything else and ends the script for such a one. It runs for every session there is: so it makes no
-- function, reads no more of the state than it needs, and writes only what differs. Whatever is not plain falls through, with
-- nothing written, to what specifies all of it. A property test holds the two together.
-- Lengths and places are those of lib/state and lib/terms; the expiry is that of lib/shorten.
do
  local call, numbers = redis.call, struct.unpack
  local fields = call('HMGET', KEYS[1], 'k', 's', 'l')
  local k, s, l = fields[1], fields[2], fields[3]
  if k and s and #k == 64 and #s == 49 then
    local revision, max_tokens, max_messages, _, ttl, _, _, lifetime = numbers('<dddddddd', ARGV[1])
    local _, tokens, count, _, _, _, pinned = numbers('<ddddddd', k)
    local layout, rule = string.byte(s, 1, 2)
    local created, before, x, touched = numbers('<dddd', s, 18)
    -- Rules are those of lib/state: 2 and 3 are lives of their own, 6 is a tombstone.
    if layout == 1 and (rule == 1 or rule == 4 or rule == 5) and revision > before
      and (max_tokens == 0 or tokens <= max_tokens) and (max_messages == 0 or count <= max_messages)
      and call('LLEN', KEYS[2]) == count - pinned
    then
      -- Most sessions have no other key; what the counters know nothing of expires with the rest all the same.
      local more = call('EXISTS', KEYS[3], KEYS[4], KEYS[5]) > 0
      local at, now = touched + ttl, 0
      rule = 1
      if lifetime > 0 and created + lifetime < at then
        at, rule = created + lifetime, 4
      end
      if x > at or l then
        local clock = call('TIME')
        now = clock[1] * 1000 + math.floor(clock[2] / 1000)
      end
      -- A turn that goes on is not plain, nor is a lease that cannot be read.
      if (more and call('LLEN', KEYS[3]) or 0) == pinned
        and (not l or tonumber(string.match(l, '^[^|]*|(%d+)|%d+$') or now + 1) <= now)
      then
        if x > at then
          at = math.max(at, math.min(x, now + ARGV[2]))
        end
        local ends = string.format('%d', at)
        call('HSET', KEYS[1], 's', string.char(1, rule) .. string.sub(s, 3, 25) .. struct.pack('<dd', revision, at)
          .. string.sub(s, 42))
        call('PEXPIREAT', KEYS[1], ends)
        call('PEXPIREAT', KEYS[2], ends)
        if more then
          call('PEXPIREAT', KEYS[3], ends)
          call('PEXPIREAT', KEYS[4], ends)
          call('PEXPIREAT', KEYS[5], ends)
        end
        return 'DONE'
      end
    end
  end
end
