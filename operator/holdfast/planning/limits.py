"""When a flush is due, and how far down it goes: numbers alone, asked after every append."""

from dataclasses import dataclass, replace
from typing import Final

from holdfast.policy.enums import FlushingStrategy
from holdfast.policy.model import Policy

_BY_FILLING: Final = frozenset(FlushingStrategy) - {
    FlushingStrategy.DISABLED,
    FlushingStrategy.TIME_BASED,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """How full a session may become before it is flushed, and how full a flush leaves it.

    Attributes:
        max_tokens: hard limit; 0 when tokens are not limited.
        max_messages: hard limit; 0 when messages are not limited.
        threshold_tokens: a flush is due from here on; 0 when filling starts none.
        threshold_messages: likewise.
        target_tokens: a flush goes down to this; without meaning where `max_tokens` is 0.
        target_messages: likewise for `max_messages`.
    """

    max_tokens: int
    max_messages: int
    threshold_tokens: int
    threshold_messages: int
    target_tokens: int
    target_messages: int

    def reached(self, tokens: int, messages: int) -> bool:
        """Tell whether a session of this size is at its target."""
        return (not self.max_tokens or tokens <= self.target_tokens) and (
            not self.max_messages or messages <= self.target_messages
        )


def limits_of(policy: Policy) -> Limit:
    """Return a policy's limits, with threshold and target as numbers.

    The threshold is rounded up and the target down, so the one is always above the other.
    """
    flushing = policy.flushing
    by_filling = flushing.strategy in _BY_FILLING
    most = (policy.max_tokens or 0, policy.max_messages or 0)
    thresholds = [-(-it * flushing.threshold_percent // 100) if by_filling else 0 for it in most]
    targets = [it * flushing.target_percent // 100 for it in most]
    return Limit(*most, *thresholds, *targets)


def is_due(limit: Limit, *, tokens: int, messages: int) -> bool:
    """Tell from a session's counters whether a flush is due.

    Always False for the strategies `Disabled` and `TimeBased`; for the latter see `next_time_due`.
    """
    return 0 < limit.threshold_tokens <= tokens or 0 < limit.threshold_messages <= messages


def limit_after(limit: Limit, *, tokens: int, messages: int) -> Limit:
    """Return the limit that holds for a session from one flush to the next.

    Where protected groups keep a session above its target, the threshold moves up: the next flush
    is due when the session has grown by as much as lies between target and threshold, or is full.
    Without that it would be due at every append and find next to nothing.

    Args:
        limit: the policy's, from `limits_of`.
        tokens: of the session as the flush left it.
        messages: likewise.
    """
    return replace(
        limit,
        threshold_tokens=_next_threshold(
            limit.threshold_tokens, limit.target_tokens, limit.max_tokens, tokens
        ),
        threshold_messages=_next_threshold(
            limit.threshold_messages, limit.target_messages, limit.max_messages, messages
        ),
    )


def _next_threshold(threshold: int, target: int, most: int, left: int) -> int:
    if not threshold or left <= target:
        return threshold
    return max(left + 1, min(most, left + threshold - target))
