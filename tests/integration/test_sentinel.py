"""Sentinel: a primary that is killed, frozen or cut off, and another that takes its place."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
import redis.exceptions
from redis.asyncio.sentinel import Sentinel

import holdfast
from holdfast.client import Client
from holdfast.errors import (
    AcknowledgedLost,
    AmbiguousWrite,
    HoldfastError,
    StoreUnavailable,
)
from holdfast.session import Session
from holdfast.store.addresses import read_address
from holdfast.store.redis import RedisStore
from holdfast.store.redis.carrier import Broken, Carrier
from holdfast.store.redis.connecting import make_carrier
from tests.harness.sentinels import NAME, Sentinels
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]


@pytest_asyncio.fixture
async def client(own_sentinels: Sentinels, namespace: str) -> AsyncGenerator[Client]:
    async with holdfast.connect(
        own_sentinels.url, namespace=namespace, policy=work.policy()
    ) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    return client.memory(work.MEMORY).session(work.SHARED)


async def cut_off(primary: Server) -> None:
    """Keep the replica from what is written from now on; both go on answering."""
    async with primary.client() as raw:
        await raw.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
        await raw.client_kill_filter(_type="replica")

        async def alone() -> bool:
            return (await raw.info("replication"))["connected_slaves"] == 0

        await until(alone, "the replica is cut off")


async def survive(own_sentinels: Sentinels) -> Server:
    """Kill the primary, wait until the replica took its place, and return it."""
    primary, replica = await own_sentinels.primary(), await own_sentinels.replica()
    await primary.kill()
    await own_sentinels.agreed(replica)
    return replica


class TestFailover:
    @pytest.mark.slow
    async def test_the_primary_is_killed_under_load(
        self, own_sentinels: Sentinels, client: Client, namespace: str
    ) -> None:
        writers = [
            _Writer(client.memory(work.MEMORY).session(f"s-{at}"), ids=at % 2 == 0)
            for at in range(6)
        ]
        tasks = [asyncio.create_task(writer.work()) for writer in writers]
        await _progress(writers)
        survivor = await survive(own_sentinels)
        await _progress(writers)
        for writer in writers:
            writer.over = True
        await asyncio.gather(*tasks)
        assert await own_sentinels.primary() is survivor
        allowed = {AmbiguousWrite, StoreUnavailable, AcknowledgedLost}
        for writer in writers:
            assert {type(error) for error in writer.errors} <= allowed
            stored = [item["content"] for item in await writer.session.read()]
            assert len(stored) == len(set(stored)), "something is stored twice"
            known = [text for _, text in writer.acknowledged]
            assert [text for text in stored if text in set(known)] == known

    async def test_a_turn_is_told_what_was_lost_and_goes_on(
        self, own_sentinels: Sentinels, session: Session
    ) -> None:
        async with session.turn(ttl="60s") as turn:
            await turn.append(user("kept"))
            primary = await own_sentinels.primary()
            await own_sentinels.in_step()
            await cut_off(primary)
            for number in range(3):
                await turn.append(user(f"lost {number}"))
            await survive(own_sentinels)
            with pytest.raises(AcknowledgedLost) as lost:
                await turn.append(user("refused"))
            assert (lost.value.first, lost.value.last) == (2, 4)
            await turn.append(user("after"))
            assert await turn.read() == [user("kept"), user("after")]
        assert await session.read() == [user("kept"), user("after")]

    async def test_who_writes_without_a_turn_is_told_once(
        self, own_sentinels: Sentinels, session: Session
    ) -> None:
        await session.append(user("kept"))
        primary = await own_sentinels.primary()
        await own_sentinels.in_step()
        await cut_off(primary)
        await session.append(user("lost"))
        await survive(own_sentinels)
        with pytest.raises(AcknowledgedLost) as lost:
            await session.append(user("refused"))
        assert (lost.value.first, lost.value.last) == (2, 2)
        assert (await session.append(user("after"))).seq == 2
        assert await session.read() == [user("kept"), user("after")]

    async def test_who_writes_without_a_turn_is_told_of_a_session_that_is_lost_whole(
        self, own_sentinels: Sentinels, client: Client
    ) -> None:
        sessions = [client.memory(work.MEMORY).session(name) for name in ("left", "begun again")]
        primary = await own_sentinels.primary()
        await client.memory(work.MEMORY).session("kept").append(user("kept"))
        await own_sentinels.in_step()
        await cut_off(primary)
        for session in sessions:
            await session.append_many([user("lost"), user("lost too")])
        await survive(own_sentinels)
        await client.memory(work.MEMORY).session("begun again").append(user("new"))
        for session in sessions:
            with pytest.raises(AcknowledgedLost) as lost:
                await session.append(user("refused"))
            assert (lost.value.first, lost.value.last) == (1, 2)
            await session.append(user("after"))
        assert await sessions[0].read() == [user("after")]
        assert await sessions[1].read() == [user("new"), user("after")]

    async def test_what_never_reached_the_survivor_is_not_ambiguous_with_an_id(
        self, own_sentinels: Sentinels, session: Session
    ) -> None:
        await session.append(user("kept"))
        primary = await own_sentinels.primary()
        await own_sentinels.in_step()
        await cut_off(primary)
        await session.append(user("lost"), id="r-1")
        await survive(own_sentinels)
        with pytest.raises(AcknowledgedLost):
            await session.append(user("lost"), id="r-1")
        done = await session.append(user("lost"), id="r-1")
        assert (done.duplicate, done.seq) == (False, 2)
        assert await session.read() == [user("kept"), user("lost")]

    async def test_a_frozen_primary_that_wakes_up_is_not_believed(
        self, own_sentinels: Sentinels, client: Client, session: Session
    ) -> None:
        async with session.turn(ttl="60s") as turn:
            await turn.append(user("before"))
            primary, replica = await own_sentinels.primary(), await own_sentinels.replica()
            await own_sentinels.in_step()
            primary.pause()
            await own_sentinels.agreed(replica)
            await turn.append(user("meanwhile"), id="r-1")
            primary.resume()
            await until(lambda: _follows(primary), "the old primary follows")
            await turn.append(user("after"))
        reader = client.memory(work.MEMORY).session(work.SHARED)
        assert await reader.read() == [user("before"), user("meanwhile"), user("after")]

    async def test_a_primary_that_is_back_and_was_not_told_yet_is_not_believed(
        self, own_sentinels: Sentinels, session: Session, namespace: str
    ) -> None:
        """It says that it is a primary, and takes writes that it loses as it becomes a replica."""
        await session.append(user("kept"))
        await own_sentinels.in_step()
        former = await own_sentinels.primary()
        survivor = await survive(own_sentinels)
        await former.start()
        await session.append(user("after"))
        async with survivor.client() as raw:
            assert await raw.llen(work.key_of(namespace, "log")) == 2

    async def test_a_primary_that_is_demoted_wrote_nothing(
        self, own_sentinels: Sentinels, session: Session
    ) -> None:
        await session.append(user("before"))
        await own_sentinels.in_step()
        primary, replica = await own_sentinels.primary(), await own_sentinels.replica()
        async with primary.client() as raw:  # which leaves our connections open
            await raw.replicaof("127.0.0.1", replica.port)
        append = asyncio.create_task(session.append(user("after")))
        await until(lambda: _follows(primary), "it is a replica")
        async with replica.client() as raw:
            await raw.replicaof("NO", "ONE")
        with contextlib.suppress(StoreUnavailable):  # the sentinels may take longer than it waits
            await append
        await until(lambda: _answers(session), "the sentinels have settled it")
        stored = [item["content"] for item in await session.read()]
        assert stored[0] == "before"
        assert len(stored) == len(set(stored))

    async def test_a_waiter_is_granted_the_turn_by_the_survivor(
        self, own_sentinels: Sentinels, session: Session
    ) -> None:
        async def wait() -> None:
            async with session.turn(wait="120s") as turn:
                await turn.append(user("waited"))

        async def queued() -> bool:
            return (await session.health()).waiting == 1

        async with session.turn(ttl="60s"):
            waiter = asyncio.create_task(wait())
            await until(queued, "somebody waits")
            await own_sentinels.in_step()
            await survive(own_sentinels)
        async with asyncio.timeout(50):
            await waiter
        assert await session.read() == [user("waited")]


class TestFinding:
    async def test_the_first_sentinels_do_not_answer(
        self, sentinels: Sentinels, namespace: str
    ) -> None:
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinels.ports[0]}/memory"
        async with holdfast.connect(url, namespace=namespace, policy=work.policy()) as client:
            await client.memory(work.MEMORY).session("any").append(user("x"))

    async def test_the_database_is_taken(self, sentinels: Sentinels, namespace: str) -> None:
        async with holdfast.connect(
            f"{sentinels.url}/3", namespace=namespace, policy=work.policy()
        ) as client:
            await client.memory(work.MEMORY).session(work.SHARED).append(user("x"))
        async with (await sentinels.primary()).client(db=3) as raw:
            assert await raw.exists(work.key_of(namespace, "meta"))

    @pytest.mark.parametrize(
        ("url", "sentence"),
        [
            ("redis+sentinel://127.0.0.1:1/memory", "no sentinel can be reached"),
            ("redis+sentinel://127.0.0.1:{port}/other", "know no primary of the name 'other'"),
        ],
    )
    async def test_nobody_is_found(
        self, sentinels: Sentinels, namespace: str, url: str, sentence: str
    ) -> None:
        address = url.format(port=sentinels.ports[0])
        store = RedisStore.from_url(address, timeout=0.5)
        async with Client(store, namespace=namespace, policy=work.policy()) as client:
            with pytest.raises(StoreUnavailable, match=sentence):
                await client.memory(work.MEMORY).session("any").length()

    async def test_without_sentinels_the_primary_known_is_good_enough(
        self, own_sentinels: Sentinels, session: Session
    ) -> None:
        await session.append(user("before"))
        primary = await own_sentinels.primary()
        own_sentinels.blind()
        async with primary.client() as raw:
            await raw.client_kill_filter(_type="normal", skipme=True)
        await session.append(user("after"))
        await primary.kill()
        await primary.start()
        assert await session.read() == []


class TestOwnClient:
    async def test_one_made_by_a_sentinel_is_followed_and_left_open(
        self, own_sentinels: Sentinels, namespace: str
    ) -> None:
        manager = Sentinel([("127.0.0.1", port) for port in own_sentinels.ports])
        async with manager, manager.master_for(NAME) as redis:
            options: dict[str, Any] = {"namespace": namespace, "policy": work.policy()}
            async with holdfast.connect(client=redis, **options) as client:
                session = client.memory(work.MEMORY).session(work.SHARED)
                await session.append(user("before"), id="r-1")
                await own_sentinels.in_step()
                await survive(own_sentinels)
                await session.append(user("after"))
                assert (await session.append(user("before"), id="r-1")).duplicate
                assert await session.read() == [user("before"), user("after")]
            assert await redis.set("left open", "yes")


class _Writer:
    """Appends until told to stop, and remembers what it was told."""

    def __init__(self, session: Session, *, ids: bool) -> None:
        self.session = session
        self.over = False
        self.acknowledged: list[tuple[int, str]] = []
        self.errors: list[HoldfastError] = []
        self._ids = ids

    async def work(self) -> None:
        number = 0
        while not self.over:
            number += 1
            text = f"m-{number}"
            try:
                done = await self.session.append(user(text), id=text if self._ids else None)
                self.acknowledged.append((done.seq, text))
            except HoldfastError as error:
                self.errors.append(error)
                if isinstance(error, AcknowledgedLost):
                    # The numbers are given again from here on.
                    self.acknowledged = [one for one in self.acknowledged if one[0] < error.first]
                await asyncio.sleep(0)


async def _progress(writers: list[_Writer], count: int = 5) -> None:
    """Wait until each has written some more."""
    before = [writer.acknowledged[-1:] for writer in writers]

    def further() -> bool:
        return all(
            writer.acknowledged and writer.acknowledged[-1:] != last
            for writer, last in zip(writers, before, strict=True)
        )

    for _ in range(count):
        await until(further, "every writer goes on")
        before = [writer.acknowledged[-1:] for writer in writers]


async def _answers(session: Session) -> bool:
    try:
        await session.append(user("probe"), id="probe")
    except StoreUnavailable:
        return False
    return True


async def _follows(server: Server) -> bool:
    # Its connections are closed when the server is told to follow, this one too if it was there.
    try:
        async with server.client() as raw:
            return (await raw.execute_command("ROLE"))[0] == b"slave"
    except redis.exceptions.ConnectionError:
        return False


class TestNodes:
    async def test_primary_and_replica_are_there_also_after_a_failover(
        self, own_sentinels: Sentinels
    ) -> None:
        carrier = make_carrier(read_address(own_sentinels.url), timeout=5)
        async with contextlib.aclosing(carrier):
            await self._follow(own_sentinels, carrier)

    async def _follow(self, own_sentinels: Sentinels, carrier: Carrier) -> None:
        primary, replica = await own_sentinels.primary(), await own_sentinels.replica()
        nodes = await carrier.nodes()
        assert [await _port(node) for node in nodes] == [primary.port, replica.port]
        assert [await _port(node) for node in await carrier.primaries()] == [primary.port]
        user = (b"ACL", b"SETUSER", b"somebody", b"on", b">secret")
        for node in nodes:  # a replica, too: users are not replicated
            assert await node.exchange([user]) == [b"OK"]
        await survive(own_sentinels)

        async def alone() -> bool:
            return [await _port(node) for node in await carrier.nodes()] == [replica.port]

        await until(alone, "only the survivor is left")
        await primary.start()

        async def both() -> bool:
            ports = [await _port(node) for node in await carrier.nodes()]
            return ports == [replica.port, primary.port]

        await until(both, "the old primary is a replica now")
        own_sentinels.blind()
        with pytest.raises(StoreUnavailable, match="no sentinel"):
            await carrier.nodes()
        assert await carrier.exchange([(b"PING",)]) == [b"PONG"]  # as before: who it was, is known


async def _port(node: Carrier) -> int:
    """Return the port of who a carrier leads to, as it says itself; 0 of one that does not answer."""
    try:
        [info] = await node.exchange([(b"INFO", b"server")])
    except (Broken, StoreUnavailable):
        return 0
    match = re.search(rb"tcp_port:(\d+)", info)
    assert match is not None
    return int(match[1])
