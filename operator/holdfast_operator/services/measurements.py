"""Adding up what memories hold, a bounded step at a time and not too often."""

import zlib
from dataclasses import dataclass
from typing import Final

from holdfast.store.maintenance import Maintenance, Owner, Totals
from holdfast.values import MemoryAddress
from holdfast_operator.services.observing import Named, Observer, Unobserved
from holdfast_operator.services.ports import Clock

INTERVAL: Final = 300.0
"""Seconds between measurements of one memory."""
_BUDGET: Final = 0.5
_LIMIT: Final = 500
_NOTHING: Final = Totals(0, 0, 0, 0)


@dataclass(slots=True)
class _Measurement:
    due: float
    cursor: int = 0
    sum: Totals = _NOTHING
    last: Totals | None = None


class Measurements:
    """The measurements of all memories.

    Args:
        clock: for the interval and the budget.
        observer: told each complete measurement.
    """

    def __init__(self, clock: Clock, observer: Observer | None = None) -> None:
        self._clock = clock
        self._observer = observer or Unobserved()
        self._measurements: dict[str, _Measurement] = {}

    async def advance(
        self, uid: str, hands: Maintenance, memory: MemoryAddress, owner: Owner, *, known: bool
    ) -> tuple[Totals | None, bool]:
        """Go on measuring a memory, if it is due.

        Args:
            uid: of the MemoryResource.
            hands: in its server.
            memory: what to measure.
            owner: as whom to write the figures.
            known: status shows figures already: then the first measurement after a start can wait, and
                not all memories are measured at once.

        Returns:
            The last complete figures, None before there were any; and whether there is more to do now.

        Raises:
            HoldfastError: of the server; the next step goes on where this one stopped.
        """
        now = self._clock.monotonic()
        at_work = self._measurements.setdefault(
            uid, _Measurement(due=now + _spread(uid) if known else now)
        )
        while at_work.due <= now:
            step, part = await hands.measure(memory, cursor=at_work.cursor, limit=_LIMIT)
            at_work.cursor, at_work.sum = step.cursor, _added(at_work.sum, part)
            if step.cursor == 0:
                at_work.last, at_work.sum = at_work.sum, _NOTHING
                at_work.due = now + INTERVAL
                self._observer.measured(Named(memory.namespace, memory.name), at_work.last)
                await hands.put_usage(memory, owner, at_work.last)
            elif self._clock.monotonic() - now >= _BUDGET:
                return at_work.last, True
        return at_work.last, False

    def expedite(self, uid: str) -> None:
        """Let the next look at a memory measure it."""
        now = self._clock.monotonic()
        self._measurements.setdefault(uid, _Measurement(now)).due = now

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a memory that is gone."""
        self._measurements.pop(uid, None)


def _spread(uid: str) -> float:
    """Return seconds within the interval, always the same for a memory."""
    return zlib.crc32(uid.encode()) % INTERVAL


def _added(one: Totals, other: Totals) -> Totals:
    return Totals(*(first + second for first, second in zip(one, other, strict=True)))
