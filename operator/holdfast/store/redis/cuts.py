"""Parts of a session, cut from what its two lists returned, also where some records cannot be read.

What cannot be read was written by something else, or was damaged. It is left out and counted; what must not
happen is that it hides what stands behind it.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from holdfast.store.redis.replies import records_in_order
from holdfast.store.refusals import corrupt_record
from holdfast.values import Newest, Stored

_SEQ = re.compile(rb"\[\d+,\d+,(\d+),")


class Cut(NamedTuple):
    """Records in order.

    `next` is the number that the next part comes after, None where nothing follows; `corrupt` is how
    many were left out.
    """

    records: Sequence[Stored]
    next: int | None
    corrupt: int = 0


def newest_of(
    log: Sequence[bytes], pin: Sequence[bytes], *, asked: int, count: int
) -> Newest | None:
    """Return the newest records of the ends of both lists.

    None where the ends are too short to say: so much of them cannot be read.

    Args:
        log: its end, as stored.
        pin: likewise.
        asked: how long the ends are, unless the lists are shorter.
        count: how many records are wanted.
    """
    records, corrupt = records_in_order(log, pin)
    if corrupt:
        for end in (log, pin):
            if len(end) >= asked and len(end) - records_in_order(end)[1] < count:
                return None
    return Newest(records[-count:], corrupt)


def part_of(log: Sequence[bytes], pin: Sequence[bytes], *, limit: int) -> Cut:
    """Return the oldest `limit` records of the beginnings of both lists.

    Args:
        log: its beginning as stored, one longer than `limit` unless it ends before.
        pin: likewise.
        limit: how many records the part has at most, those that cannot be read included.

    Raises:
        CorruptRecord: not even the numbers of so many can be read, so nobody can tell what follows.
    """
    records, corrupt = records_in_order(log, pin)
    if not corrupt:
        shown = records[:limit]
        return Cut(shown, shown[-1].seq if len(records) > limit else None)
    cut = [beginning for beginning in (log, pin) if len(beginning) > limit]
    ends = [max(_numbers(beginning), default=0) for beginning in cut]
    if 0 in ends:
        raise corrupt_record()
    # Behind the end of one list that goes on there may be more of it than of the other.
    numbers = sorted(_numbers([*log, *pin]))
    reach = min(ends) if ends else (numbers[-1] if numbers else 0)
    there = [number for number in numbers if number <= reach]
    last = there[:limit][-1] if there else 0
    more = len(there) > limit or bool(cut)
    part = [record for record in records if record.seq <= last]
    return Cut(part, last if more else None, corrupt)


def _numbers(beginning: Sequence[bytes]) -> list[int]:
    return [int(match[1]) for record in beginning if (match := _SEQ.match(record))]
