"""Which records belong together: a tool call and its results are one group.

The specification of the same step in `store/redis/scripts/append.lua`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.values import PROTECTED, Flag, Prepared, call_flags


@dataclass(slots=True)
class Grouping:
    """Groups of a batch, and what becomes of the session's open tool calls.

    Attributes:
        groups: the group of each record of the batch.
        flags: the flags of each record, with how many calls it opens and, within its group,
            closes, with `ORPHAN` where no call waited for the result, and with `PINNED` where the
            group is protected.
        protected: groups that must not be evicted, as far as this batch knows.
        opened: open calls afterwards: digest -> group.
        answered: digests of calls that are no longer open.
        joined: a record joined an older group on the caller's word.
    """

    groups: list[int] = field(default_factory=list[int])
    flags: list[int] = field(default_factory=list[int])
    protected: set[int] = field(default_factory=set[int])
    opened: dict[str, int] = field(default_factory=dict[str, int])
    answered: set[str] = field(default_factory=set[str])
    joined: bool = False


def group_records(
    records: Sequence[Prepared],
    *,
    first: int,
    waiting: Mapping[str, int],
    group_of: Callable[[int], int | None],
    is_protected: Callable[[int], bool],
) -> Grouping:
    """Give each record of a batch its group.

    Args:
        records: the batch.
        first: sequence number of its first record.
        waiting: the session's open tool calls: digest -> group.
        group_of: the group of a stored record, by its seq; None when it has left.
        is_protected: whether a stored group is protected.
    """
    result = Grouping()
    open_calls = dict(waiting)
    for offset, record in enumerate(records):
        seq = first + offset
        group, flags = seq, record.flags
        if record.group:
            within = record.group - first
            known = result.groups[within] if 0 <= within < offset else group_of(record.group)
            if known is not None:
                group, result.joined = known, True
        answered = [
            (digest, open_calls.pop(digest))
            for digest in (call.removeprefix("?") for call in record.closes)
            if digest in open_calls
        ]
        for digest, _ in answered:
            result.answered.add(digest)
            result.opened.pop(digest, None)
        if answered and group == seq:
            group = answered[0][1]
        if not answered and any(not call.startswith("?") for call in record.closes):
            flags |= Flag.ORPHAN
        closed = sum(1 for _, found in answered if found == group)
        flags |= call_flags(len(record.opens), closed)
        for digest in record.opens:
            open_calls[digest] = result.opened[digest] = group
            result.answered.discard(digest)
        if flags & PROTECTED or (group < first and is_protected(group)):
            result.protected.add(group)
        result.groups.append(group)
        result.flags.append(flags)
    for at, (group, flags) in enumerate(zip(result.groups, result.flags, strict=True)):
        if group in result.protected and not flags & PROTECTED:
            result.flags[at] = flags | Flag.PINNED
    return result
