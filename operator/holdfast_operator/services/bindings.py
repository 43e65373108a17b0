"""MemoryBindings: which workload may use which memories now, and that it really may, and no other."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from holdfast.errors import HoldfastError, PolicyInvalid
from holdfast_operator.reasons import (
    REASONS,
    ConditionType,
    CredentialsReason,
    NotInForceReason,
    ReadyReason,
    Reason,
)
from holdfast_operator.resources import MemoryBinding
from holdfast_operator.services.backends import BackendService
from holdfast_operator.services.conditions import (
    FALSE,
    TRUE,
    Finding,
    conditions,
    healing_interval,
    kept,
    listed,
    merged,
    moment,
    not_ready,
    paused,
    reason_of,
    transition,
)
from holdfast_operator.services.credentials import (
    CredentialsService,
    Unprovided,
    is_ours,
    name_taken,
    noted_backends,
)
from holdfast_operator.services.objects import (
    PAUSED,
    is_set,
    metadata_of,
    named,
    namespace_of,
    status_of,
    uid_of,
    unreadable,
)
from holdfast_operator.services.observing import Observer, Unobserved
from holdfast_operator.services.outcome import Event, EventType, Obstacle, Outcome, changed
from holdfast_operator.services.passwords import noted_hash
from holdfast_operator.services.places import Place, Withdrawn, backends_named, find_place
from holdfast_operator.services.ports import (
    Body,
    Clock,
    Cluster,
    ClusterForbidden,
    ClusterUnavailable,
    Namespace,
    Secret,
    Secrets,
)
from holdfast_operator.services.users import Users
from holdfast_operator.status import BindingStatus, Condition

GIVE_UP: Final = timedelta(minutes=2)
"""How long a deletion waits for a server that does not answer; then the sweep owes the revocation."""
_BLOCKED_AGAIN: Final = 2.0
_DOUBT_AGAIN, _DOUBTS = 1.0, 3
_PENDING_AGAIN, _FIRST_LOOK = 1.0, timedelta(seconds=5)
_SETTLING: Final = frozenset(
    {
        ReadyReason.MEMORY_NOT_FOUND,
        ReadyReason.MEMORY_NOT_READY,
        ReadyReason.BACKEND_NOT_FOUND,
        ReadyReason.BACKEND_NOT_READY,
    }
)
"""Obstacles that a folder of manifests, applied all at once, has for a moment."""
_PASSING: Final = frozenset(
    {
        ReadyReason.BACKEND_UNREACHABLE,
        ReadyReason.BACKEND_NOT_READY,
        ReadyReason.BACKEND_NOT_VISIBLE,
        ReadyReason.DELETION_BLOCKED,
    }
)
"""Obstacles that say nothing about credentials that were given before."""


@dataclass(slots=True)
class _Look:
    """What one reconcile found: it becomes the status."""

    binding: MemoryBinding
    home: Namespace
    changes: dict[str, object] = field(default_factory=dict[str, object])
    findings: list[Finding] = field(default_factory=list[Finding])
    events: list[Event] = field(default_factory=list[Event])
    place: Place | None = None
    stays: tuple[Condition, ...] = ()

    def fails(self, obstacle: Obstacle) -> None:
        """Note why the binding cannot be Ready, and what that says about the credentials."""
        before = self.binding.status.conditions
        self.findings = [*not_ready(obstacle), *_lacking_for(obstacle)]
        if _is_passing(obstacle):
            # They are as they were, for the generation that was looked at then.
            self.stays = kept(before, ConditionType.CREDENTIALS_READY)


class BindingService:
    """Reconciles and finalizes MemoryBindings.

    Args:
        cluster: what is in the cluster.
        secrets: writes the Secrets of bindings.
        backends: hands out the connections.
        clock: for transitions, intervals and the age of passwords.
        users: names and removes users.
        make_password: gives 32 random bytes in the URL-safe alphabet, 43 characters.
        observer: told what was repaired, and how old passwords are.
    """

    def __init__(
        self,
        cluster: Cluster,
        secrets: Secrets,
        backends: BackendService,
        clock: Clock,
        *,
        users: Users,
        make_password: Callable[[], str],
        observer: Observer | None = None,
    ) -> None:
        self._cluster = cluster
        self._secrets = secrets
        self._backends = backends
        self._clock = clock
        self._users = users
        self._observer = observer or Unobserved()
        self._credentials = CredentialsService(
            cluster,
            secrets,
            backends,
            clock,
            users=users,
            make_password=make_password,
            observer=self._observer,
        )
        self._faults: dict[str, int] = {}

    async def reconcile(self, body: Body) -> Outcome:
        """Make user and Secret of a binding what its object, its memories and their backend say.

        Raises:
            ClusterConflict: the Secret changed meanwhile: look again.
            ClusterUnavailable: the API server does not answer; nothing can be said.
        """
        try:
            binding = MemoryBinding.from_body(body)
        except PolicyInvalid as error:
            return unreadable(body, BindingStatus, error, self._clock)
        metadata, before, now = binding.metadata, binding.status, self._clock.now()
        generation = metadata.generation or 0
        if is_set(metadata, PAUSED):
            return Outcome(changed(before, paused(before, generation=generation, now=now)))
        home = await self._cluster.namespace(namespace_of(metadata))
        if home is None:
            raise ClusterUnavailable("the namespace is gone, and its object will be")
        if home.terminating:
            return Outcome()  # it takes no new Secret, and this object is about to be deleted
        look, suspect = _Look(binding, home), None
        try:
            await self._look(look)
        except Obstacle as obstacle:
            if self._is_new(binding, obstacle):
                return Outcome(again=_PENDING_AGAIN)
            look.fails(obstacle)
        except HoldfastError as error:
            assert look.place is not None, "nothing else speaks to a server"
            suspect = named(look.place.backend.metadata)
            if self._doubt(binding):
                return Outcome(again=_DOUBT_AGAIN, suspect=suspect)
            look.fails(self._backends.obstacle(error))
        else:
            self._faults.pop(uid_of(metadata), None)
        found = conditions(before.conditions, look.findings, generation=generation, now=now)
        after = before.model_copy(
            update={
                **look.changes,
                "conditions": merged(look.stays, found),
                "observed_generation": generation,
            }
        )
        events = (*transition(before, after), *look.events)
        again = healing_interval(after, now)
        return Outcome(changed(before, after), again=again, events=events, suspect=suspect)

    async def finalize(self, body: Body) -> Outcome:
        """Let a binding go: its user with the connections that are open, then its Secret.

        Raises:
            ClusterConflict: the Secret changed meanwhile: look again.
            ClusterUnavailable: the API server does not answer; nothing can be said.
        """
        try:
            binding = MemoryBinding.from_body(body)
        except PolicyInvalid:
            binding = None
        metadata, before = metadata_of(body), status_of(body, BindingStatus)
        if binding is None:
            return Outcome()  # it never gave anything in this form, and the sweep sees to the rest
        try:
            secret = await self._credentials.secret(binding)
        except Obstacle:
            secret = None
        secret = secret if secret is not None and is_ours(secret, binding) else None
        owed = await self._revoke(binding, secret)
        given = secret is not None or before.binding is not None
        waited = self._clock.now() - moment(metadata.deletion_timestamp)
        if owed and given and waited < GIVE_UP:
            return self._held_up(binding, owed)
        if secret is not None:
            try:
                home = namespace_of(metadata)
                await self._secrets.delete(home, secret.name, secret.version)
            except ClusterForbidden:
                pass  # whoever collects garbage removes it: the binding controls it
        self._faults.pop(uid_of(metadata), None)
        self._credentials.forget(uid_of(metadata))
        self._observer.rotated(named(metadata), None)
        if owed and given:
            message = (
                f"{', '.join(owed)} did not answer: the user is removed as soon as it does, by the look "
                "at the backend."
            )
            return Outcome(events=(Event(EventType.WARNING, "RevocationOwed", message),))
        return Outcome()

    async def _look(self, look: _Look) -> None:
        binding = look.binding
        secret: Secret | None = None
        forbidden: Obstacle | None = None
        try:
            secret = await self._credentials.secret(binding)
        except Obstacle as obstacle:
            forbidden = obstacle
        taken = secret is not None and not is_ours(secret, binding)
        secret = None if taken else secret
        place = await self._place(look, secret)
        fault = forbidden or (name_taken(binding) if taken else None)
        if fault is not None:
            if taken:
                await self._users.remove(binding, place.reference)
            raise fault
        try:
            given = await self._credentials.give(binding, place, secret)
        except Unprovided as error:
            look.changes |= error.changes
            raise error.obstacle from error
        look.changes |= given.changes
        look.events += given.events
        look.findings = [*_ready(place), given.finding]
        unrefreshed = _unrefreshed(place)
        look.findings += unrefreshed
        if look.binding.status.condition(ConditionType.NOT_IN_FORCE) is None:
            look.events += [
                Event(EventType.WARNING, finding.reason, finding.message) for finding in unrefreshed
            ]
        if given.rotating:
            finding = given.finding
            look.findings.append(
                Finding(ConditionType.RECONCILING, TRUE, finding.reason, finding.message)
            )
        for obstacle in place.faults:
            if obstacle.reason in tuple(CredentialsReason):
                look.findings = [
                    item for item in look.findings if item.type != ConditionType.CREDENTIALS_READY
                ]
                look.findings.append(_lacking(obstacle.reason, obstacle.message))
                break

    async def _place(self, look: _Look, secret: Secret | None) -> Place:
        """Return where the memories are; take all access away where none may be left."""
        try:
            look.place = place = find_place(look.binding, self._cluster, look.home)
            if not place.grants:
                fault = place.faults[0]
                raise Withdrawn(fault.reason, fault.message)
        except Obstacle as obstacle:
            if not isinstance(obstacle, Withdrawn) and not self._has_moved(look.binding, secret):
                raise
            if secret is not None or look.binding.status.binding is not None:
                await self._revoke(look.binding, secret)
            if secret is not None and not noted_hash(secret.annotations):
                # A user that we cannot take back: at least nobody else gets its password from us.
                home = namespace_of(look.binding.metadata)
                await self._secrets.delete(home, secret.name, secret.version)
            raise Withdrawn(obstacle.reason, obstacle.message) from obstacle
        return place

    def _has_moved(self, binding: MemoryBinding, secret: Secret | None) -> bool:
        """Whether no memory is named any more on the backends where the user may be."""
        noted = set(noted_backends(secret))
        return bool(noted) and noted.isdisjoint(self._named(binding))

    def _named(self, binding: MemoryBinding) -> set[str]:
        return {f"{home}/{name}" for home, name in backends_named(binding, self._cluster)}

    async def _revoke(self, binding: MemoryBinding, secret: Secret | None) -> list[str]:
        """Remove the user everywhere; return the backends where it may still be."""
        where = sorted(self._named(binding).union(noted_backends(secret)))
        return [name for name in where if not await self._users.remove(binding, name)]

    def _is_new(self, binding: MemoryBinding, obstacle: Obstacle) -> bool:
        """Whether the binding was made a moment ago, as what it names perhaps.

        Then there is nothing to tell people yet: what it waits for is about to wake us.
        """
        age = self._clock.now() - moment(binding.metadata.creation_timestamp)
        pending = reason_of(binding.status, ConditionType.READY) == str(ReadyReason.PENDING)
        return pending and age < _FIRST_LOOK and obstacle.reason in _SETTLING

    def _doubt(self, binding: MemoryBinding) -> bool:
        """Whether a fault of the server may be over in a moment, or is the backend's to tell.

        Then a binding that is Ready stays so, and follows its backend, with one write.
        """
        uid, ready = uid_of(binding.metadata), binding.status.condition(ConditionType.READY)
        faults = self._faults[uid] = self._faults.get(uid, 0) + 1
        settled = (
            ready is not None
            and ready.status is TRUE
            and ready.observed_generation == binding.metadata.generation
        )
        return settled and faults <= _DOUBTS

    def _held_up(self, binding: MemoryBinding, owed: list[str]) -> Outcome:
        before = binding.status
        blocked = Obstacle(
            ReadyReason.DELETION_BLOCKED,
            f"The user cannot be removed yet: {', '.join(owed)} does not answer. After two minutes the "
            "binding goes, and the user is removed as soon as the server answers.",
        )
        found = conditions(
            before.conditions,
            not_ready(blocked),
            generation=binding.metadata.generation or 0,
            now=self._clock.now(),
        )
        stays = kept(before.conditions, ConditionType.CREDENTIALS_READY)
        after = before.model_copy(update={"conditions": merged(stays, found)})
        return Outcome(
            changed(before, after),
            again=_BLOCKED_AGAIN,
            events=transition(before, after),
            blocked=True,
        )


def _ready(place: Place) -> list[Finding]:
    """Return what the memories let say about Ready."""
    if place.faults:
        return not_ready(place.faults[0])
    count = len(place.grants)
    message = (
        f"Access to {count} {'memory' if count == 1 else 'memories'} on MemoryBackend "
        f"{place.reference} is given."
    )
    return [Finding(ConditionType.READY, TRUE, ReadyReason.AVAILABLE, message)]


def _unrefreshed(place: Place) -> list[Finding]:
    """Return what there is to say of reads that were to keep sessions alive, and do not."""
    if not place.unrefreshed:
        return []
    message = (
        f"retention.refreshOn of {listed(place.unrefreshed)} is Read alone, and this binding may only read: "
        "its reads renew no expiry, and sessions end as if nobody used them. Add Write to refreshOn, or "
        "bind whoever keeps them alive with ReadWrite."
    )
    return [
        Finding(ConditionType.NOT_IN_FORCE, TRUE, NotInForceReason.READS_DO_NOT_REFRESH, message)
    ]


def _lacking(reason: Reason, message: str) -> Finding:
    return Finding(ConditionType.CREDENTIALS_READY, FALSE, reason, message)


def _is_passing(obstacle: Obstacle) -> bool:
    return obstacle.reason in _PASSING and not isinstance(obstacle, Withdrawn)


def _lacking_for(obstacle: Obstacle) -> list[Finding]:
    """Return what an obstacle says about the credentials, if nothing was said before."""
    if obstacle.reason not in REASONS[ConditionType.CREDENTIALS_READY]:
        return []
    return [_lacking(obstacle.reason, obstacle.message)]
