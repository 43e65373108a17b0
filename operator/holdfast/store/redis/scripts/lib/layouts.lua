-- lib/layouts: how a session of an older layout becomes one of the next: STEPS[n] takes the one in KEYS from n to n + 1.
-- A step checks all it needs before its first write, leaves the expiry and the lease as they are, and writes the new number
-- into the first byte of `s`. Every layout has its number there, and `k` and `s` at least as long as the first one: so any
-- version can tell that a session is not its own. There has been no other layout yet.
local STEPS = {}
