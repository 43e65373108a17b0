"""A binding's rule on real servers of each mode: the library needs all of it, and nothing else."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from redis.asyncio import Redis

from holdfast.breaker import BreakerState
from holdfast.client import Client
from holdfast.errors import HoldfastError, ScriptsMissing, StoreUnavailable
from holdfast.policy import load_policy
from holdfast.store.access import AccessUser, Grant, password_hash, user_name
from holdfast.store.addresses import Login, read_address
from holdfast.store.maintenance import Owner, Totals
from holdfast.store.redis import RedisStore, acl
from holdfast.store.redis.acl import SESSION_SCRIPTS, called_by, commands
from holdfast.store.redis.carrier import Command, PoolCarrier, Reply
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.store.redis.script import script
from holdfast.testing.conformance import support
from holdfast.values import Durability, MemoryAddress, Part, Refresh, Splice
from tests.harness.cluster_of_servers import ClusterOfServers, slot_of
from tests.harness.sentinels import Sentinels
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration.world import spec, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

PASSWORD = "secret-of-a-tenant"


class Tenant:
    """A binding's user on the servers at an address, the memory it may use, and its operator."""

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = url
        self.memory = MemoryAddress(f"team-{secrets.token_hex(6)}", "support")
        self.hands = RedisMaintenance.over(read_address(url))
        self.user = AccessUser(
            user_name(
                cluster="0" * 8,
                namespace=self.memory.namespace,
                binding="agent",
                uid=secrets.token_hex(4),
            ),
            (Grant(self.memory, read_only=read_only),),
            (password_hash(PASSWORD),),
        )

    @property
    def login(self) -> str:
        """The address with the user's name and password."""
        scheme, place = self.url.split("://")
        return f"{scheme}://{quote(self.user.name)}:{PASSWORD}@{place}"

    async def apply(self, **parts: Any) -> None:
        owner = Owner("cluster-1", "namespace-1", *self.memory, "uid-1", 1)
        _, policy = load_policy(spec(**parts))
        await self.hands.load_scripts()
        await self.hands.claim(self.memory, owner)
        assert await self.hands.put_policy(self.memory, owner, policy.document(), policy.sha256())
        await self.hands.put_usage(self.memory, owner, Totals(0, 0, 0, 0))
        await self.hands.access.put(self.user)

    def client(self, **options: Any) -> Client:
        store = RedisStore.from_url(self.login, **options)
        return Client(store, namespace=self.memory.namespace)


@contextlib.asynccontextmanager
async def tenant_of(url: str, **options: Any) -> AsyncGenerator[Tenant]:
    tenant = Tenant(url, **options)
    try:
        yield tenant
    finally:
        await tenant.hands.access.revoke(tenant.user.name)
        await tenant.hands.aclose()


class Heard:
    """What the library sends to any server, by the names that a rule has for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: set[str] = set()
        self.scripts: set[bytes] = set()
        send, block = PoolCarrier.exchange, PoolCarrier.block

        async def exchange(
            carrier: PoolCarrier, given: Sequence[Command], *, near: bytes = b""
        ) -> list[Reply]:
            for one in given:
                self.note(one)
            return await send(carrier, given, near=near)

        async def blocking(carrier: PoolCarrier, given: Command, seconds: float) -> Reply | None:
            self.note(given)
            return await block(carrier, given, seconds)

        monkeypatch.setattr(PoolCarrier, "exchange", exchange)
        monkeypatch.setattr(PoolCarrier, "block", blocking)

    def clear(self) -> None:
        """Forget what was heard."""
        self.names.clear()
        self.scripts.clear()

    def note(self, one: Command) -> None:
        name = str(one[0], "ascii") if isinstance(one[0], bytes) else str(one[0])
        if name == "CLUSTER":
            name += f"|{str(one[1], 'ascii') if isinstance(one[1], bytes) else one[1]}"
        self.names.add(name.lower())
        if name.startswith("EVALSHA") and isinstance(one[1], bytes):
            self.scripts.add(one[1])


async def write_everything(store: RedisStore, memory: MemoryAddress) -> None:
    """Do what the library does with a session that it may write, so that every script runs."""
    agreed = support.terms(max_sessions=10)
    session = store.session(memory, "a", ["0" * 32])
    other = store.session(memory, "a")
    batch = support.identified("id", support.prepared("one"))
    await session.append(agreed, batch, support.FREE)
    assert await session.known(batch)
    await session.append(
        agreed, support.batch(*(support.prepared(n) for n in range(6))), support.FREE
    )
    await session.pin(agreed, support.FREE, seq=2, pinned=True)
    await session.pop(agreed, support.FREE, expected=7, opens=(), closes=())
    await session.touch(agreed, [3])
    await session.claim_flush("flusher", 1000)
    await session.splice(agreed, Splice("flusher", 0, [(1, "FIFO")], []))
    await session.trim(agreed, tokens=1000, messages=4)
    mine, theirs = support.new_token(), support.new_token()
    granted = await support.take(session, agreed, mine)
    await support.stand_in_line(other, agreed, theirs)
    woken = asyncio.create_task(other.sleep(theirs, 2.0))
    await session.renew(agreed, mine, granted.epoch)
    await asyncio.sleep(0)
    await session.release(agreed, mine)
    assert await woken or await other.acquire(agreed, theirs, "other")
    await other.release(agreed, theirs)
    await session.replace(agreed, support.batch(support.prepared("two")), support.FREE)
    await session.clear(agreed, support.FREE, force=False)
    assert list(await store.labelled(memory, ["0" * 32])) == ["a"]
    assert (await session.erase(agreed)).existed
    await session.append(agreed, batch, support.FREE)
    part = Part((), (), {}, (), 0, 0, 0, 0, 0)
    with contextlib.suppress(HoldfastError):  # an empty one is none
        await store.session(memory, "b").import_part(agreed, part)


async def read_everything(store: RedisStore, memory: MemoryAddress) -> None:
    """Do what the library does with a session that it may only read."""
    agreed = support.terms(refresh=Refresh(0))
    session = store.session(memory, "a")
    assert await store.policy(memory)
    assert await session.newest(agreed, 1)
    assert (await session.everything(agreed)).records
    assert (await session.tail(agreed, tokens=10)).records
    assert (await session.page(agreed, after=0, limit=10)).records
    assert (await session.snapshot()).records
    assert (await session.status()).messages
    await session.known(support.identified("id", support.prepared("one")))
    await session.departed()
    await store.labelled(memory, ["0" * 32])


async def ask_whether_it_is_back(store: RedisStore, memory: MemoryAddress) -> None:
    """Let the breaker of some server ask, as after a pause."""
    await store.session(memory, "a").status()
    for breaker in store.breakers:
        while breaker.state is BreakerState.CLOSED:
            breaker.failed("the test says so")

    async def asked() -> bool:
        with contextlib.suppress(StoreUnavailable):
            return (await store.session(memory, "a").status()).exists
        return False

    await until(asked, "the servers were asked, and are back")


async def use(tenant: Tenant, heard: Heard) -> None:
    """Use the library as the tenant, and compare what it sent with what the rule grants."""
    grants = tenant.user.grants
    read_only = grants[0].read_only
    mode = read_address(tenant.url).mode
    heard.clear()
    durability = Durability(replicas=1, timeout="1ms")
    durable = RedisStore.from_url(tenant.login, durability=durability)
    store = RedisStore.from_url(tenant.login)
    async with contextlib.aclosing(store), contextlib.aclosing(durable):
        if not read_only:
            await write_everything(store, tenant.memory)
            session, batch = durable.session(tenant.memory, "a"), support.batch(support.prepared())
            await session.append(support.terms(), batch, support.FREE)
        await read_everything(store, tenant.memory)
    impatient = RedisStore.from_url(tenant.login, timeout=0.5)
    async with contextlib.aclosing(impatient):
        await ask_whether_it_is_back(impatient, tenant.memory)
    sent = heard.names - {"sentinel"}  # which goes to the sentinels: they have users of their own
    # It runs only where an older version wrote: see test_layouts.
    scripts = [script(name) for name in SESSION_SCRIPTS if name != "migrate"]
    run = [one for one in scripts if one.sha in heard.scripts]
    if not read_only:
        assert run == scripts
    called = {name for one in run for name in called_by(one)}
    assert sent <= set(commands(mode, read_only=read_only))
    # By connections themselves, or only while a slot moves: other tests show that they are needed.
    elsewhere = {"role", "asking"}
    unused = set(commands(mode, read_only=read_only)) - sent - called - elsewhere
    assert not unused


async def nothing_was_refused(server: Server, tenant: Tenant) -> None:
    async with server.client(protocol=2) as raw:
        entries = await raw.acl_log()
        mine = [entry["object"] for entry in entries if entry["username"] == tenant.user.name]
        # What a server of that age has no name for, and clients can do without.
        assert set(mine) <= {"client|setinfo", "client|maint_notifications"}


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Heard:
    return Heard(monkeypatch)


class TestStandalone:
    @pytest.mark.parametrize("read_only", [False, True])
    async def test_the_library_needs_every_command_of_the_rule_and_no_other(
        self, each_server: Server, heard: Heard, read_only: bool
    ) -> None:
        await needs_all(each_server.url, [each_server], heard, read_only=read_only)

    async def test_a_command_that_is_granted_in_vain_would_be_found(
        self, valkey_server: Server, heard: Heard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(acl, "_READING", (*acl._READING, "strlen"))
        with pytest.raises(AssertionError, match="strlen"):
            await needs_all(valkey_server.url, [valkey_server], heard, read_only=False)

    @pytest.mark.parametrize("database", [3])
    async def test_a_database_is_chosen_on_connecting(
        self, each_server: Server, database: int
    ) -> None:
        async with tenant_of(f"{each_server.url}/{database}") as tenant:
            await tenant.apply()
            async with tenant.client() as client:
                await client.memory("support").session("a").append(user("one"))
            async with each_server.client(db=database) as raw:
                assert await raw.keys(f"mem:{{{tenant.memory}/a}}:log")

    async def test_without_scripts_a_tenant_says_so_and_goes_on_once_they_are_there(
        self, own_server: Server
    ) -> None:
        async with tenant_of(own_server.url) as tenant:
            await tenant.apply()
            async with own_server.client() as raw, tenant.client(timeout=1.5) as client:
                session = client.memory("support").session("a")
                await raw.script_flush()
                with pytest.raises(ScriptsMissing):
                    await session.append(user("one"))
                assert not await raw.keys("*/a}:log")
            async with own_server.client() as raw, tenant.client() as client:
                waiting = asyncio.create_task(
                    client.memory("support").session("a").append(user("two"))
                )
                await until(lambda: _tried(raw, tenant), "it tried to load them")
                await tenant.hands.load_scripts()
                assert (await waiting).seq == 1


async def needs_all(url: str, servers: Sequence[Server], heard: Heard, *, read_only: bool) -> None:
    async with tenant_of(url, read_only=read_only) as tenant:
        await tenant.apply()
        if read_only:
            async with tenant_of(url) as writer:
                writer.memory = tenant.memory
                writer.user = replace(writer.user, grants=(Grant(tenant.memory),))
                await writer.hands.access.put(writer.user)
                async with writer.client() as client:
                    session = client.memory("support").session("a", labels={"user": "1"})
                    await session.append(user("one"))
        await use(tenant, heard)
        for server in servers:
            await nothing_was_refused(server, tenant)


async def _tried(raw: Redis, tenant: Tenant) -> bool:
    log = await raw.acl_log()
    return any(
        entry["username"] == tenant.user.name and entry["object"] == "script|load" for entry in log
    )


@pytest.mark.slow
class TestSentinel:
    async def test_the_library_needs_every_command_of_the_rule_and_no_other(
        self, sentinels: Sentinels, heard: Heard
    ) -> None:
        primary = await sentinels.primary()
        async with primary.client() as raw:
            before = await _calls(raw, "role")
            for read_only in (False, True):
                await needs_all(sentinels.url, [primary], heard, read_only=read_only)
            assert await _calls(raw, "role") > before

    async def test_users_are_on_the_replica_and_there_after_a_failover(
        self, tmp_path: Path
    ) -> None:
        async with AsyncExitStack() as stack:
            own = await stack.enter_async_context(Sentinels(tmp_path))
            tenant = await stack.enter_async_context(tenant_of(own.url))
            await tenant.apply()
            access, client = tenant.hands.access, tenant.client()
            login = Login(tenant.user.name, PASSWORD)
            assert await access.probe(login, tenant.user.grants) == ()
            await stack.enter_async_context(client)
            await client.memory("support").session("a").append(user("one"))
            primary, replica = await own.primary(), await own.replica()
            await primary.kill()
            await own.agreed(replica)
            await client.memory("support").session("a").append(user("two"))
            await primary.start()  # it knows nobody any more

            async def repaired() -> bool:
                with contextlib.suppress(StoreUnavailable):
                    return await access.put(tenant.user)
                return False

            await until(repaired, "the old primary is made to know the user again")
            async with primary.client() as raw:
                assert tenant.user.name in await raw.acl_users()


@pytest.mark.slow
class TestCluster:
    async def test_the_library_needs_every_command_of_the_rule_and_no_other(
        self, cluster_of_servers: ClusterOfServers, heard: Heard
    ) -> None:
        nodes = cluster_of_servers.nodes
        for read_only in (False, True):
            await needs_all(cluster_of_servers.url, nodes, heard, read_only=read_only)

    async def test_a_slot_that_moves_is_followed(
        self, cluster_of_servers: ClusterOfServers, heard: Heard
    ) -> None:
        async with tenant_of(cluster_of_servers.url) as tenant:
            await tenant.apply()
            slot = slot_of(f"mem:{{{tenant.memory}/a}}:log")
            owner = await cluster_of_servers.owner(slot)
            target = next(node for node in cluster_of_servers.nodes if node is not owner)
            store = RedisStore.from_url(tenant.login)
            async with tenant.client() as client, contextlib.aclosing(store):
                await client.memory("support").session("a").append(user("one"))
                async with cluster_of_servers.moving(slot, target) as move:
                    await move.keys()
                    assert (await store.session(tenant.memory, "a").status()).exists
            assert "asking" in heard.names
            for node in cluster_of_servers.nodes:
                await nothing_was_refused(node, tenant)

    async def test_users_are_on_every_node_and_what_is_owed_is_said(self, tmp_path: Path) -> None:
        async with AsyncExitStack() as stack:
            cluster = ClusterOfServers(tmp_path, count=2, replicas=1)
            await stack.enter_async_context(cluster)
            tenant = await stack.enter_async_context(tenant_of(cluster.url))
            access, name = tenant.hands.access, tenant.user.name
            servers = [*cluster.nodes, *cluster.replicas]

            async def known() -> list[bool]:
                found: list[bool] = []
                for server in servers:
                    async with server.client() as raw:
                        found.append(name in await raw.acl_users())
                return found

            async def everywhere() -> bool:
                await access.put(tenant.user)
                return all(await known())

            await until(everywhere, "every node is known and knows the user")
            assert not await access.put(tenant.user)
            login = Login(name, PASSWORD)
            assert await access.probe(login, tenant.user.grants) == ()
            # A node forgets its users with a restart.
            await servers[0].restart()
            await until(everywhere, "the restarted node knows the user again")
            # One that does not answer is owed; all others are done first.
            servers[1].pause()
            narrower = replace(tenant.user, grants=(Grant(tenant.memory, read_only=True),))
            with pytest.raises(StoreUnavailable, match="1 of 3 servers"):
                await access.put(narrower)
            servers[1].resume()
            assert await access.put(narrower)
            assert not await access.put(narrower)
            assert name in await access.users("am:00000000:")
            await access.revoke(name)
            assert not any(await known())


async def _calls(raw: Redis, name: str) -> int:
    stats = await raw.info("commandstats")
    return int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"])
