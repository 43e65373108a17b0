"""The stricter of a backend's guard rails and a memory's policy. Pure functions."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from holdfast.policy import Duration, Policy, Quantity
from holdfast.policy.quotas import Quota, Quotas, SizeQuota

_LIFETIMES: Final = ("ttl", "after_clear", "after_flush", "max_lifetime")
_FIELDS: Final = {
    "ttl": "retention.ttl",
    "after_clear": "retention.afterClear",
    "after_flush": "retention.afterFlush",
    "max_lifetime": "retention.maxLifetime",
}


class Bounds(NamedTuple):
    """What a backend allows one memory; None where it does not care.

    Attributes:
        max_ttl: longest lifetime of any kind.
        max_message_size: largest message.
        sessions: most sessions.
        bytes: most bytes of all sessions.
    """

    max_ttl: Duration | None = None
    max_message_size: Quantity | None = None
    sessions: int | None = None
    bytes: int | None = None


class Clamped(NamedTuple):
    """A policy within bounds, and which of its fields hold less than was asked for, with what holds."""

    policy: Policy
    fields: Mapping[str, str]


def clamped(policy: Policy, bounds: Bounds) -> Clamped:
    """Return the policy that holds: of each bound the stricter one.

    A lifetime that the memory does not set stays unset: what bounds an idle session is its ttl.
    A quota that the memory does not set is the bound.
    """
    fields: dict[str, str] = {}
    changes = {
        "retention": _retention(policy, bounds, fields),
        "limits": _limits(policy, bounds, fields),
        "quotas": _quotas(policy, bounds, fields),
    }
    return Clamped(policy.model_copy(update=changes) if fields else policy, fields)


def fair_share(total: int, wanted: Sequence[int | None], at: int) -> int:
    """Return what one of several may take of a total, at least 1.

    Whoever wants less than an equal part gets what it wants, and the others divide what is left: the
    parts never add up to more than the total, as long as it is enough for 1 each.

    Args:
        total: to be divided.
        wanted: by each of them; None for as much as there is.
        at: which of them asks.
    """
    left, open_ = total, list(range(len(wanted)))
    while open_:
        part = left // len(open_)
        modest = [one for one in open_ if (wish := wanted[one]) is not None and wish <= part]
        if not modest:
            return max(1, part)
        for one in modest:
            wish = wanted[one] or 0
            if one == at:
                return max(1, wish)
            left -= wish
        open_ = [one for one in open_ if one not in modest]
    return max(1, left)


def _retention(policy: Policy, bounds: Bounds, fields: dict[str, str]) -> object:
    most = bounds.max_ttl
    if most is None:
        return policy.retention
    changes: dict[str, Duration] = {}
    for name in _LIFETIMES:
        asked: Duration | None = getattr(policy.retention, name)
        if asked is not None and asked.milliseconds > most.milliseconds:
            changes[name] = most
            fields[_FIELDS[name]] = str(most)
    return policy.retention.model_copy(update=changes)


def _limits(policy: Policy, bounds: Bounds, fields: dict[str, str]) -> object:
    most = bounds.max_message_size
    if most is None or policy.limits.max_message_size.bytes <= most.bytes:
        return policy.limits
    fields["limits.maxMessageSize"] = str(most)
    return policy.limits.model_copy(update={"max_message_size": most})


def _quotas(policy: Policy, bounds: Bounds, fields: dict[str, str]) -> Quotas | None:
    asked = policy.quotas or Quotas()
    sessions, size = asked.sessions or Quota(), asked.bytes or SizeQuota()
    changes: dict[str, object] = {}
    most = bounds.sessions
    if most is not None and (sessions.hard is None or sessions.hard > most):
        soft = None if sessions.soft is None else min(sessions.soft, most)
        changes["sessions"] = Quota(soft=soft, hard=most)
        fields["quotas.sessions.hard"] = str(most)
    most = bounds.bytes
    if most is not None and (size.hard is None or size.hard.bytes > most):
        limit = Quantity(str(most))
        soft = size.soft if size.soft is None or size.soft.bytes <= most else limit
        changes["bytes"] = SizeQuota(soft=soft, hard=limit)
        fields["quotas.bytes.hard"] = str(limit)
    return asked.model_copy(update=changes) if changes else policy.quotas
