"""Letting MemoryResources go: what becomes of their sessions, and that no namespace ever hangs."""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from typing import Final

from holdfast.errors import AccessDenied, HoldfastError, PolicyInvalid
from holdfast.policy import DeletionPolicy
from holdfast.store.maintenance import Superseded
from holdfast.values import MemoryAddress
from holdfast_operator.reasons import ConditionType, ReadyReason
from holdfast_operator.resources import MemoryResource
from holdfast_operator.services.conditions import (
    FALSE,
    TRUE,
    Finding,
    conditions,
    kept,
    merged,
    moment,
    not_ready,
    paused,
    reason_of,
    transition,
)
from holdfast_operator.services.fencing import Fences, fenced
from holdfast_operator.services.hidden import HiddenSessions
from holdfast_operator.services.leaving import Leavings
from holdfast_operator.services.objects import (
    ABANDON,
    PAUSED,
    is_set,
    mapping,
    named,
    uid_of,
)
from holdfast_operator.services.observing import Observer, Unobserved
from holdfast_operator.services.outcome import Event, EventType, Obstacle, Outcome, changed
from holdfast_operator.services.pacing import Pace
from holdfast_operator.services.ports import Body, Clock, Namespace
from holdfast_operator.services.rollouts import BUDGET, SETTLE
from holdfast_operator.services.targets import Target, Targets, reference
from holdfast_operator.services.walks import Walks
from holdfast_operator.status import Rollout

GIVE_UP: Final = timedelta(minutes=2)
"""How long that is unless somebody says otherwise."""
SHORTEST_WAIT: Final = 2.0
"""Seconds between the first attempts of a deletion that is blocked."""
LONGEST_WAIT: Final = 30.0

_MORE: Final = Outcome(again=0.0)
_GONE: Final = frozenset({ReadyReason.SECRET_MISSING})
"""Obstacles that mean that the server is out of reach for good."""
_WAYS_OUT: Final = (
    "Two ways out: set spec.deletionPolicy to Retain, or annotate this object with "
    f'{ABANDON}: "true"; either leaves the sessions to their expiry.'
)


class _Phase(Enum):
    REFUSING = auto()  # writers are refused; those who have not heard yet get time to
    FIRST = auto()
    SECOND = auto()
    HIDDEN = auto()  # what no index leads to


class _Left(Enum):
    """How much is left to its expiry."""

    ALL = auto()
    MORE = auto()  # not all yet
    UNKNOWN = auto()  # the server could not be asked


@dataclass(slots=True)
class _Burial:
    """A deletion under way. Lost with the process, it begins again and buries what is left."""

    backend: str
    memory: MemoryAddress
    revision: int
    begins: float
    phase: _Phase = _Phase.REFUSING
    cursor: int = 0
    buried: int = 0
    total: int = 0
    unsearched: bool = False  # the server does not let us look for what no index leads to


class DeletionService:
    """Finalizes MemoryResources.

    Args:
        targets: finds where a memory is kept.
        walks: forgotten with the memory; a deletion is one more that keeps to their pace.
        clock: for waits, budgets and transitions.
        observer: told when a newer leader was there.
        give_up: how long a terminating namespace waits for a server that does not answer.
    """

    def __init__(
        self,
        targets: Targets,
        walks: Walks,
        clock: Clock,
        observer: Observer | None = None,
        *,
        give_up: timedelta = GIVE_UP,
    ) -> None:
        self._targets = targets
        self._walks = walks
        self._clock = clock
        self._observer = observer or Unobserved()
        self._give_up = give_up
        self._burials: dict[str, _Burial] = {}
        self._hidden = HiddenSessions()
        self._fences = Fences()
        self._leavings = Leavings(clock, walks.paces)
        self._blocked: dict[str, float] = {}

    async def finalize(self, body: Body) -> Outcome:
        """Do the next step of a deletion: at most about a second of work.

        Raises:
            ClusterUnavailable: the API server does not answer; nothing can be said.
        """
        try:
            resource = MemoryResource.from_body(body)
        except PolicyInvalid:
            bare = _bare(body)
            if bare is None:
                return Outcome()  # nobody can tell where it was kept; its keys keep their expiry
            resource = bare
        metadata = resource.metadata
        uid = uid_of(metadata)
        try:
            outcome = await self._step(resource)
        except Superseded:
            # There is nothing to say: the deletion is another leader's by now, and so is the status.
            self._observer.fenced(named(metadata))
            if not self._fences.lasts(uid):
                return Outcome(again=SHORTEST_WAIT, blocked=True)
            namespace = await self._targets.own_namespace(resource)
            outcome = self._held_up(resource, namespace, fenced())
        else:
            self._fences.passed(uid)
        if outcome.again is None:
            self._walks.forget(uid)
            self._leavings.forget(uid)
            self._bury_no_more(uid)
        if not outcome.blocked:
            self._blocked.pop(uid, None)
        return outcome

    async def _step(self, resource: MemoryResource) -> Outcome:
        metadata = resource.metadata
        if resource.status.policy_revision is None:
            # It never was Ready: whatever is there, it put nothing there but a mark, perhaps.
            return _MORE if await self._release(resource) is _Left.MORE else Outcome()
        if is_set(metadata, ABANDON):
            if await self._release(resource) is _Left.MORE:
                return _MORE
            return _done(
                EventType.WARNING,
                "DataAbandoned",
                "The sessions were left behind, as the annotation said; they go when they expire.",
            )
        if resource.spec.deletion_policy is DeletionPolicy.RETAIN:
            return await self._retain(resource)
        if is_set(metadata, PAUSED):
            before, generation = resource.status, metadata.generation or 0
            after = paused(before, generation=generation, now=self._clock.now())
            return Outcome(changed(before, after), again=self._wait(uid_of(metadata)), blocked=True)
        namespace = await self._targets.own_namespace(resource)
        try:
            target = await self._target(resource, namespace)
            if target is None:
                where, name = reference(resource)
                return _done(
                    EventType.WARNING,
                    "BackendGone",
                    f"MemoryBackend {where}/{name} or its Secret is gone: sessions that may be left on the "
                    "server go when they expire.",
                )
            try:
                return await self._delete(resource, target)
            except Superseded:
                raise
            except HoldfastError as error:
                raise await self._targets.explain(target, error) from error
        except Obstacle as obstacle:
            return self._held_up(resource, namespace, obstacle)

    async def _target(self, resource: MemoryResource, namespace: Namespace) -> Target | None:
        """Return where the sessions are; None when the backend is gone.

        Whether the backend still allows the namespace does not matter: the sessions are ours.
        """
        backend = self._targets.backend(resource)
        if backend is None:
            self._targets.require_visible(resource)
            return None
        try:
            return await self._targets.on(backend, resource, namespace)
        except Obstacle as obstacle:
            if obstacle.reason in _GONE:
                return None
            raise

    async def _retain(self, resource: MemoryResource) -> Outcome:
        """Leave the sessions to their expiry. What does not answer does not hold a deletion up."""
        message = "The sessions stay until they expire (deletionPolicy Retain)."
        left = await self._release(resource)
        if left is _Left.MORE:
            return _MORE
        if left is _Left.ALL:
            return _done(EventType.NORMAL, "SessionsRetained", message)
        message += " The server could not be asked: policy and mark of ownership stay there too."
        return _done(EventType.WARNING, "SessionsRetained", message)

    async def _release(self, resource: MemoryResource) -> _Left:
        """Leave what is ours on the server to its expiry, a step at a time."""
        uid = uid_of(resource.metadata)
        self._bury_no_more(uid)
        try:
            namespace = await self._targets.own_namespace(resource)
            target = await self._target(resource, namespace)
            if target is None:
                return _Left.UNKNOWN
            done = await self._leavings.advance(uid, target)
        except Superseded:
            raise
        except (Obstacle, HoldfastError):
            return _Left.UNKNOWN
        return _Left.ALL if done else _Left.MORE

    def _bury_no_more(self, uid: str) -> None:
        burial = self._burials.pop(uid, None)
        if burial is not None:
            self._hidden.forget(burial.backend, burial.memory)

    async def _delete(self, resource: MemoryResource, target: Target) -> Outcome:
        """Refuse writers, give them time to notice, bury the sessions twice, remove the rest."""
        uid, now = uid_of(resource.metadata), self._clock.monotonic()
        revision = await target.hands.begin_deletion(target.memory, target.owner)
        if revision is None:
            if reason_of(resource.status, ConditionType.READY) == str(ReadyReason.DELETING):
                # All was done, and whoever did it got no further than that.
                message = "The sessions were deleted (deletionPolicy Delete)."
                return _done(EventType.NORMAL, "SessionsDeleted", message)
            return _done(
                EventType.WARNING,
                "NothingDeleted",
                f"The keys under {target.prefix} are not this object's: nothing was deleted.",
            )
        burial = self._burials.get(uid)
        if burial is None or burial.revision != revision:
            burial = _Burial(target.backend_uid, target.memory, revision, now + SETTLE)
            self._burials[uid] = burial
        if now < burial.begins:
            return self._progress(resource, burial, burial.begins - now)
        if burial.phase is _Phase.REFUSING:
            burial.phase = _Phase.FIRST
        pace = self._walks.paces.of(target.backend_uid)
        async with pace.place() as place:
            if not place:
                return self._progress(resource, burial, 0.0)
            while not await self._bury(burial, target, pace):
                if self._clock.monotonic() - now >= BUDGET:
                    return self._progress(resource, burial, 0.0)
        if burial.phase is _Phase.FIRST:
            burial.phase, burial.begins = _Phase.SECOND, self._clock.monotonic() + SETTLE
            return self._progress(resource, burial, SETTLE)
        await target.hands.end_deletion(target.memory, target.owner)
        message = f"{burial.buried} sessions were deleted (deletionPolicy Delete)."
        if burial.unsearched:
            message += (
                " The server denies SCAN: sessions that somebody took out of the index are left; they go "
                "when they expire."
            )
        kind = EventType.WARNING if burial.unsearched else EventType.NORMAL
        return _done(kind, "SessionsDeleted", message)

    async def _bury(self, burial: _Burial, target: Target, pace: Pace) -> bool:
        """Bury some sessions; True at the end of a pass."""
        if burial.phase is _Phase.HIDDEN:
            try:
                return await self._hidden.advance(target, burial.revision, pace)
            except AccessDenied:  # SCAN is optional, and a deletion has to end
                burial.unsearched = True
                return True
        ended = await self._bury_listed(burial, target, pace)
        if ended and burial.phase is _Phase.SECOND:
            burial.phase = _Phase.HIDDEN
            return False
        return ended

    async def _bury_listed(self, burial: _Burial, target: Target, pace: Pace) -> bool:
        step = await pace.call(
            lambda limit: target.hands.bury(
                target.memory, burial.revision, cursor=burial.cursor, limit=limit
            ),
            expected=burial.total - burial.buried,
        )
        burial.cursor = step.cursor
        burial.buried += step.changed
        burial.total = max(burial.total, burial.buried + step.total)
        return step.cursor == 0

    def _progress(self, resource: MemoryResource, burial: _Burial, again: float) -> Outcome:
        before = resource.status
        message = f"{burial.buried} of {burial.total} sessions are deleted."
        if burial.phase is _Phase.REFUSING:
            message = "Writers are refused; the sessions are deleted in seconds."
        findings = [
            Finding(ConditionType.READY, FALSE, ReadyReason.DELETING, message),
            Finding(ConditionType.RECONCILING, TRUE, ReadyReason.DELETING, message),
        ]
        found = conditions(
            before.conditions,
            findings,
            generation=resource.metadata.generation or 0,
            now=self._clock.now(),
        )
        rollout = Rollout(revision=burial.revision, done=burial.buried, total=burial.total)
        after = before.model_copy(
            update={
                "conditions": found,
                "rollout": rollout,
                "observed_generation": resource.metadata.generation or 0,
            }
        )
        return Outcome(changed(before, after), again=again, events=transition(before, after))

    def _held_up(
        self, resource: MemoryResource, namespace: Namespace, obstacle: Obstacle
    ) -> Outcome:
        """Wait for the server, but never for ever in a namespace that is going away."""
        before, now = resource.status, self._clock.now()
        ready = before.condition(ConditionType.READY)
        if namespace.terminating and ready is not None and ready.status is FALSE:
            waited = now - max(
                moment(ready.last_transition_time), moment(resource.metadata.deletion_timestamp)
            )
            if waited >= self._give_up:
                return _done(
                    EventType.WARNING,
                    "DataAbandoned",
                    "The namespace is going away and the server does not answer: the sessions were left "
                    "behind; they go when they expire.",
                )
        blocked = Obstacle(
            ReadyReason.DELETION_BLOCKED,
            f"The sessions cannot be deleted ({obstacle.reason}): {obstacle.message} {_WAYS_OUT}",
        )
        found = conditions(
            before.conditions,
            not_ready(blocked),
            generation=resource.metadata.generation or 0,
            now=now,
        )
        stays = kept(before.conditions, ConditionType.POLICY_APPLIED)
        after = before.model_copy(update={"conditions": merged(found, stays)})
        return Outcome(
            changed(before, after),
            again=self._wait(uid_of(resource.metadata)),
            events=transition(before, after),
            blocked=True,
        )

    def _wait(self, uid: str) -> float:
        """Return the wait before the next attempt: longer the longer it is blocked."""
        now = self._clock.monotonic()
        since = self._blocked.setdefault(uid, now)
        return min(LONGEST_WAIT, max(SHORTEST_WAIT, (now - since) / 2))


def _done(kind: EventType, reason: str, message: str) -> Outcome:
    return Outcome(events=(Event(kind, reason, message),))


def _bare(body: Body) -> MemoryResource | None:
    """Return what a deletion needs of an object whose spec cannot be read as a whole.

    It may have been served before it was edited, or by a version that could read it.
    """
    spec = mapping(body.get("spec"))
    for names in (("backendRef", "deletionPolicy"), ("backendRef",)):
        parts = {name: spec[name] for name in names if name in spec}
        try:
            return MemoryResource.from_body(
                {**body, "spec": {**parts, "retention": {"ttl": "24h"}}}
            )
        except PolicyInvalid:
            continue
    return None
