"""Adding up what memories hold, a bounded step at a time and not too often."""

from dataclasses import dataclass
from typing import Final

from holdfast.store.maintenance import Totals
from holdfast.values import MemoryAddress
from holdfast_operator.services.observing import Named, Observer, Unobserved
from holdfast_operator.services.pacing import Paces, spread
from holdfast_operator.services.ports import Clock
from holdfast_operator.services.targets import Target

INTERVAL: Final = 300.0
"""Seconds between measurements of one memory."""
NOTHING: Final = Totals(0, 0, 0, 0)
_BUDGET: Final = 0.5
_COST: Final = 0.1


@dataclass(slots=True)
class _Measurement:
    due: float
    cursor: int = 0
    sum: Totals = NOTHING
    last: Totals | None = None


class Measurements:
    """The measurements of all memories.

    Args:
        clock: for the interval and the budget.
        paces: how fast to go.
        observer: told each complete measurement.
    """

    def __init__(self, clock: Clock, paces: Paces, observer: Observer | None = None) -> None:
        self._clock = clock
        self._paces = paces
        self._observer = observer or Unobserved()
        self._measurements: dict[str, _Measurement] = {}

    async def advance(self, uid: str, target: Target, *, known: bool) -> tuple[Totals | None, bool]:
        """Go on measuring a memory, if it is due.

        Args:
            uid: of the MemoryResource.
            target: what to measure.
            known: status shows figures already: then the first measurement after a start can wait, and
                not all memories are measured at once.

        Returns:
            The last complete figures, None before there were any; and whether there is more to do now.

        Raises:
            HoldfastError: of the server; the next step goes on where this one stopped.
        """
        now = self._clock.monotonic()
        at_work = self._measurements.setdefault(
            uid, _Measurement(due=now + spread(uid, INTERVAL) if known else now)
        )
        if at_work.due > now:
            return at_work.last, False
        pace = self._paces.of(target.backend_uid)
        async with pace.place() as place:
            if not place:
                return at_work.last, True
            while True:
                step, part = await pace.call(
                    lambda limit: target.hands.measure(
                        target.memory, cursor=at_work.cursor, limit=limit
                    ),
                    cost=_COST,
                )
                before = NOTHING if step.restarted else at_work.sum
                at_work.cursor, at_work.sum = step.cursor, added(before, part)
                if step.cursor == 0:
                    break
                if self._clock.monotonic() - now >= _BUDGET:
                    return at_work.last, True
        self.note(uid, target.memory, at_work.sum)
        await target.hands.put_usage(target.memory, target.owner, at_work.sum)
        at_work.sum = NOTHING
        return at_work.last, False

    def note(self, uid: str, memory: MemoryAddress, totals: Totals) -> None:
        """Take in what a memory was just found to hold."""
        due = self._clock.monotonic() + INTERVAL
        at_work = self._measurements.setdefault(uid, _Measurement(due))
        at_work.last, at_work.due = totals, due
        at_work.cursor = 0
        self._observer.measured(Named(memory.namespace, memory.name), totals)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a memory that is gone."""
        self._measurements.pop(uid, None)


def added(one: Totals, other: Totals) -> Totals:
    """Return the sums, figure by figure."""
    return Totals(*(first + second for first, second in zip(one, other, strict=True)))
