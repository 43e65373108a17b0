"""Sessions that no index names, on real servers: whoever may write to a memory may edit its index."""

from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest

import holdfast
from holdfast.errors import StoreUnavailable
from holdfast.store.addresses import read_address
from holdfast.store.redis.layout import session_keys
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.values import MemoryAddress
from tests.harness.cluster_of_servers import ClusterOfServers
from tests.integration.world import FIRST, World, spec, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]


async def search(hands: RedisMaintenance, memory: MemoryAddress, *, limit: int = 50) -> set[str]:
    """Walk once over the keys; return the sessions that were found."""
    found, cursor = set[str](), 0
    while True:
        cursor, part = await hands.search(memory, cursor=cursor, limit=limit)
        found |= set(part)
        if cursor == 0:
            return found


class TestSearch:
    async def test_every_session_is_found_whatever_the_index_says(self, world: World) -> None:
        await world.apply()
        names = await world.fill(150)
        await world.raw.zrem(world.keys.sessions, *names[:100])
        half = session_keys(world.memory, "half", "mem")
        await world.raw.rpush(half.log, "the rest of a session whose counters somebody removed")
        longer = MemoryAddress(world.memory.namespace, "support-too")
        await world.raw.hset(session_keys(longer, "another-memory", "mem").meta, "k", "v")
        await world.raw.set(f"mem:{{{world.memory}/a b}}:meta", "no session can have that name")
        assert await search(world.hands, world.memory) == {*names, "half"}

    async def test_a_restarted_server_is_searched_from_the_beginning(
        self, own_world: World
    ) -> None:
        world = own_world
        await world.apply()
        names = await world.fill(120, messages=1)
        cursor, _ = await world.hands.search(world.memory, cursor=0, limit=20)
        assert cursor
        await world.server.restart()
        found = set[str]()
        while cursor:
            cursor, part = await world.hands.search(world.memory, cursor=cursor, limit=20)
            found |= set(part)
        assert found == set(names)


class TestBurying:
    async def test_what_is_hidden_is_buried_and_what_is_others_stays(self, world: World) -> None:
        await world.apply()
        names = await world.fill(30)
        await world.raw.delete(world.keys.sessions)
        neighbour = MemoryAddress(world.memory.namespace, "neighbour")
        kept = session_keys(neighbour, "kept", "mem")
        await world.raw.rpush(kept.log, "somebody's")
        again = session_keys(world.memory, names[0], "mem")
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        assert all(step.seen == 0 for step in await world.bury(revision)), "the index is of no use"
        cursor, buried = 0, 0
        while True:
            step = await world.hands.bury_hidden(
                {world.memory: revision, MemoryAddress("nobody", "else"): 1},
                cursor=cursor,
                limit=1000,
            )
            cursor, buried = step.cursor, buried + step.changed
            if cursor == 0:
                break
        assert buried == 30
        for name in names:
            keys = session_keys(world.memory, name, "mem")
            assert await world.raw.exists(*keys) == 1
            assert 0 < await world.raw.pttl(keys.meta) <= 60_000
        assert await world.raw.exists(kept.log)
        step = await world.hands.bury_hidden({world.memory: 0}, cursor=0, limit=100_000)
        assert step.changed == 0, "of a newer revision"
        assert await world.raw.exists(again.meta)


async def test_a_cluster_is_searched_node_by_node_and_nobody_is_left_out(tmp_path: Path) -> None:
    memory = MemoryAddress("team", "support")
    async with AsyncExitStack() as stack:
        # Of its own: a node that was frozen is not at once what others expect of theirs.
        cluster = await stack.enter_async_context(ClusterOfServers(tmp_path))
        async with holdfast.connect(
            cluster.url, namespace=memory.namespace, policy=spec()
        ) as client:
            for number in range(30):
                await client.memory("support").session(f"s-{number}").append(user("hello"))
        hands = RedisMaintenance.over(read_address(cluster.url), timeout=30.0)
        impatient = RedisMaintenance.over(read_address(cluster.url), timeout=1.0)
        for one in (hands, impatient):
            await stack.enter_async_context(aclosing(one))
        everybody = {f"s-{number}" for number in range(30)}
        assert await search(hands, memory) == everybody
        [gone, *_] = cluster.nodes
        gone.pause()
        try:
            with pytest.raises(StoreUnavailable):
                await search(impatient, memory)
        finally:
            gone.resume()
        await cluster.settled()
        assert await search(hands, memory) == everybody


async def test_an_index_that_a_tenant_made_something_else_holds_no_deletion_up(
    world: World,
) -> None:
    await world.apply()
    names = await world.fill(5)
    await world.raw.delete(world.keys.sessions)
    await world.raw.set(world.keys.sessions, "no index")
    revision = await world.hands.begin_deletion(world.memory, FIRST)
    assert revision is not None
    assert await world.hands.begin_deletion(world.memory, FIRST) == revision
    await world.raw.set(world.keys.sessions, "again, by one who has not heard yet")
    assert await world.hands.begin_deletion(world.memory, FIRST) == revision
    await world.bury(revision)
    step = await world.hands.bury_hidden({world.memory: revision}, cursor=0, limit=100_000)
    assert step.changed == len(names)
    assert await world.hands.end_deletion(world.memory, FIRST)
    assert not await world.raw.exists(world.keys.sessions, world.keys.policy)
