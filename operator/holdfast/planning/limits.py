"""When a flush is due, and how far down it goes: numbers alone, asked after every append."""

from dataclasses import dataclass
from typing import Final

from holdfast.policy.enums import FlushingStrategy
from holdfast.policy.model import Policy

_BY_FILLING: Final = frozenset(FlushingStrategy) - {
    FlushingStrategy.DISABLED,
    FlushingStrategy.TIME_BASED,
}
_LEAST_PART: Final = 8  # of what lies between target and threshold: less is not worth a flush


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


@dataclass(frozen=True, slots=True)
class Left:
    """What a flush left of a session that it could not bring to its target, and what came since.

    Attributes:
        tokens: of the session then, or the fewest since: what was in the way may have left otherwise.
        messages: likewise.
        gave: whether anything left in that flush.
        came_tokens: of what was appended since, as far as is known here.
        came_messages: likewise.
    """

    tokens: int
    messages: int
    gave: bool
    came_tokens: int = 0
    came_messages: int = 0

    def then(self, *, tokens: int, messages: int, came_tokens: int, came_messages: int) -> "Left":
        """Return what is known after an append.

        Args:
            tokens: of the session now.
            messages: likewise.
            came_tokens: of what was appended.
            came_messages: likewise.
        """
        return Left(
            min(self.tokens, tokens),
            min(self.messages, messages),
            self.gave,
            self.came_tokens + came_tokens,
            self.came_messages + came_messages,
        )


def left_by(limit: Limit, *, tokens: int, messages: int, gave: bool) -> Left | None:
    """Return what to remember of a flush until the next one; None where it reached its target.

    Args:
        limit: the policy's, from `limits_of`.
        tokens: of the session as the flush left it.
        messages: likewise.
        gave: whether anything left.
    """
    return None if limit.reached(tokens, messages) else Left(tokens, messages, gave)


def is_due(limit: Limit, *, tokens: int, messages: int, left: Left | None = None) -> bool:
    """Tell from a session's counters whether a flush is due.

    Where the last one could not reach its target, a flush would be due at every append and find next to
    nothing. So the next one is due when as much has come as lies between target and threshold, or half
    of the room that was left, if that is less, but no less than an eighth of it and not with the next
    message alone. What has come counts, and not only how the session grew: a full one no longer grows,
    since the limits take the oldest out as others come.

    Always False for the strategies `Disabled` and `TimeBased`; for the latter see `next_time_due`.

    Args:
        limit: the policy's, from `limits_of`.
        tokens: of the session now.
        messages: likewise.
        left: by the last flush, from `left_by`; None also where that is not known.
    """
    full_tokens = 0 < limit.threshold_tokens <= tokens
    full_messages = 0 < limit.threshold_messages <= messages
    if left is None:
        return full_tokens or full_messages
    return (
        full_tokens
        and _has_come(
            limit.threshold_tokens - limit.target_tokens,
            above=left.tokens > limit.target_tokens,
            room=limit.max_tokens - left.tokens,
            came=max(left.came_tokens, tokens - left.tokens),
            left=left,
        )
    ) or (
        full_messages
        and _has_come(
            limit.threshold_messages - limit.target_messages,
            above=left.messages > limit.target_messages,
            room=limit.max_messages - left.messages,
            came=max(left.came_messages, messages - left.messages),
            left=left,
        )
    )


def _has_come(gap: int, *, above: bool, room: int, came: int, left: Left) -> bool:
    """Tell whether enough has come since a flush that left a session above its target or below it.

    Args:
        gap: between target and threshold.
        above: whether it was above.
        room: up to the hard limit, as the flush left it.
        came: since, in the same measure.
        left: by the flush.
    """
    if not above or came >= gap:
        return True
    if not left.gave or left.came_messages <= 1:
        return False
    return came >= max(1, gap // _LEAST_PART, min(gap, room // 2))
