"""When a session expires. One moment for all its keys, and the rule that set it."""

from typing import Literal, NamedTuple

from holdfast.values import Terms

Rule = Literal["ttl", "afterClear", "afterFlush", "maxLifetime", "lease"]


GRACE = 3_600_000
"""Milliseconds that an edit of a policy leaves a session at least: a typing error deletes nothing at once."""


class Expiry(NamedTuple):
    """The moment in milliseconds since 1970, and the rule behind it."""

    at: int
    rule: Rule


def plan_expiry(
    terms: Terms,
    *,
    now: int,
    created: int,
    lease_until: int,
    idle: int | None = None,
    rule: Rule = "ttl",
    current: int = 0,
) -> Expiry:
    """Return the expiry after a refreshing call.

    Idle life from now, but never before a turn that is held may end, and never after the session's
    longest life. A session that an edit of the policy made too old has `GRACE` left, or what it had if
    that was less, and is not renewed any more.

    Args:
        terms: the policy's times.
        now: milliseconds since 1970, as all moments here.
        created: the session's first write.
        lease_until: end of the lease that is held; 0 without one.
        idle: milliseconds instead of the policy's `ttl`.
        rule: the name of that time.
        current: the expiry so far; 0 for a session that begins.
    """
    expiry = Expiry(now + (terms.ttl if idle is None else idle), rule)
    if lease_until > expiry.at:
        expiry = Expiry(lease_until, "lease")
    last = created + terms.max_lifetime
    if current and last <= now:
        last = min(current, now + GRACE)
    if terms.max_lifetime and last < expiry.at:
        expiry = Expiry(last, "maxLifetime")
    return expiry


def plan_shortened(
    terms: Terms,
    *,
    now: int,
    created: int,
    lease_until: int,
    touched: int,
    current: int,
    grace: int,
    rule: Rule = "ttl",
) -> Expiry:
    """Return the expiry of a live session under an edited policy.

    As if the last refresh had happened under the new policy: one that was a clear or a flush keeps
    its own idle time, where the new policy has one. But an edit that shortens leaves at
    least `grace` from now, or the current expiry where that is nearer, so that a typing error does
    not delete people's conversations on the spot.

    Args:
        terms: the new policy's times.
        now: milliseconds since 1970, as all moments here.
        created: the session's first write.
        lease_until: end of the lease that is held; 0 without one.
        touched: the last refresh.
        current: the expiry so far.
        grace: milliseconds.
        rule: the rule behind the expiry so far.

    The specification of `store/redis/scripts/lib/expiry.lua`; a property test holds the two together.
    """
    own = {"afterClear": terms.after_clear, "afterFlush": terms.after_flush}.get(rule, 0)
    wanted = plan_expiry(
        terms,
        now=touched,
        created=created,
        lease_until=lease_until,
        idle=own or None,
        rule=rule if own else "ttl",
    )
    floor = min(current, now + grace)
    return wanted if wanted.at >= floor else Expiry(floor, wanted.rule)
