"""A small world for the operator's services: a cluster, servers and a clock, all in memory.

Only what is foreign to the services is stood in for: the API server, Redis, and time.
"""

import bisect
import copy
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.errors import AccessDenied, HoldfastError
from holdfast.store.addresses import Address
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.maintenance import (
    History,
    Lasting,
    Maintenance,
    Orphan,
    Owner,
    Ownership,
    Replication,
    ServerInfo,
    Step,
    Survey,
    Swept,
    Totals,
    Walk,
)
from holdfast.values import MemoryAddress, PolicyDocument, Terms
from holdfast_operator.services.backends import BackendService
from holdfast_operator.services.deletions import DeletionService
from holdfast_operator.services.erasures import ErasureService
from holdfast_operator.services.objects import backend_ref
from holdfast_operator.services.observing import Observer, Unobserved
from holdfast_operator.services.outcome import Outcome
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import (
    Body,
    ConfigMap,
    Namespace,
    Secret,
    UnusableCertificates,
)
from holdfast_operator.services.resources import ResourceService
from holdfast_operator.services.surveys import Surveys
from holdfast_operator.services.targets import Targets
from holdfast_operator.services.walks import Walks
from tests.harness.access_world import FakeAccess

OFFERED = {"holdfast.dev/credentials": "backend"}
PENDING = {
    "observedGeneration": 0,
    "conditions": [
        {
            "type": "Ready",
            "status": "Unknown",
            "reason": "Pending",
            "message": "Waiting for the operator",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }
    ],
}


class ManualClock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)
        self._start = self._now

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._start).total_seconds()

    async def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        # It counts microseconds: less than one is one, or who waits for it would wait for ever.
        self._now += max(timedelta(seconds=seconds), timedelta(microseconds=seconds > 0))


@dataclass
class Memory:
    """What a server holds of one memory."""

    owner: Owner | None = None
    revision: int = 0
    sha256: str = ""
    state: str = ""
    sessions: dict[str, int] = field(default_factory=dict)  # the revision each follows
    buried: list[str] = field(default_factory=list)
    released: bool = False
    walk: Walk | None = None
    wrong: dict[str, int] = field(default_factory=dict[str, int])  # keys with a wrong expiry
    unlisted: set[str] = field(default_factory=set[str])
    order: tuple[object, list[tuple[int, str]]] = (None, [])  # of a run of the server


def ordered(run: int, names: Collection[str]) -> list[tuple[int, str]]:
    """Return the sessions in the order in which a run of the server walks over them."""
    return sorted((1 + zlib.crc32(f"{run}/{name}".encode()), name) for name in names)


class FakeServer:
    """A server, as the operator's hands feel it.

    Walks go through the sessions in an order that belongs to one run of the server, as cursors do.

    Attributes:
        fault: raised by every call while set.
        run: which run of the server this is; another one is a restart.
        orphans: what a survey finds.
        histories: of its replication.
        scans: whether it lets us look at all keys.
        no_index: something else stands in place of an index.
        strangers: keys that a walk over all keys passes by.
        hidden: sessions that their indexes do not name.
        expired: memories of which a survey was told to end what has no expiry.
        calls: names of what was called.
        protected: sessions that stay above a limit.
    """

    def __init__(self) -> None:
        self.info = ServerInfo("valkey", "9.0.0", "standalone", 5_000_000, 0, "noeviction")
        self.memories: dict[MemoryAddress, Memory] = {}
        self.fault: HoldfastError | None = None
        self.calls: list[str] = []
        self.protected: set[str] = set()
        self.addresses: list[Address] = []
        self.name: str | None = None
        self.usage: dict[MemoryAddress, Totals] = {}
        self.fenced = False  # a leader with a higher epoch was here
        self.kept = InMemoryStore()  # sessions with messages in them, for what erases them
        self.access = FakeAccess()
        self.run = 1
        self.orphans: dict[MemoryAddress, Orphan] = {}
        self.strangers = 0
        self.no_index = False
        self.scans = True
        self.histories: dict[str, History] = {"first": History(0, None)}
        self.hidden: set[str] = set()
        self.expired: list[frozenset[MemoryAddress]] = []

    def memory(self, address: MemoryAddress) -> Memory:
        return self.memories.setdefault(address, Memory())

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.fault is not None:
            raise self.fault

    def _require_scan(self) -> None:
        if not self.scans:
            raise AccessDenied("no permission for SCAN")

    async def server(self) -> ServerInfo:
        self._call("server")
        return self.info

    async def load_scripts(self) -> None:
        self._call("load_scripts")

    async def replication(self) -> Replication:
        self._call("replication")
        return dict(self.histories)

    async def instance(self) -> str | None:
        self._call("instance")
        return self.name

    async def mark(self, backend: str, instance: str) -> str:
        self._call("mark")
        self.name = self.name or instance
        return self.name

    def empty(self) -> None:
        """Lose everything."""
        self.name = None
        self.memories.clear()

    async def claim(self, memory: MemoryAddress, owner: Owner, *, adopt: bool = False) -> Ownership:
        self._call("claim")
        if self.fenced:
            return Ownership.FENCED
        held = self.memory(memory)
        if held.owner is None:
            if held.sessions and not adopt:
                return Ownership.UNMARKED
            held.owner = owner
            return Ownership.TAKEN_OVER if adopt else Ownership.OURS
        if held.owner.uid == owner.uid:
            mended, self.no_index = self.no_index, False
            return Ownership.MENDED if mended else Ownership.OURS
        same = held.owner[:4] == owner[:4]
        if not same and not adopt:
            return Ownership.OTHER
        held.owner = owner
        return Ownership.TAKEN_OVER

    async def put_policy(
        self, memory: MemoryAddress, owner: Owner, document: str, sha256: str, *, before: int = 0
    ) -> int | None:
        self._call("put_policy")
        held = self.memory(memory)
        if held.owner is None or held.owner.uid != owner.uid:
            return None
        if held.sha256 != sha256 or held.state != "active":
            held.revision = max(held.revision, before) + 1
            held.sha256, held.state = sha256, "active"
            self.kept.put_policy(
                memory, PolicyDocument(held.revision, True, document.encode(), None)
            )
        return held.revision

    async def roll_out(
        self,
        memory: MemoryAddress,
        terms: Terms,
        *,
        cursor: int,
        limit: int,
        grace: int,
        again: bool = False,
    ) -> Step:
        self._call("roll_out")
        held = self.memory(memory)
        names, after, restarted = self._leg(held, cursor, limit)
        changed = 0
        for name in names:
            changed += held.sessions[name] < terms.revision
            held.sessions[name] = max(held.sessions[name], terms.revision)
        return Step(
            cursor=after,
            seen=len(names),
            changed=changed,
            unsatisfied=len(self.protected.intersection(names)),
            total=len(held.sessions),
            restarted=restarted,
        )

    def _leg(self, held: Memory, cursor: int, limit: int) -> tuple[list[str], int, bool]:
        """Return the next sessions of a walk, where it goes on, and whether it had to begin again."""
        restarted = cursor != 0 and cursor & 0xFF != self.run & 0xFF
        begins = 0 if restarted else cursor >> 8
        version = (self.run, len(held.sessions), next(reversed(held.sessions), None))
        if held.order[0] != version:
            held.order = (version, ordered(self.run, held.sessions))
        places = held.order[1]
        first = bisect.bisect_left(places, (begins, ""))
        ahead = places[first : first + limit + 1]
        after = ahead[limit][0] << 8 | self.run & 0xFF if len(ahead) > limit else 0
        return [name for _, name in ahead[:limit]], after, restarted

    async def noted_walk(self, memory: MemoryAddress) -> Walk | None:
        self._call("noted_walk")
        return self.memory(memory).walk

    async def note_walk(self, memory: MemoryAddress, owner: Owner, walk: Walk | None) -> bool:
        self._call("note_walk")
        self.memory(memory).walk = walk
        return True

    async def sweep(
        self, memory: MemoryAddress, *, cursor: int, limit: int, ttl: int, mend: bool
    ) -> tuple[Step, Swept]:
        self._call("sweep")
        held = self.memory(memory)
        names, after, restarted = self._leg(held, cursor, limit)
        repaired = sum(held.wrong.get(name, 0) for name in names)
        if mend:
            held.wrong = {name: keys for name, keys in held.wrong.items() if name not in names}
        count = len(names)
        swept = Swept(Totals(count, 2 * count, 10 * count, 100 * count), repaired)
        step = Step(after, count, repaired, 0, len(held.sessions), restarted=restarted)
        return step, swept

    async def survey(
        self,
        served: Collection[MemoryAddress],
        elsewhere: Collection[MemoryAddress],
        *,
        cluster: str,
        expire: Collection[MemoryAddress],
        cursor: int,
        limit: int,
        mend: bool,
    ) -> Survey:
        self._call("survey")
        self._require_scan()
        relisted = 0
        for memory in served:
            held = self.memory(memory)
            relisted += len(held.unlisted)
            held.unlisted = set() if mend else held.unlisted
        orphans = {
            memory: orphan
            for memory, orphan in self.orphans.items()
            if memory not in {*served, *elsewhere}
        }
        self.expired.append(frozenset(expire))
        return Survey(0, 10, relisted, 0, orphans)

    async def measure(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[Step, Totals]:
        self._call("measure")
        held = self.memory(memory)
        names, after, restarted = self._leg(held, cursor, limit)
        count = len(names)
        step = Step(after, count, 0, 0, len(held.sessions), restarted=restarted)
        return step, Totals(count, 2 * count, 10 * count, 100 * count)

    async def put_usage(self, memory: MemoryAddress, owner: Owner, totals: Totals) -> None:
        self._call("put_usage")
        self.usage[memory] = totals

    async def names(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[int, Sequence[str]]:
        self._call("names")
        names = [name for name in await self.kept.labelled(memory, ()) if name not in self.hidden]
        end = cursor + limit
        return end if end < len(names) else 0, names[cursor:end]

    async def search(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[int, Sequence[str]]:
        self._call("search")
        self._require_scan()
        names = await self.kept.labelled(memory, ())
        end = cursor + limit
        return end if end < len(names) else 0, names[cursor:end]

    async def begin_deletion(self, memory: MemoryAddress, owner: Owner) -> int | None:
        self._call("begin_deletion")
        held = self.memory(memory)
        if held.owner is None or held.owner.uid != owner.uid:
            return None
        if held.state != "deleting":
            held.state, held.revision = "deleting", held.revision + 1
        return held.revision

    async def bury(self, memory: MemoryAddress, revision: int, *, cursor: int, limit: int) -> Step:
        self._call("bury")
        held = self.memory(memory)
        names = sorted(held.sessions.keys() - self.hidden)[:limit]
        for name in names:
            del held.sessions[name]
            held.buried.append(name)
        left = len(held.sessions.keys() - self.hidden)
        return Step(1 if left else 0, len(names), len(names), 0, left)

    async def bury_hidden(
        self, revisions: Mapping[MemoryAddress, int], *, cursor: int, limit: int
    ) -> Step:
        self._call("bury_hidden")
        self._require_scan()
        left = limit
        if cursor + limit <= self.strangers:
            return Step(cursor + limit, 0, 0, 0, 0)
        for memory in revisions:
            held = self.memory(memory)
            for name in sorted(held.sessions)[:left]:
                del held.sessions[name]
                held.buried.append(name)
                left -= 1
        more = any(self.memory(memory).sessions for memory in revisions)
        return Step(self.strangers + 1 if more else 0, limit - left, limit - left, 0, 0)

    async def end_deletion(self, memory: MemoryAddress, owner: Owner) -> bool:
        self._call("end_deletion")
        del self.memories[memory]
        return True

    async def lasting(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[Step, Lasting]:
        self._call("lasting")
        held = self.memory(memory)
        names, after, restarted = self._leg(held, cursor, limit)
        step = Step(after, len(names), 0, 0, len(held.sessions), restarted=restarted)
        return step, Lasting(ends=len(names), idle=1)

    async def release(self, memory: MemoryAddress, owner: Owner, lasting: Lasting) -> None:
        self._call("release")
        self.memory(memory).released = True

    def store(self) -> InMemoryStore:
        self._call("store")
        return self.kept

    async def aclose(self) -> None:
        self.calls.append("aclose")


class FakeConnections:
    """Connections to one server; what the server thinks of a login is a function of the password."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        self._open: dict[str, tuple[int, str]] = {}

    def current(self, backend: str, generation: int) -> Maintenance | None:
        found = self._open.get(backend)
        return self._server if found is not None and found[0] == generation else None

    async def open(
        self, backend: str, generation: int, version: str, address: Address, prefix: str
    ) -> Maintenance:
        if self._open.get(backend) != (generation, version):
            if address.tls is not None and address.tls.pair == b"broken\nbroken":
                raise UnusableCertificates
            self._server.addresses.append(address)
            self._open[backend] = (generation, version)
        return self._server

    async def close(self, backend: str) -> None:
        self._open.pop(backend, None)

    def refused_login(self, error: AccessDenied) -> bool:
        return "password" in error.message

    def failed_tls(self, error: HoldfastError) -> bool:
        return "TLS" in error.message

    def is_open(self, backend: str) -> bool:
        return backend in self._open


class World:
    """A cluster with its objects, and the services over it."""

    def __init__(self, server: FakeServer | None = None) -> None:
        self.clock = ManualClock()
        self.server = server or FakeServer()
        self.connections = FakeConnections(self.server)
        self.namespaces: dict[str, Namespace] = {}
        self.seen_namespaces: dict[str, Namespace] = {}  # by a watch that is behind
        self.secrets: dict[tuple[str, str], Secret] = {}
        self.config_maps: dict[tuple[str, str], ConfigMap] = {}
        self.objects: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.strangers = 0
        self.scans = True
        self.hidden: set[str] = set()
        self.id = "cluster-1"
        self.observer: Observer = Unobserved()
        self.restart()
        for name in ("platform", "team"):
            self.add_namespace(name)

    def restart(self) -> None:
        """Start the services anew: whatever they remembered is lost."""
        paces = Paces(self.clock)
        walks = Walks.on(self.clock, paces, self.observer)
        surveys = Surveys(self, self.clock, paces, self.observer)
        self.backends = BackendService(self, self.connections, self.clock, surveys, self.observer)
        targets = Targets(self, self.backends)
        self.resources = ResourceService(targets, walks, self.clock, self.observer)
        self.deletions = DeletionService(targets, walks, self.clock, self.observer)
        self.erasures = ErasureService(targets, self, self.clock, paces)

    def observe(self, observer: Observer) -> None:
        """Start the services anew with an observer."""
        self.observer = observer
        self.restart()

    def watches(self, namespace: str) -> bool:
        return namespace not in self.hidden

    def backend(self, namespace: str, name: str) -> Body | None:
        body = self.objects.get(("MemoryBackend", namespace, name))
        return (
            None if body is None else {**body}
        )  # tests edit what is there; a state that was seen stays

    def resource(self, namespace: str, name: str) -> Body | None:
        return self.objects.get(("MemoryResource", namespace, name))

    def binding(self, namespace: str, name: str) -> Body | None:
        return self.objects.get(("MemoryBinding", namespace, name))

    def resources_on(self, namespace: str, name: str) -> Sequence[Body]:
        return [
            body
            for key, body in sorted(self.objects.items())
            if key[0] == "MemoryResource" and backend_ref(body) == (namespace, name)
        ]

    def memories(self) -> Sequence[Body]:
        return [body for key, body in sorted(self.objects.items()) if key[0] == "MemoryResource"]

    async def namespace(self, name: str, *, newest: bool = False) -> Namespace | None:
        seen = None if newest else self.seen_namespaces.get(name)
        return seen or self.namespaces.get(name)

    async def secret(self, namespace: str, name: str) -> Secret | None:
        return self.secrets.get((namespace, name))

    async def config_map(self, namespace: str, name: str) -> ConfigMap | None:
        return self.config_maps.get((namespace, name))

    async def cluster_id(self) -> str:
        return self.id

    def add_namespace(self, name: str, *, uid: str = "1") -> None:
        self.namespaces[name] = Namespace(name, f"{name}-{uid}", {})

    def add_secret(self, name: str = "login", **entries: str) -> None:
        data = {key: value.encode() for key, value in entries.items()}
        version = str(len(self.secrets) + 1 + int(self.clock.monotonic()))
        self.secrets["platform", name] = Secret(name, version, OFFERED, data)

    def add_backend(self, name: str = "shared", **spec: Any) -> dict[str, Any]:
        standard = {"endpoints": ["redis:6379"], "allowedNamespaces": {"from": "All"}}
        return self._add("MemoryBackend", "platform", name, {**standard, **spec})

    def add_resource(self, name: str = "support", **spec: Any) -> dict[str, Any]:
        standard = {
            "backendRef": {"name": "shared", "namespace": "platform"},
            "retention": {"ttl": "24h"},
        }
        return self._add("MemoryResource", "team", name, {**standard, **spec})

    def add_erasure(self, name: str = "order", **spec: Any) -> dict[str, Any]:
        standard = {"memoryRef": {"name": "support"}}
        return self._add("MemoryErasure", "team", name, {**standard, **spec})

    def edit(self, body: dict[str, Any], **spec: Any) -> None:
        """Edit the spec of an object, as people do."""
        body["spec"] = {**body["spec"], **spec}
        body["metadata"]["generation"] += 1

    def annotate(self, body: dict[str, Any], **annotations: str) -> None:
        """Set annotations of ours: `paused="true"` is `holdfast.dev/paused`."""
        named = {f"holdfast.dev/{key.replace('_', '-')}": text for key, text in annotations.items()}
        body["metadata"]["annotations"] = named

    def delete(self, body: dict[str, Any]) -> None:
        """Mark an object as deleted."""
        body["metadata"]["deletionTimestamp"] = self.clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    async def look(self, body: dict[str, Any]) -> Outcome:
        """Reconcile an object once, or do one step of its deletion, and write the status."""
        reconcile, finalize = {
            "MemoryBackend": (self.backends.reconcile, self.backends.finalize),
            "MemoryResource": (self.resources.reconcile, self.deletions.finalize),
            "MemoryErasure": (self.erasures.reconcile, self.erasures.finalize),
        }[body["kind"]]
        ending = "deletionTimestamp" in body["metadata"]
        outcome = await (finalize if ending else reconcile)(copy.deepcopy(body))
        if outcome.remove or (ending and outcome.again is None):
            metadata = body["metadata"]
            del self.objects[body["kind"], metadata["namespace"], metadata["name"]]
        if outcome.status is not None:
            body["status"] = outcome.status.model_dump(mode="json", exclude_none=True)
        return outcome

    async def settle(self, body: dict[str, Any], *, most: int = 100) -> Outcome:
        """Look at an object until it is at rest, letting time pass in between."""
        for _ in range(most):
            outcome = await self.look(body)
            if outcome.again is None:
                return outcome
            self.clock.advance(outcome.again)
        raise AssertionError(f"not at rest after {most} looks: {body['status']}")

    def _add(self, kind: str, namespace: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
        uid = f"{kind}-{name}-{len(self.objects)}-{self.clock.monotonic()}"
        body = {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": uid,
                "generation": 1,
                "creationTimestamp": "2020-01-01T00:00:00Z",
            },
            "spec": dict(spec),
            "status": copy.deepcopy(PENDING),
        }
        self.objects[kind, namespace, name] = body
        return body


def condition(body: Mapping[str, Any], of: str) -> dict[str, Any] | None:
    """Return a condition of an object."""
    return next((item for item in body["status"]["conditions"] if item["type"] == of), None)


def ready(body: Mapping[str, Any]) -> tuple[str, str]:
    """Return status and reason of Ready."""
    found = condition(body, "Ready")
    assert found is not None
    return found["status"], found["reason"]


async def ready_pair(world: World, **spec: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Add a backend and a memory on it, see that both are Ready, and return them."""
    backend, resource = world.add_backend(), world.add_resource(**spec)
    await world.look(backend)
    await world.settle(resource)
    assert ready(resource) == ("True", "Available")
    return backend, resource
