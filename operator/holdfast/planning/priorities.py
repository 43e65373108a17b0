"""Which priority a message has, and who leaves first because of it."""

import re
from collections.abc import Sequence

from holdfast.formats import read_facts
from holdfast.policy.enums import EvictionPolicy
from holdfast.policy.parts import Eviction
from holdfast.values import Flag, Stored

NEVER_EVICTED = 0
IMPORTANT = 1


def importance(priority: int | None) -> int:
    """Return a priority's place in the order in which groups stay: the lowest stays longest.

    0 is never evicted, 1 leaves last; a message without a priority comes before it, and 2 to 9 are
    things the policy calls optional, so they leave before what the policy says nothing about.

    Args:
        priority: 0 to 9, or None without one.
    """
    if priority is None:
        return IMPORTANT + 1
    return priority if priority <= IMPORTANT else priority + 1


def group_priorities(
    records: Sequence[Stored], eviction: Eviction, format: str | None = None
) -> dict[int, int | None]:
    """Return the priority of each group: that of its most important member.

    Args:
        records: of the whole session.
        eviction: the policy's; any but `Priority` knows no priorities.
        format: message format by name; None finds it by each message's shape.

    Raises:
        ConfigurationError: no format of that name.
    """
    read = _Priorities(eviction, format)
    found: dict[int, int | None] = {}
    for record in records:
        priority = read.of(record)
        if record.group in found:
            priority = min(found[record.group], priority, key=importance)
        found[record.group] = priority
    return found


class _Priorities:
    """Reads the priority of single records."""

    def __init__(self, eviction: Eviction, format: str | None) -> None:
        self._format = format
        self._of_kind: dict[str, int] = {}
        for block in eviction.priority_blocks:
            for kind in block.content_types:
                known = self._of_kind.get(kind, block.priority)
                self._of_kind[kind] = min(known, block.priority)
        self._keyword = _whole_words(eviction.priority_keywords)
        self._any = eviction.policy is EvictionPolicy.PRIORITY and bool(
            self._of_kind or eviction.priority_keywords
        )

    def of(self, record: Stored) -> int | None:
        # A summary is text of ours: a keyword in it says nothing about the summary.
        if not self._any or record.flags & Flag.SUMMARY:
            return None
        facts = read_facts(record.item, self._format)
        found = [self._of_kind[it] for it in (facts.kind, facts.role) if it in self._of_kind]
        priority = min(found, default=None)
        if priority in (NEVER_EVICTED, IMPORTANT) or self._keyword is None:
            return priority
        return IMPORTANT if any(map(self._keyword.search, facts.texts)) else priority


def _whole_words(keywords: Sequence[str]) -> re.Pattern[str] | None:
    """Make one pattern of literal texts; a keyword such as `c++` needs no word at its edges."""
    if not keywords:
        return None
    either = "|".join(map(re.escape, keywords))
    return re.compile(rf"(?<!\w)(?:{either})(?!\w)", re.IGNORECASE)
