"""A change of the layout while everybody goes on writing, on a real server.

There has been one layout so far, so an older one is made up here: it counted messages and tokens in the
other order, and epochs in milliseconds.
"""

import asyncio
import random
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from holdfast.client import Client
from holdfast.errors import CorruptRecord, StoreUnavailable
from holdfast.store.addresses import read_address
from holdfast.store.redis import RedisStore
from holdfast.store.redis.connecting import make_carrier
from holdfast.store.redis.layout import session_keys
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.store.redis.script import Script, assemble
from holdfast.values import Batch, Prepared, Terms
from tests.harness.meta import COUNTERS, SLOW, Meta
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration.world import FIRST, FREE, World, total, user, walk

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

STEP = """
local STEPS = {}
STEPS[0] = function()
  local values = redis.call('HMGET', KEYS[1], 'k', 's')
  local k = { struct.unpack('<dddddddd', values[1]) }
  local s = { struct.unpack('<BBBBBHHddddd', values[2]) }
  k[2], k[3] = k[3], k[2]
  s[1], s[8] = 1, s[8] * 1000
  local counters = struct.pack('<dddddddd', unpack(k, 1, 8))
  local slow = struct.pack('<BBBBBHHddddd', unpack(s, 1, 12))
  redis.call('HSET', KEYS[1], 'k', counters, 's', slow)
end
"""


def migration() -> Script:
    return assemble("migrate", {"layouts": STEP})


def older(meta: Meta) -> dict[bytes, bytes]:
    """Write the fields as the older version did."""
    fields = replace(meta, layout=0, epoch=meta.epoch // 1000).fields()
    counters = list(COUNTERS.unpack(fields[b"k"]))
    counters[1], counters[2] = counters[2], counters[1]
    return fields | {b"k": COUNTERS.pack(*counters)}


class OldWorld(World):
    """A world that the older version left behind, and hands and stores that know the step."""

    def __init__(self, server: Server, raw: Redis) -> None:
        super().__init__(server, raw)
        carrier = make_carrier(read_address(server.url), timeout=5)
        self.knowing = RedisMaintenance(carrier, migration=migration())
        self.server = server

    def new_client(self) -> Client:
        carrier = make_carrier(read_address(self.server.url), timeout=5)
        client = Client(RedisStore(carrier, migration=migration()), namespace=self.memory.namespace)
        self._open.append(client)
        return client

    async def age(self, name: str) -> Meta:
        """Make a session one of the older version; return what its meta says, to the millisecond."""
        keys = session_keys(self.memory, name, "mem")
        meta = await self.meta(name)
        await self.raw.hset(keys.meta, mapping=older(meta))  # type: ignore[arg-type]
        return replace(meta, epoch=meta.epoch // 1000 * 1000)

    async def layouts(self, names: list[str]) -> set[int]:
        return {
            SLOW.unpack(await self.raw.hget(session_keys(self.memory, name, "mem").meta, "s"))[0]
            for name in names
        }

    async def aclose(self) -> None:
        await self.knowing.aclose()
        await super().aclose()


@pytest_asyncio.fixture
async def world(valkey_server: Server) -> AsyncGenerator[OldWorld]:
    raw = valkey_server.client()
    await raw.script_load(migration().body)  # what an operator of that version has done
    made = OldWorld(valkey_server, raw)
    yield made
    await made.aclose()
    await raw.aclose()


async def roll_out(world: OldWorld, terms: Terms) -> int:
    """Walk over all sessions with the hands that know the step; return how many stay broken."""
    steps = await walk(
        lambda cursor: world.knowing.roll_out(world.memory, terms, cursor=cursor, limit=50, grace=0)
    )
    return total(steps, "broken")


async def test_a_policy_of_an_older_layout_gets_a_new_revision_once(world: OldWorld):
    before = await world.apply()
    await world.raw.hset(world.keys.policy, "layout", "0")
    after = await world.apply()
    assert after.revision == before.revision + 1
    assert await world.raw.hget(world.keys.policy, "layout") == b"1"
    assert await world.apply() == after


async def test_the_rollout_that_follows_brings_every_session_along(world: OldWorld):
    await world.apply()
    names = await world.fill(120)
    aged = {name: await world.age(name) for name in names[:80]}
    await world.raw.hset(world.keys.policy, "layout", "0")
    agreed = await world.apply()
    assert await roll_out(world, agreed) == 0
    for name, meta in aged.items():
        found = await world.meta(name)
        assert found == replace(meta, revision=agreed.revision)
    assert await world.layouts(names) == {1}
    assert await world.session("s-0").read() == [user(f"s-0 {n}") for n in range(3)]


async def test_writers_go_on_while_the_sessions_are_brought_along(world: OldWorld):
    await world.apply()
    names = await world.fill(200)
    for name in names:
        await world.age(name)
    await world.raw.hset(world.keys.policy, "layout", "0")
    done = asyncio.Event()
    written: dict[str, int] = dict.fromkeys(names, 0)

    async def write(seed: int) -> None:
        memory, choice = world.new_client().memory("support"), random.Random(seed)
        while not done.is_set():
            name = choice.choice(names)
            session = memory.session(name)
            match choice.randrange(3):
                case 0:
                    await session.append(user("more"))
                    written[name] += 1
                case 1:
                    async with session.turn(wait="30s") as turn:
                        await turn.append(user("more"))
                        written[name] += 1
                case _:
                    assert len(await session.read()) >= 3

    writers = [asyncio.create_task(write(seed)) for seed in range(8)]
    # Some are met by writers first, before the operator knows of anything.
    await until(lambda: sum(written.values()) >= 20, "some are written")
    agreed = await world.apply()
    assert await roll_out(world, agreed) == 0
    done.set()
    await asyncio.gather(*writers)
    assert await world.layouts(names) == {1}
    for name in names:
        meta = await world.meta(name)
        assert (meta.messages, meta.next) == (3 + written[name], 4 + written[name])
        assert await world.session(name).length() == 3 + written[name]


async def test_every_call_brings_a_session_along(world: OldWorld):
    agreed = await world.apply()
    [name] = await world.fill(1)
    handle = world.new_client()._store.session(world.memory, name)
    batch = Batch((Prepared(b'"a"', 1),))
    calls = [
        handle.status,
        lambda: handle.everything(agreed),
        lambda: handle.archive(agreed),
        lambda: handle.tail(agreed, tokens=100),
        lambda: handle.page(agreed, after=0, limit=10),
        handle.snapshot,
        lambda: handle.append(agreed, batch, FREE),
        lambda: handle.trim(agreed, tokens=0, messages=0),
        lambda: handle.clear(agreed, FREE, force=True),
        lambda: handle.replace(agreed, batch, FREE),
    ]
    for call in calls:
        await world.age(name)
        await call()
        assert await world.layouts([name]) == {1}


async def test_without_a_step_a_session_is_left_alone_and_reported(world: OldWorld):
    agreed = await world.apply()
    names = await world.fill(3)
    await world.age("s-0")
    fields = await world.raw.hgetall(session_keys(world.memory, "s-0", "mem").meta)
    agreed = await world.apply(limits={"maxMessages": 2})
    steps = await world.roll_out(agreed)
    assert (total(steps, "broken"), total(steps, "changed")) == (1, 2)
    with pytest.raises(CorruptRecord):
        await world.session("s-0").append(user("late"))
    assert await world.raw.hgetall(session_keys(world.memory, "s-0", "mem").meta) == fields
    assert await world.layouts(names) == {0, 1}
    assert await world.hands.claim(world.memory, FIRST)


async def test_who_may_only_read_waits_for_the_operator(world: OldWorld):
    await world.apply()
    [name] = await world.fill(1)
    meta = await world.age(name)
    await world.raw.execute_command(
        "ACL",
        "SETUSER",
        "reader",
        "on",
        ">secret",
        "%R~mem:*",
        "+@read",
        "+evalsha_ro",
        "+time",
        "+multi",
        "+exec",
    )
    url = f"redis://reader:secret@127.0.0.1:{world.server.port}"
    carrier = make_carrier(read_address(url), timeout=5)
    store = RedisStore(carrier, migration=migration())
    with pytest.raises(StoreUnavailable, match="older layout"):
        await store.session(world.memory, name).status()
    await world.knowing.store().session(world.memory, name).status()
    assert (await store.session(world.memory, name).status()).epoch == meta.epoch
    await store.aclose()
    await world.raw.execute_command("ACL", "DELUSER", "reader")
