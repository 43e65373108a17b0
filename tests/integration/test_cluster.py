"""A Cluster: slots that move under load, scripts that only some nodes know, nodes that go and come back."""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio.cluster import RedisCluster

import holdfast
from holdfast.client import Client
from holdfast.errors import AmbiguousWrite, ConfigurationError, HoldfastError, StoreUnavailable
from holdfast.policies import terms_of
from holdfast.policy import load_policy
from holdfast.session import Session
from holdfast.store.addresses import read_address
from holdfast.store.maintenance import Owner, Ownership
from holdfast.store.redis import RedisStore
from holdfast.store.redis.carrier import Broken, Carrier
from holdfast.store.redis.connecting import make_carrier
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.values import MemoryAddress
from tests.harness.cluster_of_servers import ClusterOfServers, slot_of
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]


@pytest.fixture
def cluster(cluster_of_servers: ClusterOfServers) -> ClusterOfServers:
    return cluster_of_servers


@pytest_asyncio.fixture
async def client(cluster: ClusterOfServers, namespace: str) -> AsyncGenerator[Client]:
    async with holdfast.connect(cluster.url, namespace=namespace, policy=work.policy()) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    return client.memory(work.MEMORY).session(work.SHARED)


def slot(namespace: str, session: str = work.SHARED) -> int:
    """Return the slot of a session."""
    return slot_of(work.key_of(namespace, "meta", session))


async def elsewhere(cluster: ClusterOfServers, slot: int) -> Server:
    """Return a node that does not have the slot."""
    owner = await cluster.owner(slot)
    return next(node for node in cluster.nodes if node is not owner)


class _Writer:
    """Somebody who appends until told to end, with a client of its own."""

    def __init__(self, url: str, namespace: str, name: str, *, ids: bool = False) -> None:
        self.name = name
        self.acknowledged: list[str] = []
        self.errors: list[Exception] = []
        self.over = False
        self._ids = ids
        self._connect = lambda: holdfast.connect(url, namespace=namespace, policy=work.policy())

    async def work(self, session_id: str = work.SHARED) -> None:
        async with self._connect() as client:
            session = client.memory(work.MEMORY).session(session_id)
            number = 0
            while not self.over:
                number += 1
                text = f"{self.name} {number}"
                try:
                    await session.append(user(text), id=text if self._ids else None)
                    self.acknowledged.append(text)
                except HoldfastError as error:
                    self.errors.append(error)


async def progress(writers: list[_Writer], count: int = 5) -> None:
    """Wait until each has written some more."""
    before = [len(writer.acknowledged) for writer in writers]
    await until(
        lambda: all(
            len(writer.acknowledged) >= seen + count
            for writer, seen in zip(writers, before, strict=True)
        ),
        "every writer goes on",
    )


async def finish(writers: list[_Writer], tasks: list[asyncio.Task[None]]) -> None:
    for writer in writers:
        writer.over = True
    await asyncio.gather(*tasks)


class TestMovingSlots:
    @pytest.mark.slow
    async def test_under_load_nothing_is_lost_doubled_or_refused(
        self, cluster: ClusterOfServers, session: Session, namespace: str
    ) -> None:
        writers = [_Writer(cluster.url, namespace, f"w{at}") for at in range(4)]
        tasks = [asyncio.create_task(writer.work()) for writer in writers]
        await progress(writers)
        reads: list[list[Any]] = []
        for _ in range(4):
            moving = slot(namespace)
            async with cluster.moving(moving, await elsewhere(cluster, moving)) as move:
                await move.key(work.key_of(namespace, "log"))
                reading = asyncio.create_task(session.read())
                await asyncio.sleep(0.1)  # some calls must find a session that is half here
            reads.append(await reading)
            await progress(writers)
        await finish(writers, tasks)
        assert [writer.errors for writer in writers] == [[]] * 4
        stored = await session.read()
        texts = [item["content"] for item in stored]
        assert len(texts) == len(set(texts))
        for writer in writers:
            own = [text for text in texts if text.split()[0] == writer.name]
            assert own == writer.acknowledged
        assert all(read == stored[: len(read)] for read in reads)

    async def test_a_session_that_is_half_there_waits(
        self, cluster: ClusterOfServers, session: Session, namespace: str
    ) -> None:
        await session.append_many([user("a"), {"role": "system", "content": "b"}], id="first")
        moving = slot(namespace)
        async with cluster.moving(moving, await elsewhere(cluster, moving)) as move:
            await move.key(work.key_of(namespace, "meta"))
            append = asyncio.create_task(session.append(user("c")))
            page = asyncio.create_task(session.read_page())
            done, _ = await asyncio.wait([append, page], timeout=0.3)
            assert not done
        assert (await append).length == 3
        assert (await page).total in (2, 3)

    async def test_a_new_session_of_a_moving_slot_waits(
        self, cluster: ClusterOfServers, session: Session, namespace: str
    ) -> None:
        moving = slot(namespace)
        async with cluster.moving(moving, await elsewhere(cluster, moving)):
            append = asyncio.create_task(session.append(user("first")))
            done, _ = await asyncio.wait([append], timeout=0.3)
            assert not done
        assert (await append).seq == 1
        assert await session.read() == [user("first")]

    async def test_one_that_does_not_end_within_the_patience_wrote_nothing(
        self, cluster: ClusterOfServers, namespace: str
    ) -> None:
        store = RedisStore.from_url(cluster.url, timeout=0.5)
        async with Client(store, namespace=namespace, policy=work.policy()) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            moving = slot(namespace)
            async with cluster.moving(moving, await elsewhere(cluster, moving)):
                with pytest.raises(StoreUnavailable, match="cannot serve now"):
                    await session.append(user("never"))
            assert await session.read() == []

    async def test_the_index_moves_too(
        self, cluster: ClusterOfServers, client: Client, namespace: str
    ) -> None:
        memory = client.memory(work.MEMORY)
        await memory.session("before").append(user("x"))
        index = f"mem:{{{namespace}/{work.MEMORY}}}:sessions"
        moving = slot_of(index)
        async with cluster.moving(moving, await elsewhere(cluster, moving)) as move:
            await memory.session("meanwhile").append(user("x"))
            await move.keys()
            await memory.session("asked").append(user("x"))
        await memory.session("after").append(user("x"))
        async with (await cluster.owner(moving)).client() as raw:
            assert set(await raw.zrange(index, 0, -1)) == {
                b"before",
                b"meanwhile",
                b"asked",
                b"after",
            }

    async def test_the_node_that_is_about_to_get_a_slot_gets_the_scripts(
        self, cluster: ClusterOfServers, client: Client, namespace: str
    ) -> None:
        memory = client.memory(work.MEMORY)
        await memory.session("before").append(user("x"))
        index = f"mem:{{{namespace}/{work.MEMORY}}}:sessions"
        moving = slot_of(index)
        async with cluster.moving(moving, await elsewhere(cluster, moving)) as move:
            await move.keys()
            async with move.target.client() as raw:
                await raw.script_flush()
            # Its own slot is not there: that would bring the scripts along.
            name = "another"
            while await cluster.owner(slot(namespace, name)) is move.target:
                name += "-one"
            await memory.session(name).append(user("x"))
        async with (await cluster.owner(moving)).client() as raw:
            assert set(await raw.zrange(index, 0, -1)) == {b"before", name.encode()}
            await raw.script_flush()
        await memory.session("after").append(user("x"))
        async with (await cluster.owner(moving)).client() as raw:
            assert b"after" in await raw.zrange(index, 0, -1)

    async def test_who_waits_for_the_turn_is_woken_where_the_slot_is_now(
        self, cluster: ClusterOfServers, session: Session, namespace: str
    ) -> None:
        async def wait() -> None:
            async with session.turn(wait="60s") as turn:
                await turn.append(user("waited"))

        async def queued() -> bool:
            return (await session.health()).waiting == 1

        async with session.turn(ttl="60s"):
            waiter = asyncio.create_task(wait())
            await until(queued, "somebody waits")
            moving = slot(namespace)
            await cluster.move_slot(moving, await elsewhere(cluster, moving))
            assert not waiter.done()
        async with asyncio.timeout(40):  # nobody asks again before the turn's time is over
            await waiter
        assert await session.read() == [user("waited")]


class TestNodes:
    async def test_sessions_are_spread_over_all_of_them(
        self, cluster: ClusterOfServers, client: Client, namespace: str
    ) -> None:
        memory = client.memory(work.MEMORY)
        names = [f"s-{number}" for number in range(30)]
        await asyncio.gather(*(memory.session(name).append(user(name)) for name in names))
        owners = {id(await cluster.owner(slot(namespace, name))) for name in names}
        assert len(owners) == len(cluster.nodes)
        for name in names:
            assert await memory.session(name).read() == [user(name)]

    async def test_one_that_forgot_the_scripts_is_told_alone(
        self, cluster: ClusterOfServers, session: Session, namespace: str
    ) -> None:
        await session.append(user("before"))
        owner = await cluster.owner(slot(namespace))
        others = [node for node in cluster.nodes if node is not owner]

        async def loaded() -> list[int]:
            counts: list[int] = []
            for node in others:
                async with node.client() as raw:
                    stats = await raw.info("commandstats")
                    counts.append(stats.get("cmdstat_script|load", {}).get("calls", 0))
            return counts

        before = await loaded()
        async with owner.client() as raw:
            await raw.script_flush()
        await session.append(user("after"))
        assert len(await session.read(max_tokens=1000)) == 2
        assert await loaded() == before

    async def test_what_an_operator_does_reaches_every_session(
        self, cluster: ClusterOfServers, client: Client, namespace: str
    ) -> None:
        carrier = make_carrier(read_address(cluster.url), timeout=5)
        async with AsyncExitStack() as stack:
            hands = RedisMaintenance(carrier)
            stack.push_async_callback(hands.aclose)
            address = MemoryAddress(namespace, work.MEMORY)
            owner = Owner("cluster-1", "namespace-1", namespace, work.MEMORY, "uid-1", 1)
            assert await hands.claim(address, owner) is Ownership.OURS
            _, policy = load_policy(work.policy())
            revision = await hands.put_policy(address, owner, policy.document(), policy.sha256())
            assert revision is not None
            memory = client.memory(work.MEMORY)
            for number in range(20):
                await memory.session(f"s-{number}").append(user("x"))
            terms = terms_of(policy, revision + 1)
            step = await hands.roll_out(address, terms, cursor=0, limit=100, grace=0)
            assert (step.seen, step.changed, step.total) == (20, 20, 20)
            _, totals = await hands.measure(address, cursor=0, limit=100)
            assert (totals.sessions, totals.messages) == (20, 20)

    @pytest.mark.slow
    async def test_one_that_is_killed_and_comes_back(self, tmp_path: Path, namespace: str) -> None:
        arguments = ("--cluster-require-full-coverage", "no")
        async with ClusterOfServers(tmp_path, persist=True, arguments=arguments) as cluster:
            names = [f"s-{number}" for number in range(6)]
            writers = [
                _Writer(cluster.url, namespace, name, ids=at % 2 == 0)
                for at, name in enumerate(names)
            ]
            tasks = [asyncio.create_task(writer.work(writer.name)) for writer in writers]
            for node in cluster.nodes:
                await progress(writers)
                await node.kill()
                await node.start()
            await progress(writers)
            await finish(writers, tasks)
            url = cluster.url
            async with holdfast.connect(url, namespace=namespace, policy=work.policy()) as client:
                for writer in writers:
                    found = {type(error) for error in writer.errors}
                    assert found <= {AmbiguousWrite, StoreUnavailable}
                    session = client.memory(work.MEMORY).session(writer.name)
                    stored = [item["content"] for item in await session.read()]
                    assert len(stored) == len(set(stored)), "something is stored twice"
                    known = set(writer.acknowledged)
                    assert [text for text in stored if text in known] == writer.acknowledged


class TestAddresses:
    async def test_a_node_is_no_standalone_server(
        self, cluster: ClusterOfServers, namespace: str
    ) -> None:
        for node in cluster.nodes[:2]:
            async with holdfast.connect(
                node.url, namespace=namespace, policy=work.policy()
            ) as client:
                sessions = [client.memory(work.MEMORY).session(str(at)) for at in range(24)]
                ends = await asyncio.gather(
                    *(session.append(user("x")) for session in sessions), return_exceptions=True
                )
                wrong = [end for end in ends if isinstance(end, Exception)]
                assert wrong
                assert all(isinstance(end, ConfigurationError) for end in wrong)
                assert "redis+cluster://" in str(wrong[0])

    async def test_a_standalone_server_is_no_cluster(
        self, valkey_server: Server, namespace: str
    ) -> None:
        url = valkey_server.url.replace("redis", "redis+cluster")
        async with holdfast.connect(url, namespace=namespace, policy=work.policy()) as client:
            for _ in range(2):
                with pytest.raises(ConfigurationError, match="no node of a Cluster"):
                    await client.memory(work.MEMORY).session("any").length()

    async def test_nobody_answers(self, namespace: str) -> None:
        store = RedisStore.from_url("redis+cluster://127.0.0.1:1,127.0.0.1:2", timeout=0.5)
        async with Client(store, namespace=namespace, policy=work.policy()) as client:
            with pytest.raises(StoreUnavailable, match="no node of the Cluster"):
                await client.memory(work.MEMORY).session("any").length()

    async def test_one_of_the_nodes_named_is_enough(
        self, cluster: ClusterOfServers, namespace: str
    ) -> None:
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{cluster.nodes[2].port}"
        async with holdfast.connect(url, namespace=namespace, policy=work.policy()) as client:
            for at in range(6):
                await client.memory(work.MEMORY).session(str(at)).append(user("x"))


class TestOwnClient:
    @pytest.mark.parametrize("decode", [True, False], ids=["decoding", "bytes"])
    async def test_one_of_a_cluster_is_followed_and_left_open(
        self, cluster: ClusterOfServers, namespace: str, decode: bool
    ) -> None:
        own = RedisCluster(host="127.0.0.1", port=cluster.nodes[0].port, decode_responses=decode)
        async with own:
            options: dict[str, Any] = {"namespace": namespace, "policy": work.policy()}
            async with holdfast.connect(client=own, **options) as client:
                memory = client.memory(work.MEMORY)
                for number in range(6):
                    session = memory.session(str(number))
                    await session.append(user("grüße"), id="r-1")
                    async with session.turn() as turn:
                        await turn.append(user("in turn"))
                    assert await session.read() == [user("grüße"), user("in turn")]
                    assert await session.read(max_tokens=1000) == await session.read()
                    moving = slot(namespace, str(number))
                    await cluster.move_slot(moving, await elsewhere(cluster, moving))
                    assert (await session.append(user("grüße"), id="r-1")).duplicate
            assert await own.set("left open", "yes")


class TestEveryNode:
    async def test_every_node_is_there_replicas_and_those_without_slots_too(
        self, tmp_path: Path
    ) -> None:
        async with AsyncExitStack() as stack:
            cluster = await stack.enter_async_context(ClusterOfServers(tmp_path, replicas=1))
            empty = await cluster.join()
            await cluster.settled([*cluster.replicas, empty])
            carrier = make_carrier(read_address(cluster.url), timeout=5)
            stack.push_async_callback(carrier.aclose)
            everybody = {node.port for node in (*cluster.nodes, *cluster.replicas, empty)}

            async def all_there() -> bool:
                return set(await ports(await carrier.nodes())) == everybody

            await until(all_there, "all nodes are known")
            body = b"#!lua\nreturn 7"
            sha = hashlib.sha1(body, usedforsecurity=False).hexdigest()
            for node in await carrier.nodes():
                assert await node.exchange([(b"SCRIPT", b"LOAD", body)]) == [sha.encode()]
            for server in (*cluster.nodes, *cluster.replicas, empty):
                async with server.client() as raw:
                    assert await raw.script_exists(sha) == [True]
            # One that is gone is found out by its carrier as long as nobody noticed, then left out.
            [replica] = cluster.replicas
            before = await carrier.nodes()
            at = (await ports(before)).index(replica.port)
            await replica.kill()
            with pytest.raises((Broken, StoreUnavailable)):
                await before[at].exchange([(b"PING",)])

            async def left_out() -> bool:
                return len(await carrier.nodes()) == len(everybody) - 1

            await until(left_out, "the others have noticed")
            await replica.start()
            await until(all_there, "it is back")

    async def test_no_node_says_which_there_are(self) -> None:
        carrier = make_carrier(read_address("redis+cluster://127.0.0.1:1"), timeout=1)
        with pytest.raises(StoreUnavailable):
            await carrier.nodes()
        await carrier.aclose()


async def ports(nodes: Sequence[Carrier]) -> list[int]:
    """Return who the carriers lead to, as the servers themselves say."""
    found: list[int] = []
    for node in nodes:
        [info] = await node.exchange([(b"INFO", b"server")])
        match = re.search(rb"tcp_port:(\d+)", info)
        assert match is not None
        found.append(int(match[1]))
    return found
