"""Bindings on a real API server and a real Valkey: the operator is a process with the rights it ships with,
confined by the admission policies it ships with. It looks at objects at rest every second."""

import asyncio
import base64
import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

import holdfast
from holdfast.client import Client
from holdfast.embedded import reserve_port
from holdfast.errors import AccessDenied, HoldfastError
from holdfast.store.access import password_hash
from holdfast.store.redis import RedisStore
from tests.harness.certificates import CertificateAuthority
from tests.harness.cluster_of_servers import ClusterOfServers
from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import RBAC, ROOT, OperatorProcess, serving_operator
from tests.harness.parts import need_server
from tests.harness.servers import Product, Server
from tests.harness.space import LOOKS
from tests.harness.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.asyncio]

POLICIES = ROOT / "charts/holdfast/files/admission"
SECRET = "agent-holdfast"
PASSWORD = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    directory = tmp_path_factory.mktemp("operator")
    with serving_operator(control_plane, directory, arguments=["--interval=1"]) as process:
        control_plane.apply(POLICIES)
        yield process
    control_plane.kubectl("delete", "-f", str(POLICIES), "--wait=false")


@dataclass(frozen=True)
class Login:
    """User and password as a Secret says them."""

    username: str
    password: str


@dataclass(frozen=True)
class Team:
    """A namespace with a backend and the memories `support` and `notes`, and a look into it."""

    plane: ControlPlane
    namespace: str
    server: Server

    def kubectl(self, *arguments: str, text: str | None = None) -> str:
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments, input=text)

    def apply(self, *objects: dict[str, Any]) -> None:
        text = "\n---\n".join(json.dumps(item) for item in objects)
        self.plane.administrator.apply(self.namespace, text)

    def bind(self, name: str = "agent", **memories: str) -> None:
        """Make a binding: `bind(support="ReadWrite")`."""
        entries = [
            {"name": memory, "memoryRef": {"name": memory}, "access": access}
            for memory, access in (memories or {"support": "ReadWrite"}).items()
        ]
        spec = {"serviceAccountName": "agent", "memories": entries}
        self.apply(manifest("MemoryBinding", name, spec))

    def get(self, what: str) -> dict[str, Any]:
        """Return an object; an empty one when there is none."""
        return self.plane.administrator.find(self.namespace, what) or {}

    def entries(self, name: str = SECRET) -> dict[str, str]:
        data = self.get(f"secret/{name}").get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def login(self, name: str = SECRET) -> Login:
        found = self.entries(name)
        return Login(found["username"], found["password"])

    async def reason(self, reason: str, name: str = "agent", of: str = "Ready") -> dict[str, Any]:
        """Wait until a condition of a binding has this reason, and return the condition."""
        last: dict[str, Any] = {}

        async def look() -> bool:
            nonlocal last
            # In a thread: the loop may be at work for clients meanwhile.
            last = await asyncio.to_thread(self.get, f"membind/{name}")
            return condition(last, of).get("reason") == reason

        try:
            await until(look, reason, every=LOOKS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{json.dumps(last.get('status'), indent=1)}") from None
        return condition(last, of)

    async def bound(self, name: str = "agent", **memories: str) -> Login:
        self.bind(name, **memories)
        await self.reason("Available", name)
        return self.login(f"{name}-holdfast")

    def client(self, login: Login, namespace: str = "") -> Client:
        """A client of the library with a login."""
        who = f"{quote(login.username, safe='')}:{login.password}"
        store = RedisStore.from_url(f"redis://{who}@127.0.0.1:{self.server.port}")
        return Client(store, namespace=namespace or self.namespace)

    def user(self, login: Login) -> Redis:
        """A plain client with a login."""
        return self.server.client(username=login.username, password=login.password)

    async def let_in(self, login: Login) -> bool:
        user = self.user(login)
        try:
            return bool(await user.ping())
        except RedisError:
            return False
        finally:
            await user.aclose()


class Files:
    """A binding's folder as kubelet keeps it: all files change at once, by turning a link."""

    def __init__(self, root: Path, entries: dict[str, str]) -> None:
        self._folder = root / "agent"
        self._folder.mkdir()
        self._entries: dict[str, str] = {}
        self._numbers = itertools.count()
        self.renew(entries)
        for name in entries:
            (self._folder / name).symlink_to(Path("..data") / name)

    @property
    def login(self) -> Login:
        return Login(self._entries["username"], self._entries["password"])

    def renew(self, entries: dict[str, str]) -> None:
        """Show these entries, unless they are there already."""
        if not entries or entries == self._entries:
            return
        data = self._folder / f"..{next(self._numbers)}"
        data.mkdir()
        for name, text in entries.items():
            (data / name).write_text(text, encoding="utf-8")
        link = self._folder / "..next"
        link.symlink_to(data.name)
        link.rename(self._folder / "..data")
        self._entries = entries


def manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    }


def condition(body: dict[str, Any], of: str) -> dict[str, Any]:
    """Return a condition; an empty one when it is not there."""
    conditions = body.get("status", {}).get("conditions", ())
    return next((item for item in conditions if item["type"] == of), {})


def make_team(
    plane: ControlPlane,
    namespace: str,
    server: Server,
    *,
    granted: bool = True,
    backend: dict[str, Any] | None = None,
) -> Team:
    team = Team(plane, namespace, server)
    if granted:
        plane.apply(RBAC / "binding-secrets.yaml", namespace=namespace)
    kept = {"backendRef": {"name": "shared"}, "retention": {"ttl": "24h"}}
    team.apply(
        manifest("MemoryBackend", "shared", backend or {"endpoints": [f"127.0.0.1:{server.port}"]}),
        *(manifest("MemoryResource", name, kept) for name in ("support", "notes")),
    )
    return team


@pytest.fixture
def team(
    control_plane: ControlPlane, operator: OperatorProcess, namespace: str, valkey_server: Server
) -> Team:
    return make_team(control_plane, namespace, valkey_server)


async def passwords_of(redis: Redis, login: Login) -> set[str]:
    """Return the hashes of a user's passwords; none when there is no such user."""
    found: Any = await redis.acl_getuser(login.username)
    return set(found["passwords"]) if found else set()


def hashes(*logins: Login) -> set[str]:
    return {password_hash(login.password) for login in logins}


async def test_a_binding_gives_access_to_its_memories_and_to_nothing_else(
    team: Team, control_plane: ControlPlane, valkey_server: Server
):
    login = await team.bound(support="ReadWrite")
    reader = await team.bound("reader", support="ReadOnly")
    async with team.client(login) as client:
        await client.memory("support").session("s").append({"role": "user", "content": "hi"})
        with pytest.raises(AccessDenied):
            await client.memory("notes").session("s").append({"role": "user", "content": "hi"})
    async with team.client(reader) as client:
        session = client.memory("support").session("s")
        assert [item["content"] for item in await session.read()] == ["hi"]
        with pytest.raises(AccessDenied):
            await session.append({"role": "user", "content": "no"})
    other = make_team(control_plane, control_plane.namespace(), valkey_server)
    stranger = await other.bound(support="ReadWrite")
    async with other.client(stranger, team.namespace) as client:
        with pytest.raises(AccessDenied):
            await client.memory("support").session("s").read()

    entries = team.entries()
    assert {"type": "holdfast", "provider": "valkey"}.items() <= entries.items()
    assert json.loads(entries["memories"])[0]["prefix"] == f"mem:{{{team.namespace}/support"
    secret = team.get(f"secret/{SECRET}")
    assert secret["type"] == "servicebinding.io/holdfast"
    [owner] = secret["metadata"]["ownerReferences"]
    binding = team.get("membind/agent")
    assert (owner["uid"], owner["controller"]) == (binding["metadata"]["uid"], True)
    assert binding["status"]["binding"] == {"name": SECRET}
    shown = team.kubectl("get", "membind", "agent")
    assert shown.split("\n")[0].split() == [
        "NAME",
        "READY",
        "REASON",
        "SERVICEACCOUNT",
        "SECRET",
        "AGE",
    ]
    assert shown.split("\n")[1].split()[1:5] == ["True", "Available", "agent", SECRET]
    events = team.kubectl("get", "events", "-o", "yaml")
    for text in (
        events,
        json.dumps(binding),
        team.plane.kubectl("get", "events", "-A", "-o", "yaml"),
    ):
        assert login.password not in text


async def test_what_is_edited_or_lost_is_put_right(team: Team, redis: Redis):
    first = await team.bound()
    # The user on the server: gone, and made wider.
    await redis.acl_deluser(first.username)
    await until(lambda: team.let_in(first), "the user is there again")
    await redis.acl_setuser(first.username, enabled=True, keys=["secrets:*"], commands=["+get"])

    async def narrow() -> bool:
        found: Any = await redis.acl_getuser(first.username)
        return "secrets" not in json.dumps(found["keys"])

    await until(narrow, "the user is as narrow as before")
    # The Secret: an entry edited, then all of it gone.
    team.kubectl("patch", "secret", SECRET, "-p", json.dumps({"stringData": {"host": "elsewhere"}}))
    await until(lambda: team.entries()["host"] == "127.0.0.1", "the entry is put right")
    assert team.login() == first
    team.kubectl("patch", "secret", SECRET, "-p", json.dumps({"stringData": {"password": "guess"}}))
    await until(lambda: team.login().password not in {"guess", first.password}, "a new password")
    second = team.login()
    assert second.username == first.username
    assert await team.let_in(second)
    assert await team.let_in(first), "in grace"
    team.kubectl("delete", "secret", SECRET)
    await until(lambda: bool(team.entries()), "the Secret is there again")
    third = team.login()
    assert third.username == first.username
    assert await team.let_in(third)
    assert await passwords_of(redis, third) == hashes(third)


async def test_a_rotation_under_load_fails_no_request(
    team: Team, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Who reads the files again is let in, and so is, until grace ends, who has the old password."""
    first = await team.bound()
    files = Files(tmp_path, team.entries())
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path))
    failed, done, ended = list[str](), list[int](), asyncio.Event()

    async def follow() -> None:
        """Bring the Secret to the files again and again, as kubelet does."""
        while not ended.is_set():
            files.renew(await asyncio.to_thread(team.entries))

    async def work(number: int, connect: Callable[[], Client], *, rounds: int) -> None:
        while not ended.is_set():
            async with connect() as client:
                session = client.memory("support").session(f"s{number}")
                for _ in range(rounds):
                    try:
                        await session.append({"role": "user", "content": "hi"})
                    except HoldfastError as error:
                        failed.append(error.code)
                    done.append(number)

    with_files = holdfast.connect
    async with with_files() as lasting, asyncio.TaskGroup() as group:
        group.create_task(follow())
        for number in range(6):
            group.create_task(work(number, with_files, rounds=5))
        for number in range(6, 8):  # their files never change
            group.create_task(work(number, lambda: team.client(first), rounds=5))
        session = lasting.memory("support").session("lasting")
        await session.append({"role": "user", "content": "hi"}, id="before")
        now = ("annotate", "membind/agent", "holdfast.dev/rotate-requested-at=one")
        await asyncio.to_thread(team.kubectl, *now)
        await until(lambda: files.login != first, "a new password")
        await team.reason("Rotating", of="CredentialsReady")
        second, before = files.login, len(done)
        await until(lambda: len(done) > before + 200, "work goes on")
        ended.set()
        assert await passwords_of(redis, first) == hashes(first, second)
        rotation = (await asyncio.to_thread(team.get, "membind/agent"))["status"]["rotation"]
        assert rotation["lastHandledRequest"] == "one"
        # As if grace were over: the old password is taken no longer.
        past = "holdfast.dev/former-password-until=2020-01-01T00:00:00Z"
        await asyncio.to_thread(team.kubectl, "annotate", "secret", SECRET, "--overwrite", past)
        await team.reason("Issued", of="CredentialsReady")
        assert await passwords_of(redis, second) == hashes(second)
        assert not await team.let_in(first)
        # A client of before goes on over connections it has to make anew.
        await redis.execute_command("CLIENT", "KILL", "USER", first.username)
        await session.append({"role": "user", "content": "hi"}, id="after")
    assert failed == []


async def test_a_secret_that_is_not_ours_is_not_touched(team: Team, redis: Redis):
    team.kubectl("create", "secret", "generic", SECRET, "--from-literal=password=theirs")
    version = team.get(f"secret/{SECRET}")["metadata"]["resourceVersion"]
    team.bind()
    await team.reason("SecretNameTaken")
    await team.reason("SecretNameTaken", of="CredentialsReady")
    team.kubectl("delete", "membind", "agent")
    assert team.get(f"secret/{SECRET}")["metadata"]["resourceVersion"] == version
    assert not [name for name in await redis.acl_users() if f":{team.namespace}:" in name]


async def test_a_namespace_that_gave_no_permission_is_told_the_command(
    control_plane: ControlPlane, operator: OperatorProcess, namespace: str, valkey_server: Server
):
    team = make_team(control_plane, namespace, valkey_server, granted=False)
    team.bind()
    found = await team.reason("NoPermission", of="CredentialsReady")
    commands = re.findall(r"kubectl (--namespace=.*?)(?: &&|$)", found["message"])
    assert len(commands) == 2
    for command in commands:
        control_plane.kubectl(*command.split())
    await team.reason("Available")
    assert await team.let_in(team.login())


async def test_a_deleted_binding_closes_what_is_open(team: Team, redis: Redis):
    login = await team.bound()
    user = team.user(login)
    assert await user.ping()
    # One that waits is closed as well, and is not let in again.
    waiting = asyncio.create_task(
        user.blpop([f"mem:{{{team.namespace}/support/s}}:w:x"], timeout=60)
    )
    team.kubectl("delete", "membind", "agent", "--timeout=60s")
    with pytest.raises(RedisError):
        await asyncio.wait_for(waiting, 90)
    await user.aclose()
    assert not await team.let_in(login)
    assert not team.get(f"secret/{SECRET}")


async def test_what_a_memory_or_its_backend_takes_back_is_gone_within_a_tick(team: Team):
    login = await team.bound(support="ReadWrite", notes="ReadWrite")
    team.kubectl("delete", "memres", "notes")
    await team.reason("MemoryNotFound")
    async with team.client(login) as client:
        await client.memory("support").session("s").append({"role": "user", "content": "hi"})
        with pytest.raises(HoldfastError):
            await client.memory("notes").session("s").append({"role": "user", "content": "hi"})
    nobody = {"from": "Selector", "selector": {"matchLabels": {"never": "there"}}}
    team.kubectl(
        "patch", "membackend/shared", "--type=merge",
        "-p", json.dumps({"spec": {"allowedNamespaces": nobody}}),
    )  # fmt: skip
    await team.reason("BackendNotAllowed")
    assert not await team.let_in(login)
    everybody = {"from": "All", "selector": None}
    team.kubectl(
        "patch", "membackend/shared", "--type=merge",
        "-p", json.dumps({"spec": {"allowedNamespaces": everybody}}),
    )  # fmt: skip
    await until(lambda: team.let_in(login), "the same login works again")


async def test_killed_in_the_middle_of_a_rotation_it_converges(
    team: Team, operator: OperatorProcess, redis: Redis
):
    before = await team.bound()
    team.kubectl("annotate", "membind/agent", "holdfast.dev/rotate-requested-at=one")

    async def begun() -> bool:
        return await passwords_of(redis, before) != hashes(before)

    # Most often before the Secret is written, for that comes after it.
    await until(begun, "the server has another password")
    operator.kill()
    assert await team.let_in(before)
    assert await team.let_in(team.login())
    operator.start()

    def handled() -> str:
        return team.get("membind/agent")["status"]["rotation"].get("lastHandledRequest", "")

    await until(lambda: handled() == "one", "the rotation is done")
    after = team.login()
    assert after.password != before.password

    async def both() -> bool:
        return await passwords_of(redis, before) == hashes(before, after)

    await until(both, "both passwords, and no other one")


async def test_a_user_that_is_left_behind_is_swept(
    team: Team, operator: OperatorProcess, redis: Redis
):
    login = await team.bound()
    cluster = login.username.split(":")[1]
    other = f"am:{'0' * 8 if cluster != '0' * 8 else '1' * 8}:{team.namespace}:agent:00000000"
    operator.kill()
    await redis.acl_setuser(other, enabled=True, passwords=["+x"])
    # The object goes without the operator, as with a finalizer that somebody took off.
    team.kubectl("delete", "membind", "agent", "--wait=false")
    team.kubectl("patch", "membind/agent", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')
    assert await team.let_in(login)
    operator.start()
    try:
        await until(lambda: _not(team.let_in(login)), "the user is gone")
        assert other in await redis.acl_users(), "that of another cluster is nobody's business here"
    finally:
        with contextlib.suppress(RedisError):
            await redis.acl_deluser(other)


async def append_from_files(team: Team, root: Path) -> None:
    """Connect as a workload does that mounts the Secret, and write."""
    Files(root, team.entries())
    async with holdfast.connect() as client:
        await client.memory("support").session("s").append({"role": "user", "content": "hi"})


async def test_every_node_of_a_cluster_has_the_user(
    control_plane: ControlPlane,
    operator: OperatorProcess,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path / "files"))
    (tmp_path / "files").mkdir()
    async with ClusterOfServers(tmp_path / "servers", replicas=1) as cluster:
        spec = {"mode": "Cluster", "endpoints": [f"127.0.0.1:{cluster.nodes[0].port}"]}
        team = make_team(control_plane, namespace, cluster.nodes[0], backend=spec)
        login = await team.bound()
        nodes = [*cluster.nodes, *cluster.replicas]
        for node in nodes:
            async with node.client() as raw:
                assert await passwords_of(raw, login) == hashes(login)
        await append_from_files(team, tmp_path / "files")
        await nodes[-1].restart()  # which forgets its users

        async def known() -> bool:
            try:
                async with nodes[-1].client() as raw:
                    return await passwords_of(raw, login) == hashes(login)
            except RedisError:
                return False

        await until(known, "the replica has the user again")
        await asyncio.to_thread(team.kubectl, "delete", "membind", "agent", "--timeout=60s")
        for node in nodes:
            async with node.client() as raw:
                assert login.username not in await raw.acl_users()


async def test_a_server_with_tls_and_a_password_is_reached_with_what_the_secret_holds(
    control_plane: ControlPlane,
    operator: OperatorProcess,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    need_server(Product.REDIS)
    monkeypatch.setenv("SERVICE_BINDING_ROOT", str(tmp_path / "files"))
    (tmp_path / "files").mkdir()
    authority = CertificateAuthority(tmp_path, "ours")
    pair = authority.server("server", hosts=["redis.example"])
    with reserve_port(None) as port:
        options = ["--tls-port", str(port), "--tls-ca-cert-file", str(authority.certificate)]
        options += ["--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)]
        options += ["--tls-auth-clients", "no", "--requirepass", PASSWORD]
        async with Server(Product.REDIS, tmp_path / "server", arguments=options) as server:
            control_plane.apply(RBAC / "backend-secrets.yaml", namespace=namespace)
            label = {"holdfast.dev/credentials": "backend"}
            secret = {"stringData": {"password": PASSWORD}}
            papers = {"data": {"ca.crt": authority.certificate.read_text()}}
            tls = {"mode": "Enabled", "caRef": {"kind": "ConfigMap", "name": "ca"}}
            spec = {
                "endpoints": [f"127.0.0.1:{port}"],
                "authRef": {"name": "login"},
                "tls": tls | {"serverName": "redis.example"},
            }
            Team(control_plane, namespace, server).apply(
                core("Secret", "login", label) | secret, core("ConfigMap", "ca", {}) | papers
            )
            team = make_team(control_plane, namespace, server, backend=spec)
            await team.bound()
            entries = team.entries()
            assert entries["ca.crt"] == authority.certificate.read_text()
            assert entries["server-name"] == "redis.example"
            assert PASSWORD not in json.dumps(entries)
            await append_from_files(team, tmp_path / "files")


def core(kind: str, name: str, labels: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "labels": labels}}


async def _not(answer: Any) -> bool:
    return not await answer
