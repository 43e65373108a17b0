"""Looking at every key of a backend, a step at a time: what no index leads to is found only so.

Sessions that are missing in the index of their memory are put back. Key names of memories that no
resource stands for are orphans: they are reported, and never deleted on their own.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from holdfast.errors import HoldfastError
from holdfast.store.maintenance import Maintenance, Orphan, Survey
from holdfast.values import MemoryAddress
from holdfast_operator.reasons import ConditionType
from holdfast_operator.resources import MemoryBackend
from holdfast_operator.services import figures
from holdfast_operator.services.conditions import is_true, listed, timestamp
from holdfast_operator.services.objects import (
    PAUSED,
    backend_ref,
    is_set,
    metadata_of,
    named,
    namespace_of,
    status_of,
    uid_of,
)
from holdfast_operator.services.observing import Named, Observer, Unobserved
from holdfast_operator.services.outcome import Event, EventType
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import Clock, Cluster
from holdfast_operator.services.sweep_requests import (
    INTERVAL,
    REQUEST,
    Request,
    first_due,
    requested,
)
from holdfast_operator.status import ResourceStatus, Sweep

DOUBT: Final = 3600.0
"""Seconds after which an orphan without an expiry is one for certain, if it was seen before."""
FAULTS: Final = 3
"""Failures in a row after which people are told."""
_BUDGET: Final = 0.5
_COST: Final = 0.1


class Report(NamedTuple):
    """What a whole survey found.

    Attributes:
        repaired: keys that got an expiry.
        relisted: sessions that were missing in an index.
        orphans: by the memory they are named after.
        request: whose it was; None for one that was due.
    """

    repaired: int
    relisted: int
    orphans: dict[MemoryAddress, Orphan]
    request: Request | None

    @property
    def keys(self) -> int:
        """How many keys are orphans."""
        return sum(orphan.keys for orphan in self.orphans.values())


@dataclass(slots=True)
class _Walk:
    due: float
    request: Request | None = None
    cursor: int = 0
    repaired: int = 0
    relisted: int = 0
    orphans: dict[MemoryAddress, Orphan] = field(default_factory=dict[MemoryAddress, Orphan])
    suspects: dict[MemoryAddress, float] = field(default_factory=dict[MemoryAddress, float])
    faults: int | None = None  # in a row; None: not tried yet

    def begin(self, request: Request | None, due: float) -> None:
        self.due, self.request, self.cursor = due, request, 0
        self.repaired = self.relisted = 0
        self.orphans = {}

    def take_in(self, step: Survey) -> None:
        self.cursor = step.cursor
        self.repaired += step.repaired
        self.relisted += step.relisted
        for memory, one in step.orphans.items():
            had = self.orphans.get(memory, Orphan(0, 0, one.ours))
            self.orphans[memory] = Orphan(
                had.keys + one.keys, had.immortal + one.immortal, one.ours
            )


class Surveys:
    """The surveys of all backends.

    Args:
        cluster: says which memories there are.
        clock: for the interval and the budget.
        paces: how fast to go.
        observer: told how many memories have keys and no resource.
    """

    def __init__(
        self, cluster: Cluster, clock: Clock, paces: Paces, observer: Observer | None = None
    ) -> None:
        self._observer = observer or Unobserved()
        self._cluster = cluster
        self._clock = clock
        self._paces = paces
        self._walks: dict[str, _Walk] = {}

    async def advance(
        self, backend: MemoryBackend, hands: Maintenance
    ) -> tuple[Sweep | None, tuple[Event, ...], bool]:
        """Go on with the survey of a backend, if it is due or asked for.

        Returns:
            What status should say of the last sweep; what to tell people; whether there is more to do now.

        Raises:
            HoldfastError: of the server; the next step goes on where this one stopped. Counted.
            ClusterUnavailable: the API server does not say which cluster this is.
        """
        metadata, last = backend.metadata, backend.status.last_sweep
        uid, now = uid_of(metadata), self._clock.monotonic()
        handled = last.request if last else None
        walk = self._walks.setdefault(uid, _Walk(first_due(uid, self._clock)))
        request = requested(metadata, handled)
        if request is not None and walk.request != request:
            walk.begin(request, now)
        if walk.due > now:
            if last is not None and handled is not None and REQUEST not in metadata.annotations:
                last = last.model_copy(update={"request": None})
            return last, (), False
        async with self._paces.of(uid).place() as place:
            if not place:
                return last, (), True
            try:
                ended = await self._walk(walk, backend, hands)
            except HoldfastError:
                walk.faults = (walk.faults or 0) + 1
                self._observer.survey_failed(named(metadata))
                raise
            walk.faults = 0
            if not ended:
                return last, (), True
        report = self._close(walk)
        self._observer.orphans(named(metadata), len(report.orphans))
        return _status(report, last, self._clock), _events(report, last), False

    async def _walk(self, walk: _Walk, backend: MemoryBackend, hands: Maintenance) -> bool:
        """Go on for the length of a step; True at the end of the walk."""
        cluster, metadata = await self._cluster.cluster_id(), backend.metadata
        home = named(metadata)
        pace, until = self._paces.of(uid_of(metadata)), self._clock.monotonic() + _BUDGET
        mend = walk.request is None or not walk.request.dry
        while True:
            served, elsewhere = self._memories(home)
            certain = self._clock.monotonic() - DOUBT
            expire = [
                memory
                for memory, since in walk.suspects.items()
                if since <= certain and self._cluster.watches(memory.namespace)
            ]
            step = await pace.call(
                lambda limit, served=served, elsewhere=elsewhere, expire=expire: hands.survey(
                    served,
                    elsewhere,
                    cluster=cluster,
                    expire=expire,
                    cursor=walk.cursor,
                    limit=limit,
                    mend=mend,
                ),
                cost=_COST,
            )
            walk.take_in(step)
            if step.cursor == 0:
                return True
            if self._clock.monotonic() >= until:
                return False

    def _memories(self, home: Named) -> tuple[frozenset[MemoryAddress], frozenset[MemoryAddress]]:
        """Return the memories that are Ready on a backend, and all others that have a resource."""
        served: set[MemoryAddress] = set()
        elsewhere: set[MemoryAddress] = set()
        for body in self._cluster.memories():
            metadata = metadata_of(body)
            memory = MemoryAddress(namespace_of(metadata), metadata.name)
            kept_here = (
                backend_ref(body) == home
                and metadata.deletion_timestamp is None
                and not is_set(metadata, PAUSED)
                and is_true(status_of(body, ResourceStatus), ConditionType.READY)
            )
            (served if kept_here else elsewhere).add(memory)
        return frozenset(served), frozenset(elsewhere)

    def _close(self, walk: _Walk) -> Report:
        """End a walk; return what it found in the namespaces that we see."""
        now = self._clock.monotonic()
        orphans = {
            memory: one
            for memory, one in sorted(walk.orphans.items())
            if self._cluster.watches(memory.namespace)
        }
        walk.suspects = {
            memory: walk.suspects.get(memory, now)
            for memory, one in orphans.items()
            if one.ours and one.immortal
        }
        report = Report(walk.repaired, walk.relisted, orphans, walk.request)
        walk.begin(None, now + INTERVAL)
        return report

    def fails(self, uid: str) -> bool | None:
        """Whether the survey of a backend fails again and again; None: it was not tried yet."""
        walk = self._walks.get(uid)
        if walk is None or walk.faults is None:
            return None
        return walk.faults >= FAULTS

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a backend that is gone."""
        self._walks.pop(uid, None)
        self._paces.forget(uid)


def _status(report: Report, last: Sweep | None, clock: Clock) -> Sweep | None:
    """Return what status says: the same orphans as before are no news."""
    repaired = report.repaired + report.relisted
    known = last.orphans if last else 0
    if report.request is None and not repaired and not figures.moved(known, report.keys):
        return last
    return Sweep(
        time=timestamp(clock.now()),
        repaired=repaired,
        orphans=report.keys,
        dry_run=True if report.request and report.request.dry else None,
        request=report.request.text if report.request else (last.request if last else None),
    )


def _events(report: Report, last: Sweep | None) -> tuple[Event, ...]:
    found: list[Event] = []
    if report.relisted or report.repaired:
        dry = report.request is not None and report.request.dry
        message = (
            f"{report.relisted} sessions were missing in the index of their memory, and {report.repaired} "
            f"keys had no expiry. {'Nothing was changed' if dry else 'That is set right'}."
        )
        reason = "SweepDryRun" if dry else "KeysRepaired"
        found.append(Event(EventType.NORMAL if dry else EventType.WARNING, reason, message))
    if report.orphans and figures.moved(last.orphans if last else 0, report.keys):
        names = [str(memory) for memory in report.orphans]
        immortal = sum(orphan.immortal for orphan in report.orphans.values())
        message = (
            f"{report.keys} keys belong to memories without a MemoryResource: {listed(names)}. They are not "
            f"deleted; {immortal} of them have no expiry. Make the resource again, or remove the keys."
        )
        found.append(Event(EventType.WARNING, "OrphansFound", message))
    if not found and report.request is not None:
        found.append(Event(EventType.NORMAL, "Swept", "The sweep is done: nothing was wrong."))
    return tuple(found)
