"""The backstop: which records leave so that a session is within its hard limits.

This is the specification; `store/redis/scripts/lib/backstop.lua` is the same decision inside Redis, and
a property test holds the two together.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from holdfast.values import Stored, Terms


@dataclass(frozen=True, slots=True)
class Backstop:
    """What the backstop decides.

    Attributes:
        evict: positions of the records that leave, ascending.
        tokens: what the session still has too much after that, at least 0.
        messages: likewise.
        waiting_tokens: tokens of groups that stay only because a tool call is still open.
        waiting_messages: likewise.
    """

    evict: tuple[int, ...]
    tokens: int
    messages: int
    waiting_tokens: int
    waiting_messages: int

    @property
    def over(self) -> bool:
        """Whether the session stays above a limit."""
        return self.tokens > 0 or self.messages > 0

    @property
    def hopeless(self) -> bool:
        """Whether it would stay above a limit even when the open tool calls were answered."""
        return self.tokens > self.waiting_tokens or self.messages > self.waiting_messages


def plan_backstop(
    evictable: Sequence[Stored],
    *,
    tokens: int,
    messages: int,
    terms: Terms,
    keep: Collection[int],
    now: int,
) -> Backstop:
    """Evict whole groups, oldest first, until the session is exactly within its limits.

    Never taken: groups in `keep` (those of the records being appended), and groups with an open tool
    call whose last record is younger than the lease TTL: a result may still come, but a holder that
    was killed must not block eviction for ever.

    Args:
        evictable: the records of the log, oldest first; protected records are never here.
        tokens: of the whole session, protected and new records included.
        messages: likewise.
        terms: the limits.
        keep: groups that stay.
        now: milliseconds since 1970.

    Cost: O(records looked at); groups may lie apart.
    """
    excess_tokens = max(0, tokens - terms.max_tokens) if terms.max_tokens else 0
    excess_messages = max(0, messages - terms.max_messages) if terms.max_messages else 0
    evict: set[int] = set()
    skipped: set[int] = set(keep)
    waiting_tokens = waiting_messages = 0
    for index, record in enumerate(evictable):
        if excess_tokens <= 0 and excess_messages <= 0:
            break
        if index in evict or record.group in skipped:
            continue
        members = [at for at in range(index, len(evictable)) if evictable[at].group == record.group]
        freed = sum(evictable[at].tokens for at in members)
        if _is_open([evictable[at] for at in members], now, terms.lease):
            skipped.add(record.group)
            waiting_tokens += freed
            waiting_messages += len(members)
            continue
        evict.update(members)
        excess_tokens -= freed
        excess_messages -= len(members)
    return Backstop(
        evict=tuple(sorted(evict)),
        tokens=max(0, excess_tokens),
        messages=max(0, excess_messages),
        waiting_tokens=waiting_tokens,
        waiting_messages=waiting_messages,
    )


def _is_open(group: Sequence[Stored], now: int, patience: int) -> bool:
    missing = sum(record.opens for record in group) > sum(record.closes for record in group)
    return missing and group[-1].ts + patience > now
