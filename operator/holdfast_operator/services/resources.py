"""MemoryResources: whose keys, under which policy, and how far the sessions follow it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from holdfast.errors import HoldfastError, PolicyInvalid
from holdfast.policies import terms_of
from holdfast.policy import Policy, differences_not_in_force
from holdfast.policy.quotas import Quotas
from holdfast.store.maintenance import Ownership, Totals
from holdfast_operator.reasons import (
    ConditionType,
    NotInForceReason,
    PolicyReason,
    ReadyReason,
)
from holdfast_operator.resources import MemoryResource
from holdfast_operator.services import figures
from holdfast_operator.services.access import ADOPT, hands_over
from holdfast_operator.services.clamping import Clamped
from holdfast_operator.services.conditions import (
    FALSE,
    TRUE,
    Finding,
    conditions,
    healing_interval,
    moment,
    not_ready,
    paused,
    reason_of,
    timestamp,
    transition,
)
from holdfast_operator.services.fencing import Fences, fenced
from holdfast_operator.services.objects import PAUSED, is_set, uid_of, unreadable
from holdfast_operator.services.observing import Named, Observer, Unobserved
from holdfast_operator.services.outcome import Event, EventType, Obstacle, Outcome, changed
from holdfast_operator.services.ports import Body, Clock
from holdfast_operator.services.rollouts import Progress
from holdfast_operator.services.sweep_requests import REQUEST, requested
from holdfast_operator.services.sweeps import swept_status
from holdfast_operator.services.targets import Target, Targets, reference
from holdfast_operator.services.tenants import guarded
from holdfast_operator.services.walks import Walks
from holdfast_operator.status import EffectiveLimits, ResourceStatus, Rollout, Usage

_FENCED_AGAIN = 5.0
_PENDING_AGAIN = 1.0
_DOUBT_AGAIN, _DOUBTS = 1.0, 3
_FIRST_LOOK = timedelta(seconds=5)
_SUSPICIOUS = frozenset(
    {
        ReadyReason.BACKEND_UNREACHABLE,
        ReadyReason.AUTHENTICATION_FAILED,
        ReadyReason.PERMISSION_DENIED,
        ReadyReason.SERVER_FULL,
        ReadyReason.SERVER_REPLACED,
    }
)
_SETTLED = frozenset(
    {PolicyReason.APPLIED, PolicyReason.UNSATISFIED, PolicyReason.CLAMPED_BY_BACKEND}
)


class _Superseded(Exception):
    """A newer leader acts, or the memory is being deleted: there is nothing to say."""


@dataclass(slots=True)
class _Look:
    """What one reconcile found: it becomes the status."""

    resource: MemoryResource
    changes: dict[str, Any]
    findings: list[Finding]
    events: list[Event]
    again: float | None = None
    measured: Totals | None = None


class ResourceService:
    """Reconciles MemoryResources.

    Args:
        targets: finds where a memory is kept.
        walks: over sessions, that are under way.
        clock: for transitions and intervals.
        observer: told when a newer leader was there, and what sweeps repaired.
    """

    def __init__(
        self, targets: Targets, walks: Walks, clock: Clock, observer: Observer | None = None
    ) -> None:
        self._targets = targets
        self._walks = walks
        self._clock = clock
        self._observer = observer or Unobserved()
        self._faults: dict[str, int] = {}
        self._fences = Fences()

    async def reconcile(self, body: Body) -> Outcome:
        """Bring a memory on its server to what its object says: at most about a second of work.

        Raises:
            ClusterUnavailable: the API server does not answer; nothing can be said.
        """
        try:
            resource = MemoryResource.from_body(body)
        except PolicyInvalid as error:
            return unreadable(body, ResourceStatus, error, self._clock)
        now, before = self._clock.now(), resource.status
        generation = resource.metadata.generation or 0
        if is_set(resource.metadata, PAUSED):
            return Outcome(changed(before, paused(before, generation=generation, now=now)))
        look = _Look(resource, {"type": resource.spec.type}, [], [])
        suspect: tuple[str, str] | None = None
        try:
            await self._look(look)
        except Obstacle as obstacle:
            if obstacle.reason is ReadyReason.BACKEND_NOT_READY and self._is_new(resource):
                return Outcome(again=_PENDING_AGAIN)
            if obstacle.reason in _SUSPICIOUS:
                suspect = reference(resource)
                if self._doubt(resource):
                    return Outcome(again=_DOUBT_AGAIN, suspect=suspect)
            look.findings = [*not_ready(obstacle), *_policy_meanwhile(resource)]
        except _Superseded:
            return Outcome(again=_FENCED_AGAIN)
        else:
            self._faults.pop(uid_of(resource.metadata), None)
        look.findings += _not_in_force(resource)
        after = self._status(look)
        again = look.again if look.again is not None else healing_interval(after, now)
        events = (*transition(before, after), *look.events)
        return Outcome(changed(before, after), again=again, events=events, suspect=suspect)

    def _doubt(self, resource: MemoryResource) -> bool:
        """Whether a fault of the server may be over in a moment, or is the backend's to tell.

        Then a memory that is Ready stays so: the backend is looked at, and if it is not Ready any more
        its memories follow, with one write each.
        """
        uid = uid_of(resource.metadata)
        faults = self._faults[uid] = self._faults.get(uid, 0) + 1
        ready = resource.status.condition(ConditionType.READY)
        settled = (
            ready is not None
            and ready.status is TRUE
            and ready.observed_generation == resource.metadata.generation
        )
        return settled and faults <= _DOUBTS

    def _is_new(self, resource: MemoryResource) -> bool:
        """Whether the backend was made a moment ago and is about to be looked at.

        Then there is nothing to tell people yet: a folder of manifests is applied all at once.
        """
        try:
            backend = self._targets.backend(resource)
        except Obstacle:
            return False
        if backend is None:
            return False
        pending = reason_of(backend.status, ConditionType.READY) == str(ReadyReason.PENDING)
        age = self._clock.now() - moment(backend.metadata.creation_timestamp)
        return pending and age < _FIRST_LOOK

    async def _look(self, look: _Look) -> None:
        target = await self._targets.find(look.resource)
        try:
            await self._work(look, target)
        except HoldfastError as error:
            raise await self._targets.explain(target, error) from error

    async def _work(self, look: _Look, target: Target) -> None:
        uid = uid_of(look.resource.metadata)
        holds = guarded(
            look.resource, target.backend, lambda: self._targets.sharing_backend(look.resource)
        )
        await target.require_same_data()
        await self._claim(look, target)
        policy = holds.policy
        revision = await target.hands.put_policy(
            target.memory,
            target.owner,
            policy.document(),
            policy.sha256(),
            before=look.resource.status.policy_revision or 0,
        )
        if revision is None:
            raise _Superseded
        look.changes |= {
            "policy_revision": revision,
            "key_prefix": target.prefix,
            "effective": _effective(policy),
        }
        ready = f"Sessions are kept under {target.prefix} on MemoryBackend {target.backend_name}."
        look.findings.append(Finding(ConditionType.READY, TRUE, ReadyReason.AVAILABLE, ready))
        settled = _settled(look.resource.status, revision, holds)
        if settled is None or (
            settled.reason == PolicyReason.UNSATISFIED and self._walks.rollouts.check_due(uid)
        ):
            progress = await self._walks.rollouts.advance(uid, target, terms_of(policy, revision))
            self._note_progress(look, progress, revision, settled, holds)
        else:
            look.findings.append(settled)
        if look.again is None:
            await self._sweep(look, target, ttl=terms_of(policy, revision).ttl)
        if look.again is None:
            known = look.resource.status.usage is not None
            look.measured, more = await self._walks.measurements.advance(uid, target, known=known)
            look.again = 0.0 if more else None

    async def _sweep(self, look: _Look, target: Target, *, ttl: int) -> None:
        """Sweep the memory if it is time or somebody asked."""
        metadata, last = look.resource.metadata, look.resource.status.last_sweep
        uid, handled = uid_of(metadata), last.request if last else None
        report, more = await self._walks.sweeps.advance(
            uid, target, ttl=ttl, request=requested(metadata, handled)
        )
        if more:
            look.again = 0.0
        if report is not None:
            if not report.dry:
                self._walks.measurements.note(uid, target.memory, report.swept.totals)
                self._observer.repaired(Named(*target.memory), report.swept.repaired)
            event = report.event()
            look.events += [event] if event else []
            look.changes["last_sweep"] = swept_status(report, last, self._clock)
        elif last is not None and handled is not None and REQUEST not in metadata.annotations:
            look.changes["last_sweep"] = last.model_copy(update={"request": None})

    async def _claim(self, look: _Look, target: Target) -> None:
        """Make sure that the keys carry our mark."""
        hands, memory, owner = target.hands, target.memory, target.owner
        found = await hands.claim(memory, owner)
        adopt = hands_over(target.backend.metadata.annotations, str(memory))
        if found in {Ownership.OTHER, Ownership.UNMARKED} and adopt:
            found = await hands.claim(memory, owner, adopt=True)
        match found:
            case Ownership.OURS:
                self._fences.passed(uid_of(look.resource.metadata))
                return
            case Ownership.MENDED:
                message = (
                    "Something that was no index stood in place of the index of sessions, and was "
                    "removed. The look at all keys of the backend finds the sessions again, within the hour."
                )
                look.events.append(Event(EventType.WARNING, "IndexRemoved", message))
            case Ownership.TAKEN_OVER:
                message = (
                    f"The keys under {target.prefix} are taken over, with the sessions in them."
                )
                look.events.append(Event(EventType.NORMAL, "TakenOver", message))
            case Ownership.FENCED:
                self._observer.fenced(Named(*memory))
                if self._fences.lasts(uid_of(look.resource.metadata)):
                    raise fenced()
                raise _Superseded
            case Ownership.OTHER | Ownership.UNMARKED:
                whose = (
                    "belong to another cluster, or to an earlier namespace of this name"
                    if found is Ownership.OTHER
                    else "hold sessions that nobody marked as theirs"
                )
                raise Obstacle(
                    ReadyReason.KEYS_OWNED_BY_OTHER,
                    f"The keys under {target.prefix} {whose}. Nothing is written. Choose another name, "
                    f"or let the owner of MemoryBackend {target.backend_name} hand them over with the "
                    f'annotation {ADOPT}: "{memory}" on it.',
                )

    def _note_progress(
        self,
        look: _Look,
        progress: Progress,
        revision: int,
        settled: Finding | None,
        holds: Clamped,
    ) -> None:
        done, total = progress.done, progress.total
        if not progress.finished:
            look.again = progress.again
            if settled is not None:  # only a second look at what could not be satisfied
                look.findings.append(settled)
                return
            look.changes["rollout"] = Rollout(revision=revision, done=done, total=total)
            message = (
                f"New calls follow revision {revision}; {done} of {total} sessions do so far."
                if total
                else f"New calls follow revision {revision}; the sessions that exist follow in seconds."
            )
            look.findings += [
                Finding(ConditionType.POLICY_APPLIED, FALSE, PolicyReason.ROLLING_OUT, message),
                Finding(ConditionType.RECONCILING, TRUE, PolicyReason.ROLLING_OUT, message),
            ]
            return
        look.changes["rollout"] = Rollout(revision=revision, done=done, total=total)
        uid = uid_of(look.resource.metadata)
        if settled is None:
            self._walks.sweeps.expedite(uid)
        finding = _applied(progress, revision, holds)
        look.findings.append(finding)
        if progress.unsatisfied:
            self._walks.rollouts.check_later(uid)
        if total and (settled is None or settled.reason != finding.reason):
            kind = EventType.NORMAL if finding.status is TRUE else EventType.WARNING
            look.events.append(Event(kind, finding.reason, finding.message))

    def _status(self, look: _Look) -> ResourceStatus:
        metadata, before = look.resource.metadata, look.resource.status
        generation, now = metadata.generation or 0, self._clock.now()
        found = conditions(before.conditions, look.findings, generation=generation, now=now)
        changes = {**look.changes, "conditions": found, "observed_generation": generation}
        after = before.model_copy(update=changes)
        measured, usage = look.measured, before.usage
        if measured is None or (
            usage is not None
            and measured == (usage.sessions, usage.messages, usage.tokens, usage.bytes)
        ):
            return after
        age = (now - moment(usage.observed_time)).total_seconds() if usage is not None else 0.0
        alone = usage is None or (figures.usage_moved(usage, measured) and age >= figures.PAUSE)
        if not alone and after == before:
            return after
        fresh = Usage(**measured._asdict(), observed_time=timestamp(now))
        return after.model_copy(update={"usage": fresh})


def _effective(policy: Policy) -> EffectiveLimits:
    quotas = policy.quotas or Quotas()
    return EffectiveLimits(
        max_tokens=policy.max_tokens,
        max_messages=policy.max_messages,
        max_message_size=policy.limits.max_message_size,
        ttl=policy.retention.ttl,
        max_lifetime=policy.retention.max_lifetime,
        max_sessions=quotas.sessions.hard if quotas.sessions is not None else None,
        max_bytes=quotas.bytes.hard if quotas.bytes is not None else None,
    )


def _follows(revision: int, holds: Clamped) -> Finding:
    message = f"Every live session follows revision {revision}."
    if not holds.fields:
        return Finding(ConditionType.POLICY_APPLIED, TRUE, PolicyReason.APPLIED, message)
    fields = ", ".join(f"{name} {value}" for name, value in holds.fields.items())
    message = f"{message} The backend allows less than the spec asks for, and holds: {fields}."
    return Finding(ConditionType.POLICY_APPLIED, TRUE, PolicyReason.CLAMPED_BY_BACKEND, message)


def _applied(progress: Progress, revision: int, holds: Clamped) -> Finding:
    if not progress.unsatisfied:
        return _follows(revision, holds)
    limited = progress.unsatisfied - progress.broken
    parts = [
        f"{limited} sessions stay above a limit, because of messages that may not be evicted: raise the "
        "limit, or unpin messages."
        if limited
        else "",
        f"{progress.broken} sessions could not be read: something else wrote to their keys."
        if progress.broken
        else "",
    ]
    message = f"Revision {revision}: {' '.join(part for part in parts if part)}"
    return Finding(ConditionType.POLICY_APPLIED, FALSE, PolicyReason.UNSATISFIED, message)


def _settled(status: ResourceStatus, revision: int, holds: Clamped) -> Finding | None:
    """Return what PolicyApplied says if the rollout of this revision has ended."""
    applied = status.condition(ConditionType.POLICY_APPLIED)
    if applied is None or applied.reason not in _SETTLED:
        return None
    if status.rollout is None or status.rollout.revision != revision:
        return None
    reason = PolicyReason(applied.reason)
    if reason is not PolicyReason.UNSATISFIED:
        return _follows(revision, holds)
    return Finding(ConditionType.POLICY_APPLIED, applied.status, reason, applied.message)


def _policy_meanwhile(resource: MemoryResource) -> list[Finding]:
    """Return what can be said about the policy while the server cannot be asked."""
    status = resource.status
    applied = status.condition(ConditionType.POLICY_APPLIED)
    if (
        applied is not None
        and applied.reason in _SETTLED
        and applied.observed_generation == resource.metadata.generation
    ):
        reason = PolicyReason(applied.reason)
        return [Finding(ConditionType.POLICY_APPLIED, applied.status, reason, applied.message)]
    return [
        Finding(
            ConditionType.POLICY_APPLIED,
            FALSE,
            PolicyReason.WAITING_FOR_BACKEND,
            "The policy is written as soon as the object can be Ready.",
        )
    ]


def _not_in_force(resource: MemoryResource) -> list[Finding]:
    fields = differences_not_in_force(resource.spec.policy)
    if not fields:
        return []
    return [
        Finding(
            ConditionType.NOT_IN_FORCE,
            TRUE,
            NotInForceReason.FIELDS_NOT_IN_FORCE,
            f"Stored and not carried out by this version: {', '.join(fields)}.",
        )
    ]
