"""Seeing that every key of every session has the expiry that its policy says, a step at a time.

The walk over one memory's sessions; what no index leads to is found by `surveys`. The same walk adds
up what the sessions hold, so that nothing is read twice.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from holdfast.store.maintenance import Swept
from holdfast_operator.services.conditions import timestamp
from holdfast_operator.services.measurements import NOTHING, added
from holdfast_operator.services.outcome import Event, EventType
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import Clock
from holdfast_operator.services.sweep_requests import INTERVAL, Request, first_due
from holdfast_operator.services.targets import Target
from holdfast_operator.status import Sweep

_BUDGET: Final = 0.8
_COST: Final = 0.5
_NONE: Final = Swept(NOTHING)


class Report(NamedTuple):
    """What a whole sweep found.

    Attributes:
        swept: the sums.
        request: whose it was; None for one that was due.
    """

    swept: Swept
    request: Request | None

    @property
    def dry(self) -> bool:
        """Whether nothing was changed."""
        return self.request is not None and self.request.dry

    def event(self) -> Event | None:
        """Return what to tell people, if anything."""
        swept = self.swept
        found = [
            f"{swept.repaired} keys had a wrong expiry or none" if swept.repaired else "",
            f"{swept.strays} keys belong to sessions whose counters are gone and are left to their expiry"
            if swept.strays
            else "",
            f"{swept.dropped} entries of the index had no session" if swept.dropped else "",
        ]
        listed = "; ".join(filter(None, found)) or "nothing was wrong"
        if self.dry:
            return Event(EventType.NORMAL, "SweepDryRun", f"Nothing was changed: {listed}.")
        if swept.repaired:
            return Event(EventType.WARNING, "ExpiryRepaired", f"Set right by a sweep: {listed}.")
        if self.request is not None:
            return Event(EventType.NORMAL, "Swept", f"The sweep is done: {listed}.")
        return None


@dataclass(slots=True)
class _Sweep:
    due: float
    request: Request | None = None
    size: int = 0  # as far as known: the first call of all tells
    cursor: int = 0
    sum: Swept = _NONE

    def begin(self, request: Request | None, now: float) -> None:
        self.due, self.request, self.cursor, self.sum = now, request, 0, _NONE


class Sweeps:
    """The sweeps of all memories.

    Args:
        clock: for the interval and the budget.
        paces: how fast to go.
    """

    def __init__(self, clock: Clock, paces: Paces) -> None:
        self._clock = clock
        self._paces = paces
        self._sweeps: dict[str, _Sweep] = {}

    async def advance(
        self, uid: str, target: Target, *, ttl: int, request: Request | None
    ) -> tuple[Report | None, bool]:
        """Go on sweeping a memory, if it is due or asked for.

        Args:
            uid: of the MemoryResource.
            target: what to sweep.
            ttl: milliseconds of the policy's idle time.
            request: what was asked for and has not been done.

        Returns:
            What was found when the walk is done, else None; and whether there is more to do now.

        Raises:
            HoldfastError: of the server; the next step goes on where this one stopped.
        """
        now = self._clock.monotonic()
        sweep = self._sweeps.setdefault(uid, _Sweep(first_due(uid, self._clock)))
        if request is not None and sweep.request != request:
            sweep.begin(request, now)
        if sweep.due > now:
            return None, False
        pace = self._paces.of(target.backend_uid)
        async with pace.place() as place:
            if not place:
                return None, True
            while True:
                dry = sweep.request is not None and sweep.request.dry
                step, part = await pace.call(
                    lambda limit, dry=dry: target.hands.sweep(
                        target.memory, cursor=sweep.cursor, limit=limit, ttl=ttl, mend=not dry
                    ),
                    cost=_COST,
                    expected=sweep.size,
                )
                before = _what_counts(sweep.sum, dry=dry) if step.restarted else sweep.sum
                sweep.size = step.total
                sweep.cursor, sweep.sum = step.cursor, _joined(before, part)
                if step.cursor == 0:
                    break
                if self._clock.monotonic() - now >= _BUDGET:
                    return None, True
        report = Report(sweep.sum, sweep.request)
        if not report.dry:
            await target.hands.put_usage(target.memory, target.owner, report.swept.totals)
        sweep.begin(None, self._clock.monotonic() + INTERVAL)
        return report, False

    def expedite(self, uid: str) -> None:
        """Let the next look at a memory sweep it."""
        self._sweeps.setdefault(uid, _Sweep(0.0)).begin(None, self._clock.monotonic())

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a memory that is gone."""
        self._sweeps.pop(uid, None)


def swept_status(report: Report, last: Sweep | None, clock: Clock) -> Sweep | None:
    """Return what status says of the last sweep: what was as it should be is no news."""
    swept = report.swept
    strays = last.orphans if last else 0
    if report.request is None and not swept.repaired and swept.strays in (0, strays):
        return last
    return Sweep(
        time=timestamp(clock.now()),
        repaired=swept.repaired,
        orphans=swept.strays,
        dry_run=True if report.dry else None,
        request=report.request.text if report.request else (last.request if last else None),
    )


def _what_counts(so_far: Swept, *, dry: bool) -> Swept:
    """Return what is left of the sums when a walk has to begin again: what was done stays done."""
    return _NONE if dry else so_far._replace(totals=NOTHING, strays=0)


def _joined(one: Swept, other: Swept) -> Swept:
    return Swept(
        totals=added(one.totals, other.totals),
        repaired=one.repaired + other.repaired,
        dropped=one.dropped + other.dropped,
        strays=one.strays + other.strays,
    )
