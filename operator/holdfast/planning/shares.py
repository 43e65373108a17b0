"""How the tokens of a session are shared out: who belongs to which share, and what each may hold."""

from collections.abc import Mapping

from holdfast.planning.priorities import IMPORTANT
from holdfast.policy.model import Policy
from holdfast.policy.parts import TokenAllocation
from holdfast.values import Flag, Stored

SYSTEM = "system"
SHORT_TERM = "shortTerm"
LONG_TERM = "longTerm"


def share_of(record: Stored, priority: int | None, parts: Mapping[str, int]) -> str:
    """Return the share that a record's tokens count to.

    Args:
        record: any record.
        priority: of its group, 0 to 9, or None without one.
        parts: the shares there are, from `share_parts`.
    """
    if record.flags & Flag.SUMMARY:
        return LONG_TERM
    if record.flags & Flag.SYSTEM:
        return SYSTEM
    if record.flags & Flag.PINNED or priority == IMPORTANT:
        return LONG_TERM
    named = record.notes.share if record.notes is not None else None
    return named if named is not None and named in parts else SHORT_TERM


def share_parts(allocation: TokenAllocation, capacity: int) -> dict[str, int]:
    """Return how many tokens each share may hold, by its name.

    Args:
        allocation: the policy's; its shares add up to 100 percent.
        capacity: what 100 percent are, in tokens; see `token_capacity`.
    """
    percents = {
        SYSTEM: allocation.system_percent,
        SHORT_TERM: allocation.short_term_percent,
        LONG_TERM: allocation.long_term_percent,
    }
    for share in allocation.user_defined:
        percents[share.name] = percents.get(share.name, 0) + share.percent
    return {name: capacity * percent // 100 for name, percent in percents.items()}


def token_capacity(policy: Policy, *, tokens: int, messages: int) -> int:
    """Return how many tokens a full session holds: what the shares are parts of.

    That is the token limit. Where only messages are limited it is what the session would hold at
    that limit if its other messages were as long as those it has: so a share is full at the same
    degree of filling as with a token limit.

    Args:
        policy: of the session.
        tokens: of the session now.
        messages: likewise.
    """
    if policy.max_tokens is not None:
        return policy.max_tokens
    return tokens * (policy.max_messages or 0) // messages if messages else 0


def block_limits(policy: Policy) -> dict[int, int]:
    """Return the most tokens of each priority whose block says so."""
    blocks = policy.eviction.priority_blocks
    return {it.priority: it.max_tokens for it in blocks if it.max_tokens is not None}
