"""Two operators on a real API server: one acts at a time, and another one soon when it does not any more."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from holdfast.embedded import reserve_port
from holdfast.store.access import password_hash
from holdfast_operator.services.ports import ClusterConflict
from holdfast_operator.storage.kubernetes import Kubernetes
from holdfast_operator.storage.mirror import Key, Kind
from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import ACCOUNT, HOME, RBAC, OperatorProcess, install
from tests.harness.pipe import Pipe
from tests.harness.servers import Server
from tests.harness.space import LOOKS
from tests.harness.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.redis]

LEASE, DEADLINE = 5, 4
FAST = [f"--lease-duration={LEASE}", f"--renew-deadline={DEADLINE}", "--retry-period=0.3"]
TICK = 5
"""Seconds between looks at an object at rest."""
LEADS = "This operator leads"
LEADER, STANDBY = "leader\n", "standby: another operator leads\n"
OBJECTS = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBackend
metadata: {name: NAME}
spec: {endpoints: ["127.0.0.1:PORT"]}
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: NAME}
spec: {backendRef: {name: NAME}, retention: {ttl: 24h}}
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: NAME-2}
spec: {backendRef: {name: NAME}, retention: {ttl: 24h}}
"""

BINDING = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBinding
metadata: {name: agent}
spec:
  serviceAccountName: agent
  memories: [{name: support, memoryRef: {name: users}, access: ReadWrite}]
"""


@dataclass
class Replica:
    """One of the operators, with a way of its own to the API server and a health server."""

    process: OperatorProcess
    pipe: Pipe
    port: int
    starts: int = 0
    started: bool = False

    def start(self) -> None:
        self.starts, self.started = len(self.process.log), True
        self.process.start()

    def kill(self) -> None:
        self.process.kill()
        self.started = False

    @property
    def running(self) -> bool:
        return self.started and self.process.running

    @property
    def log(self) -> str:
        """What it said since its last start."""
        return self.process.log[self.starts :]

    @property
    def leads(self) -> bool:
        return LEADS in self.log

    def record(self, text: str) -> dict[str, Any]:
        """Return the record of the log that says this."""
        return next(json.loads(line) for line in self.log.splitlines() if text in line)

    def said_at(self, text: str) -> datetime:
        return datetime.fromisoformat(self.record(text)["timestamp"])

    async def get(self, path: str) -> tuple[int, str]:
        # No TLS here, and no authorities to read for each look.
        async with httpx.AsyncClient(verify=False) as client:
            try:
                answer = await client.get(f"http://127.0.0.1:{self.port}{path}", timeout=10)
            except httpx.TransportError:
                return 0, ""
            return answer.status_code, answer.text

    async def ready(self, role: str) -> None:
        async def is_ready() -> bool:
            return await self.get("/readyz") == (200, role)

        await until(is_ready, f"ready as {role!r}\n{self.process.tail()}", every=LOOKS)

    async def ended(self) -> None:
        await until(lambda: not self.running, "ended")


@dataclass
class Pair:
    """Two operators that serve one namespace."""

    plane: ControlPlane
    namespace: str
    replicas: list[Replica]

    async def leader(self) -> tuple[Replica, Replica]:
        """Let both run and be well; return the leader, and the one that waits."""
        for replica in self.replicas:
            await replica.pipe.accept()
            if not replica.running:
                replica.start()
        found: list[Replica] = []

        async def one_leads() -> bool:
            roles = {(await replica.get("/readyz"))[1]: replica for replica in self.replicas}
            found[:] = [roles[role] for role in (LEADER, STANDBY) if role in roles]
            return len(found) == 2

        await until(one_leads, "one leads and one waits", every=LOOKS)
        return found[0], found[1]

    async def kubectl(self, *arguments: str, **more: str) -> str:
        # Not in the event loop: there the pipes forward what the operators say.
        return await asyncio.to_thread(self.plane.kubectl, *arguments, **more)

    async def get(self, name: str) -> dict[str, Any]:
        ask = self.plane.administrator.get
        return await asyncio.to_thread(ask, self.namespace, f"memres/{name}")

    async def epoch(self) -> int:
        lease = await asyncio.to_thread(self.plane.administrator.get, HOME, f"lease/{ACCOUNT}")
        return lease["spec"]["leaseTransitions"]

    async def apply(self, name: str, port: int) -> None:
        """Make a backend and two memories: `name` and `name-2`."""
        objects = OBJECTS.replace("NAME", name).replace("PORT", str(port))
        await self.kubectl("apply", f"--namespace={self.namespace}", "-f", "-", input=objects)

    async def edit(self, name: str, ttl: str) -> None:
        patch = json.dumps({"spec": {"retention": {"ttl": ttl}}})
        namespace = f"--namespace={self.namespace}"
        await self.kubectl("patch", "memres", name, namespace, "--type=merge", "-p", patch)

    async def revision(self, name: str, revision: int) -> None:
        async def there() -> bool:
            body = await self.get(name)
            status = body["status"]
            return (
                status.get("policyRevision") == revision
                and status["observedGeneration"] == body["metadata"]["generation"]
                and any(
                    item["type"] == "PolicyApplied" and item["reason"] == "Applied"
                    for item in status["conditions"]
                )
            )

        await until(there, f"{name} at revision {revision}", every=LOOKS)

    async def password(self) -> str:
        """Return what the Secret of the binding `agent` says; empty when there is none."""
        ask = self.plane.administrator.find
        secret = await asyncio.to_thread(ask, self.namespace, "secret/agent-holdfast")
        return base64.b64decode(secret["data"]["password"]).decode() if secret else ""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Pair]:
    """Two operators for all tests here; each test leaves them as it likes."""
    namespace = control_plane.namespace()
    install(control_plane)
    control_plane.kubectl("delete", "lease", ACCOUNT, f"--namespace={HOME}", "--ignore-not-found")
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(control_plane.administrator.clear)
        replicas: list[Replica] = []
        for name in ("a", "b"):
            pipe = await stack.enter_async_context(Pipe(int(control_plane.url.rpartition(":")[2])))
            directory = tmp_path_factory.mktemp(f"operator-{name}")
            port = stack.enter_context(reserve_port(None))
            process = OperatorProcess(
                control_plane,
                directory,
                arguments=[
                    *FAST,
                    f"--interval={TICK}",
                    f"--namespace={namespace}",
                    f"--health-port={port}",
                    "--log-format=json",
                ],
                elected=True,
                kubeconfig=through(control_plane, pipe, directory),
                forked=True,
            )
            stack.callback(process.stop)
            replicas.append(Replica(process, pipe, port))
        yield Pair(control_plane, namespace, replicas)


def through(plane: ControlPlane, pipe: Pipe, directory: Path) -> Path:
    """Return a kubeconfig of the operator's that goes through a pipe."""
    text = plane.kubeconfig_for(HOME, ACCOUNT).read_text(encoding="utf-8")
    path = directory / "kubeconfig"
    path.write_text(text.replace(plane.url, f"https://127.0.0.1:{pipe.port}"), encoding="utf-8")
    return path


def seconds_between(one: datetime, other: datetime) -> float:
    return (other - one).total_seconds()


async def epoch_of(redis: Redis, pair: Pair, name: str) -> int:
    return int(await redis.hget(f"mem:{{{pair.namespace}/{name}}}:owner", "epoch") or -1)


@pytest.mark.asyncio(loop_scope="module")
async def test_another_one_leads_soon_after_a_kill_and_at_once_after_a_stop(
    pair: Pair, valkey_server: Server
):
    redis = valkey_server.client()
    first, second = await pair.leader()
    await pair.apply("handed", valkey_server.port)
    await pair.revision("handed", 1)
    epoch = await pair.epoch()
    assert await epoch_of(redis, pair, "handed") == epoch
    assert "holdfast_leader 1.0" in (await first.get("/metrics"))[1]
    # Kopf's finalizers on three objects, and a status of each at least.
    assert writes(await first.get("/metrics")) >= 6
    page = (await second.get("/metrics"))[1]
    assert writes((200, page)) == 0
    assert "holdfast_leader 0.0" in page
    assert (await second.get("/healthz"))[0] == 200
    assert not second.leads

    killed = asyncio.get_running_loop().time()
    first.kill()
    await until(lambda: second.leads, "the other one leads")
    assert asyncio.get_running_loop().time() - killed > LEASE - 1, "the lease counts for so long"
    await pair.edit("handed", "2h")
    await pair.revision("handed", 2)
    assert await epoch_of(redis, pair, "handed") == await pair.epoch() > epoch

    first.start()
    await first.ready(STANDBY)
    await asyncio.to_thread(second.process.terminate)
    await until(lambda: first.leads, "the first one leads again")
    gave_up = second.said_at("The lease is given up")
    told = second.said_at("Signal SIGTERM is received")
    assert seconds_between(told, gave_up) < 5, "Kopf waited for its own look at the flag"
    assert seconds_between(gave_up, first.said_at(LEADS)) < LEASE - 1, (
        "it did not wait for the lease"
    )
    await pair.edit("handed", "3h")
    await pair.revision("handed", 3)
    assert await epoch_of(redis, pair, "handed") == epoch + 2
    await redis.aclose()
    # Who waits ends at once as well, and leaves the lease alone.
    second.start()
    await second.ready(STANDBY)
    await asyncio.to_thread(second.process.terminate)
    assert first.running
    assert await first.get("/readyz") == (200, LEADER)
    check_logs(pair, [first, second])


def writes(answer: tuple[int, str]) -> float:
    """Return how many requests that may change something the operator sent."""
    name = "holdfast_operator_api_writes_total{"
    lines = [line for line in answer[1].splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def check_logs(pair: Pair, replicas: list[Replica]) -> None:
    """Every line of both is a JSON object, and one about an object says which."""
    for replica in replicas:
        for line in replica.process.log.splitlines():
            record = json.loads(line)
            assert {"timestamp", "severity", "logger", "message"} <= set(record)
            assert datetime.fromisoformat(record["timestamp"]).tzinfo is not None
    lines = [line for replica in replicas for line in replica.process.log.splitlines()]
    records = [json.loads(line) for line in lines]
    [ready] = [
        record
        for record in records
        if (record.get("kind"), record.get("name")) == ("MemoryResource", "handed")
        and ": Available: " in record["message"]
    ]
    assert ready["namespace"] == pair.namespace
    assert ready["revision"] == 1
    assert ready["object"]["uid"]
    assert ready["severity"] == "info"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_leader_that_cannot_reach_the_api_server_ends_before_another_one_leads(pair: Pair):
    leader, other = await pair.leader()
    for fault in ("hung", "refused", "slow"):
        match fault:
            case "hung":
                leader.pipe.hang()
            case "refused":
                leader.pipe.refuse()
            case _:
                leader.pipe.slow(5.0)
        await until(lambda now=other: now.leads, f"{fault}: another one leads")
        await leader.ended()
        words = f"The leader's lease was not renewed for {DEADLINE} s"
        assert leader.said_at(words) < other.said_at(LEADS), fault
        if fault == "slow":
            break
        await leader.pipe.accept()
        leader.start()
        await leader.ready(STANDBY)
        leader, other = other, leader


@pytest.mark.asyncio(loop_scope="module")
async def test_late_writes_of_a_leader_that_was_paused_change_nothing(
    pair: Pair, valkey_server: Server
):
    redis = valkey_server.client()
    async with Pipe(valkey_server.port) as to_redis:
        leader, other = await pair.leader()
        await pair.apply("late", to_redis.port)
        for name in ("late", "late-2"):
            await pair.revision(name, 1)
        old = await pair.get("late")

        # One status is on its way to the API server, and one script on its way to Redis ...
        leader.pipe.hold()
        await pair.edit("late", "2h")
        await until(lambda: revision_is(redis, pair, "late", 2), "the policy is written")
        sent = leader.pipe.holds
        await until(lambda: leader.pipe.holds > sent or leader.pipe.holds > 1000, "status is sent")
        to_redis.hold(word=b"EVALSHA")  # reads come before: they change nothing, and pass
        await pair.edit("late-2", "2h")
        await until(lambda: to_redis.holds > 0, "a script is sent")
        # ... when the process stops for longer than the lease.
        leader.process.pause()
        await until(lambda: other.leads, "another one leads")
        for name in ("late", "late-2"):
            await pair.revision(name, 2)
            assert await epoch_of(redis, pair, name) == await pair.epoch()
        before = {name: await settled(pair, name) for name in ("late", "late-2")}

        leader.process.resume()
        await leader.ended()
        assert "was not renewed" in leader.log
        to_redis.release()
        leader.pipe.release()
        await until(lambda: b"FENCED" in to_redis.replies, "Redis refused the script")

        assert {name: await settled(pair, name) for name in ("late", "late-2")} == before
        # What was held is encrypted. So this is what the paused one sends: a status for the object it saw.
        async with Kubernetes(pair.plane.kubeconfig_for(HOME, ACCOUNT)) as api:
            key = Key(Kind.RESOURCE, pair.namespace, "late")
            with pytest.raises(ClusterConflict):
                await api.put_status(key, old["metadata"]["resourceVersion"], old["status"])
    await redis.aclose()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_change_of_a_user_that_a_paused_leader_sent_is_undone_within_a_tick(
    pair: Pair, valkey_server: Server
):
    redis = valkey_server.client()
    namespace = f"--namespace={pair.namespace}"
    await asyncio.to_thread(
        pair.plane.apply, RBAC / "binding-secrets.yaml", namespace=pair.namespace
    )

    async def given() -> bool:
        return await pair.password() != ""

    async with Pipe(valkey_server.port) as to_redis:
        leader, other = await pair.leader()
        await pair.apply("users", to_redis.port)
        await pair.kubectl("apply", namespace, "-f", "-", input=BINDING)
        await until(given, "the Secret is there", deadline=60, every=LOOKS)
        first = await pair.password()
        [user] = [name for name in await redis.acl_users() if f":{pair.namespace}:agent:" in name]
        assert await passwords_of(redis, user) == {password_hash(first)}

        # A rotation adds a password to the user before the Secret says it. That is on its way ...
        to_redis.hold(word=b"SETUSER\r\n$%d\r\n%s\r\n" % (len(user), user.encode()))
        now = "holdfast.dev/rotate-requested-at=now"
        await pair.kubectl("annotate", "membind/agent", now, namespace)
        await until(lambda: to_redis.holds > 0, "the change is sent")
        # ... when the process stops for longer than the lease, and another one rotates instead.
        leader.process.pause()
        assert await pair.password() == first
        await until(lambda: other.leads, "another one leads", deadline=30)

        async def rotated() -> bool:
            return await pair.password() != first

        await until(rotated, "the other one rotated", deadline=60, every=LOOKS)
        taken = {password_hash(first), password_hash(await pair.password())}
        assert await passwords_of(redis, user) == taken
        before = repairs(await other.get("/metrics"))

        # No server can refuse what arrives now, and nobody has the password that it brings.
        to_redis.release()
        await until(lambda: to_redis.replies.startswith(b"+OK"), "the server carried it out")
        arrived = asyncio.get_running_loop().time()

        async def undone() -> bool:
            page = await other.get("/metrics")
            return repairs(page) > before and await passwords_of(redis, user) == taken

        await until(undone, "the Secret's password is taken again", every=LOOKS)
        assert asyncio.get_running_loop().time() - arrived < 2 * TICK, (
            "within a tick, and some load"
        )
        assert password_hash(await pair.password()) in taken, (
            "the one that clients have is left alone"
        )
        leader.process.resume()
        await leader.ended()
    await redis.aclose()


async def passwords_of(redis: Redis, user: str) -> set[str]:
    """Return the hashes of the passwords that a server takes from a user."""
    return set((await redis.acl_getuser(user))["passwords"])


def repairs(answer: tuple[int, str]) -> float:
    """Return how many users on servers the operator made what they should be."""
    name = "holdfast_operator_acl_repairs_total{"
    return sum(
        float(line.rpartition(" ")[2]) for line in answer[1].splitlines() if line.startswith(name)
    )


async def revision_is(redis: Redis, pair: Pair, name: str, revision: int) -> bool:
    found = await redis.hget(f"mem:{{{pair.namespace}/{name}}}:policy", "revision")
    return int(found or 0) == revision


async def settled(pair: Pair, name: str) -> str:
    """Return the version of an object once it is the same for a second."""
    while True:
        before = (await pair.get(name))["metadata"]["resourceVersion"]
        await asyncio.sleep(1)
        if (await pair.get(name))["metadata"]["resourceVersion"] == before:
            return before
