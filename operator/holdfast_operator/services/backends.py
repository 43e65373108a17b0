"""MemoryBackends: is the server there, is it one we can use, and may we."""

from dataclasses import dataclass
from typing import Final

from holdfast.errors import (
    AccessDenied,
    ConfigurationError,
    HoldfastError,
    PolicyInvalid,
    ScriptsMissing,
    ServerTooOld,
    UnknownKeys,
)
from holdfast.store.access import Access
from holdfast.store.addresses import Address
from holdfast.store.maintenance import Maintenance, ServerInfo
from holdfast_operator.reasons import (
    REASONS,
    ConditionType,
    ReadyReason,
)
from holdfast_operator.resources import MemoryBackend
from holdfast_operator.services import figures
from holdfast_operator.services.conditions import (
    FALSE,
    TRUE,
    Finding,
    conditions,
    healing_interval,
    kept,
    listed,
    merged,
    not_ready,
    paused,
    transition,
)
from holdfast_operator.services.instances import recognise
from holdfast_operator.services.last_users import LastUsers
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
from holdfast_operator.services.outcome import Event, Obstacle, Outcome, changed
from holdfast_operator.services.ports import (
    Body,
    Clock,
    Cluster,
    Connections,
    UnusableCertificates,
)
from holdfast_operator.services.references import References, unusable
from holdfast_operator.services.risks import risk_events, risks, survey_sentence, survey_told
from holdfast_operator.services.servers import (
    available,
    is_full,
    refused,
    require_acknowledged,
    require_mode,
    sentence,
    wrong_mode,
)
from holdfast_operator.services.surveys import Surveys
from holdfast_operator.status import BackendStatus, ResourceStatus, ServerStatus, Sweep

CHECK: Final = 10.0
"""Seconds between looks at a server that answers: one round trip, and nothing else to notice a loss."""
_IN_USE_CHECK: Final = 10.0
_ANSWERED: Final = frozenset(
    {
        ReadyReason.PERMISSION_DENIED,
        ReadyReason.SERVER_TOO_OLD,
        ReadyReason.SERVER_FULL,
        ReadyReason.SERVER_REPLACED,
        ReadyReason.WRONG_KEY_TYPE,
    }
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """Servers that can be used, what they said of themselves, and the name of their data."""

    hands: Maintenance
    info: ServerInfo
    message: str
    instance: str


class BackendService:
    """Reconciles MemoryBackends and hands out the connections to their servers.

    Args:
        cluster: what is in the cluster.
        connections: to the servers.
        clock: for transitions and intervals.
        surveys: of the keys on the servers.
        observer: told what the servers answer.
    """

    def __init__(
        self,
        cluster: Cluster,
        connections: Connections,
        clock: Clock,
        surveys: Surveys,
        observer: Observer | None = None,
    ) -> None:
        self._surveys = surveys
        self._last_users = LastUsers(clock)
        self._cluster = cluster
        self._references = References(cluster)
        self._connections = connections
        self._clock = clock
        self._observer = observer or Unobserved()
        self._figures_written: dict[str, float] = {}
        self._addresses: dict[str, Address] = {}
        self._runs: dict[str, frozenset[str]] = {}
        self._survey_faults: dict[str, str] = {}

    async def reconcile(self, body: Body) -> Outcome:
        """Look at the server of a MemoryBackend.

        Raises:
            ClusterUnavailable: the API server does not answer; nothing can be said.
        """
        try:
            backend = MemoryBackend.from_body(body)
        except PolicyInvalid as error:
            return unreadable(body, BackendStatus, error, self._clock)
        now, before = self._clock.now(), backend.status
        generation = backend.metadata.generation or 0
        if is_set(backend.metadata, PAUSED):
            return Outcome(changed(before, paused(before, generation=generation, now=now)))
        changes: dict[str, object] = {"observed_generation": generation}
        events: tuple[Event, ...] = ()
        more = restarted = False
        try:
            seen = await self._look(backend)
        except Obstacle as obstacle:
            findings = not_ready(obstacle)
            if obstacle.reason in REASONS[ConditionType.BACKEND_REACHABLE]:
                reachable = ConditionType.BACKEND_REACHABLE
                findings.append(Finding(reachable, FALSE, obstacle.reason, obstacle.message))
            elif obstacle.reason in _ANSWERED:
                findings.append(_reachable())
        else:
            ready = Finding(ConditionType.READY, TRUE, ReadyReason.AVAILABLE, seen.message)
            changes["server"] = _server(seen)
            changes |= self._figures(backend, seen.info)
            changes["last_sweep"], events, more = await self._survey(backend, seen)
            failing = self._survey_fault(backend)
            at_risk = risks(backend.spec, seen.info, before, survey=failing)
            findings = [ready, _reachable(), *at_risk]
            events = (*risk_events(before, at_risk), *events)
            restarted = self._restarted(backend, seen.info)
        changes["conditions"] = conditions(
            before.conditions, findings, generation=generation, now=now
        )
        after = before.model_copy(update=changes)
        again = healing_interval(after, now)
        if again is None and findings[0].status is TRUE:
            again = 0.0 if more else CHECK
        events = (*transition(before, after), *events)
        return Outcome(changed(before, after), again=again, events=events, restarted=restarted)

    def _restarted(self, backend: MemoryBackend, info: ServerInfo) -> bool:
        """Whether servers answer that did not run when we looked before."""
        uid = uid_of(backend.metadata)
        before = self._runs.get(uid, info.runs)
        self._runs[uid] = info.runs
        return not info.runs <= before

    async def _survey(
        self, backend: MemoryBackend, seen: _Seen
    ) -> tuple[Sweep | None, tuple[Event, ...], bool]:
        try:
            return await self._surveys.advance(backend, seen.hands)
        except HoldfastError as error:
            self._survey_faults[uid_of(backend.metadata)] = str(self.obstacle(error).reason)
            return backend.status.last_sweep, (), False

    def _survey_fault(self, backend: MemoryBackend) -> str:
        """Return what to say of surveys that fail; what was said holds until one was tried."""
        uid = uid_of(backend.metadata)
        fails = self._surveys.fails(uid)
        if fails is None:
            return survey_told(backend.status)
        return survey_sentence(self._survey_faults.get(uid, "")) if fails else ""

    async def finalize(self, body: Body) -> Outcome:
        """Let a MemoryBackend go once no memory uses it. No data are deleted.

        Raises:
            ClusterUnavailable: the API server does not answer; nothing can be said.
        """
        metadata, before = metadata_of(body), status_of(body, BackendStatus)
        home = namespace_of(metadata)
        uid, bodies = uid_of(metadata), self._users(home, metadata.name)
        namespace = await self._cluster.namespace(home) if bodies else None
        if namespace is None:
            bodies = []
        elif namespace.terminating:
            bodies = self._last_users.waited_for(uid, home, bodies)
        users = sorted(f"{user.namespace}/{user.name}" for user in map(metadata_of, bodies))
        if users:
            message = (
                f"{len(users)} memories are kept here: {listed(users)}. Delete them first; the sessions "
                "of a memory with deletionPolicy Retain stay on the server."
            )
            in_use = Obstacle(ReadyReason.IN_USE, message)
            found = conditions(
                before.conditions,
                not_ready(in_use),
                generation=metadata.generation or 0,
                now=self._clock.now(),
            )
            stays = kept(
                before.conditions,
                ConditionType.BACKEND_REACHABLE,
                ConditionType.NOT_IN_FORCE,
                ConditionType.AT_RISK,
            )
            after = before.model_copy(update={"conditions": merged(found, stays)})
            return Outcome(
                changed(before, after),
                again=_IN_USE_CHECK,
                events=transition(before, after),
                blocked=True,
                restarted=await self._serve_on(body),
            )
        self._figures_written.pop(uid, None)
        self._addresses.pop(uid, None)
        self._runs.pop(uid, None)
        self._surveys.forget(uid)
        self._survey_faults.pop(uid, None)
        self._last_users.forget(uid)
        await self._connections.close(uid)
        return Outcome()

    async def _serve_on(self, body: Body) -> bool:
        """Keep the server of a backend usable that waits for its memories; True: it was started anew."""
        try:
            backend = MemoryBackend.from_body(body)
            hands = await self._connect(backend)
            info = await self._ask_server(backend, hands)
            await hands.load_scripts()
        except (PolicyInvalid, Obstacle, HoldfastError):
            return False  # what is open is used on, and the memories say what is wrong
        return self._restarted(backend, info)

    async def connection(self, backend: MemoryBackend) -> Maintenance:
        """Return the connection to a backend's server, the one that is open if there is one.

        Raises:
            Obstacle: it cannot be made: the spec, or the Secret.
            ClusterUnavailable: the API server does not answer.
        """
        metadata, uid = backend.metadata, uid_of(backend.metadata)
        generation = metadata.generation or 0
        current = self._connections.current(uid, generation)
        if current is None and metadata.deletion_timestamp is not None:
            # The deletion raised the generation, and what it refers to may be gone already.
            current = self._connections.current(uid, generation - 1)
        return current if current is not None else await self._connect(backend)

    async def access(self, backend: MemoryBackend) -> Access:
        """Return the hands on the users of a backend.

        Raises:
            Obstacle: there is no connection to be had.
            ClusterUnavailable: the API server does not answer.
        """
        return (await self.connection(backend)).access

    async def address(self, backend: MemoryBackend) -> Address:
        """Return how the operator itself reaches a backend's servers, as it was gathered last.

        Raises:
            Obstacle: it cannot be gathered.
            ClusterUnavailable: the API server does not answer.
        """
        await self.connection(backend)
        uid = uid_of(backend.metadata)
        if uid not in self._addresses:
            await self._connect(backend)
        return self._addresses[uid]

    def obstacle(self, error: HoldfastError) -> Obstacle:
        """Return what an error of a server means, in our own words."""
        match error:
            case AccessDenied() if self._connections.refused_login(error):
                return Obstacle(
                    ReadyReason.AUTHENTICATION_FAILED,
                    "The server refused the user name or the password, or wants one: correct authRef and "
                    "its Secret, or sentinel.authRef where a Sentinel refused it.",
                )
            case AccessDenied() | ScriptsMissing():
                return Obstacle(
                    ReadyReason.PERMISSION_DENIED,
                    "The server lets the user in and denies a command that the operator needs: it needs "
                    "all commands on the backend's keys, SCRIPT and EVALSHA, and with Sentinel or Cluster "
                    "SENTINEL or CLUSTER.",
                )
            case ServerTooOld():
                return Obstacle(ReadyReason.SERVER_TOO_OLD, sentence(error.message))
            case UnknownKeys():
                return Obstacle(
                    ReadyReason.WRONG_KEY_TYPE,
                    "The key {!backend} under the backend's keyPrefix is none of ours: something else "
                    "writes there. Remove it, or use another keyPrefix.",
                )
            case _ if self._connections.failed_tls(error):
                return Obstacle(
                    ReadyReason.TLS_FAILED,
                    "TLS with the server could not be agreed on: check that it speaks TLS at this port, "
                    "that tls.caRef is the authority of its certificate, that the certificate names the "
                    "endpoint's host or tls.serverName, and whether it asks for tls.clientCertRef.",
                )
            case _:
                return Obstacle(
                    ReadyReason.BACKEND_UNREACHABLE,
                    f"The server does not answer as it should ({error.code}): check the endpoint, the "
                    "server, and whether a network policy is in the way. The operator keeps trying.",
                )

    async def _look(self, backend: MemoryBackend) -> _Seen:
        """Connect and ask; raise the obstacle if there is one."""
        name = named(backend.metadata)
        try:
            hands = await self._connect(backend)
        except Obstacle:
            self._observer.server_failed(name)
            # What may not be used any more is not used any longer.
            await self._connections.close(uid_of(backend.metadata))
            raise
        try:
            return await self._ask(backend, hands)
        except ConfigurationError as error:
            raise wrong_mode(backend.spec) from error
        except HoldfastError as error:
            used = self._addresses[uid_of(backend.metadata)]
            raise refused(self.obstacle(error), used) from error

    async def _ask(self, backend: MemoryBackend, hands: Maintenance) -> _Seen:
        info = await self._ask_server(backend, hands)
        require_mode(backend.spec, info)
        await hands.load_scripts()
        if is_full(info):
            raise Obstacle(
                ReadyReason.SERVER_FULL,
                "The server has reached its memory limit and refuses writes: give it more memory, or "
                "shorten retention.",
            )
        known = backend.status.server.instance if backend.status.server is not None else None
        metadata = backend.metadata
        instance = await recognise(hands, uid_of(metadata), known, metadata.annotations)
        return _Seen(hands, info, available(backend.spec, info), instance)

    async def _ask_server(self, backend: MemoryBackend, hands: Maintenance) -> ServerInfo:
        name = named(backend.metadata)
        asked = self._clock.monotonic()
        try:
            info = await hands.server()
        except HoldfastError:
            self._observer.server_failed(name)
            raise
        self._observer.server_answered(name, self._clock.monotonic() - asked, info)
        return info

    async def _connect(self, backend: MemoryBackend) -> Maintenance:
        spec, metadata = backend.spec, backend.metadata
        require_acknowledged(spec)
        found = await self._references.gather(spec, namespace_of(metadata))
        self._addresses[uid_of(metadata)] = found.address
        try:
            return await self._connections.open(
                uid_of(metadata),
                metadata.generation or 0,
                found.version,
                found.address,
                spec.key_prefix,
            )
        except UnusableCertificates as error:
            raise unusable(spec, error) from error

    def _users(self, namespace: str, name: str) -> list[Body]:
        """Return the memories that were once kept on a backend.

        One that never was must not hold the backend's owner up: anybody may name any backend.
        """
        return [
            body
            for body in self._cluster.resources_on(namespace, name)
            if status_of(body, ResourceStatus).policy_revision is not None
        ]

    def _figures(self, backend: MemoryBackend, info: ServerInfo) -> dict[str, object]:
        """Return the figures that status should show, if they moved enough and long enough ago."""
        before, metadata = backend.status, backend.metadata
        resources = self._cluster.resources_on(namespace_of(metadata), metadata.name)
        sessions = figures.sessions_of(resources)
        used, most = figures.size(info.used_memory), figures.size(info.max_memory)
        moved = (
            figures.size_moved(
                before.used_memory.bytes if before.used_memory else None, info.used_memory
            )
            or figures.moved(before.sessions, sessions)
            or before.max_memory != most
        )
        clock, uid = self._clock.monotonic(), uid_of(metadata)
        # Who starts anew does not know when the figures were written: it might have been just now.
        known = before.used_memory is not None
        written = self._figures_written.setdefault(uid, clock) if known else -figures.PAUSE
        if not moved or (known and clock - written < figures.PAUSE):
            return {}
        self._figures_written[uid] = clock
        return {
            "used_memory": used,
            "max_memory": most,
            "sessions": sessions,
            "top_namespaces": figures.namespace_usage(resources),
        }


def _server(seen: _Seen) -> ServerStatus:
    info = seen.info
    return ServerStatus(
        product=info.product or None,
        version=info.version or None,
        mode=info.mode or None,
        instance=seen.instance,
    )


def _reachable() -> Finding:
    return Finding(
        ConditionType.BACKEND_REACHABLE, TRUE, ReadyReason.AVAILABLE, "The server answers."
    )
