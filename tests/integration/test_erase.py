"""Erasing on real servers: nothing of it is left, and nothing comes back."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import pytest
import pytest_asyncio
from redis.asyncio import Redis

import holdfast
from holdfast.client import Client, Memory
from holdfast.errors import AmbiguousWrite, HoldfastError, LeaseLost
from holdfast.session import Session
from holdfast.store.redis.layout import session_keys
from holdfast.store.redis.script import script
from tests.harness.cluster_of_servers import ClusterOfServers
from tests.harness.proxy import CuttingProxy
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration.world import FIRST, World, call, result, spec, total, user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

HOSTILE = (
    "plain",
    "a:b:c",
    "{other}",
    "*",
    "[a-z]?",
    "..%2F",
    "x:meta",
    "x:label:y",
    "w:",
    "\x00\n|,\u2028",
    "ü" * 256,
)
SECRET = "Kq7-unmistakable-content"
LABELS = {"user": "42"}


@pytest_asyncio.fixture
async def raw(valkey_server: Server) -> AsyncGenerator[Redis]:
    async with valkey_server.client() as raw:
        yield raw


async def dump(raw: Redis, namespace: str) -> dict[bytes, bytes]:
    """All keys of a namespace, each with what the server would save of it."""
    keys = [key async for key in raw.scan_iter(f"*{namespace}/*", count=1000)]
    values = [(key, await raw.dump(key)) for key in keys]
    return {key: value for key, value in values if value is not None}


def is_mark(key: bytes, name: bytes) -> bool:
    """Whether it is the key that remains of an erased session for a minute."""
    return key.endswith(b"/" + name + b"}:meta")


async def live(session: Session, others: Session) -> None:
    """Leave a trace of every kind: records, pins, ids, open calls, history, a turn, waiters."""
    await session.append({"role": "system", "content": SECRET}, id=f"{SECRET}-system")
    await session.append_many([user(SECRET), call("c1"), result("c1"), call("c2")], id=SECRET)
    await session.append(user(SECRET), pin=True)
    await session.append(user("popped"))
    await session.pop()
    await session.replace([user(SECRET), user(SECRET), call(SECRET)])
    await session.flush("FIFO")
    async with session.turn() as turn:
        waiting = asyncio.create_task(_take(others))

        async def queued() -> bool:
            return (await session.health()).waiting == 1

        await until(queued, "somebody waits")
        await turn.append(user(SECRET))
    await waiting


async def _take(session: Session) -> None:
    async with session.turn(wait="30s"):
        await session.length()


class TestNothingIsLeft:
    @pytest.mark.parametrize("id", HOSTILE, ids=range(len(HOSTILE)))
    async def test_of_a_session(self, world: World, id: str) -> None:
        memory = world.client(spec()).memory("support")
        kept = memory.session("kept", labels={"user": "43"})
        await kept.append(user("kept"))
        before = await dump(world.raw, world.memory.namespace)
        session = memory.session(id, labels=LABELS)
        await live(session, memory.session(id))
        held = await session.health()
        receipt = await world.client(spec()).memory("support").session(id).erase()
        assert (receipt.messages, receipt.bytes) == (held.messages, held.bytes)
        after = await dump(world.raw, world.memory.namespace)
        name = session._place.session_name.removeprefix(f"{world.memory}/").encode()
        marks = {key for key in after if is_mark(key, name)}
        assert after.keys() - marks == before.keys()
        assert len(marks) == 1
        assert SECRET.encode() not in b"".join(after.values())
        assert not [key for key in after.keys() - marks if name in after[key] and id != "w:"]
        (mark,) = marks
        assert set(await world.raw.hkeys(mark)) == {b"e", b"r"}
        assert 0 < await world.raw.pttl(mark) <= 60_000
        assert await kept.read() == [user("kept")]

    async def test_of_a_person(self, world: World) -> None:
        memory = world.client(spec(keyTemplate="user:{user_id}:{thread}")).memory("support")
        for person in ("a:b", "a"):
            for thread in HOSTILE[:-1]:
                session = memory.session(user_id=person, thread=thread)
                await session.append_many([user(f"{SECRET} of {person}"), call("c1")])
        seen = await memory.erase(labels={"user_id": "a:b"}, dry_run=True)
        receipt = await memory.erase(labels={"user_id": "a:b"})
        assert (receipt.sessions, receipt.digest) == (len(HOSTILE) - 1, seen.digest)
        after = await dump(world.raw, world.memory.namespace)
        assert f"{SECRET} of a:b".encode() not in b"".join(after.values())
        assert b"user:a%3Ab" not in b"".join(after.values())
        assert b"user:a:" in b"".join(after.values())
        again = await memory.erase(labels={"user_id": "a"})
        assert again.sessions == len(HOSTILE) - 1
        left = await dump(world.raw, world.memory.namespace)
        assert all(key.endswith(b":meta") for key in left)

    async def test_what_cannot_be_read_goes_too(self, world: World) -> None:
        session = world.session("odd", spec())
        await session.append(user(SECRET))
        keys = session_keys(world.memory, "odd", "mem")
        for break_it in (
            world.raw.hset(keys.meta, "k", "nonsense"),
            world.raw.set(keys.meta, SECRET),
            world.raw.lset(keys.log, 0, SECRET),
            world.raw.set(keys.queue, SECRET),
        ):
            await world.raw.delete(*keys)
            session = world.session("odd", spec())  # of somebody who knows of no loss
            await session.append(user(SECRET))
            await break_it
            await world.session("odd", spec()).erase()
            assert set(await dump(world.raw, world.memory.namespace)) == {keys.meta}
            assert await world.raw.hkeys(keys.meta) == [b"e", b"r"]

    async def test_in_a_cluster(self, cluster_of_servers: ClusterOfServers, namespace: str) -> None:
        url = cluster_of_servers.url
        async with holdfast.connect(url, namespace=namespace, policy=spec()) as client:
            memory = client.memory("support")
            for name in map(str, range(12)):
                await live(memory.session(name, labels=LABELS), memory.session(name))
            assert (await memory.erase(labels=LABELS)).sessions == 12
            assert (await memory.erase(labels=LABELS)).sessions == 0
            lengths = [await memory.session(str(name)).length() for name in range(12)]
            assert lengths == [0] * 12


class TestWhileOthersWrite:
    async def test_every_message_is_of_before_or_after(self, world: World) -> None:
        memory = world.client(spec()).memory("support")
        stop = asyncio.Event()
        written: list[list[str]] = [[] for _ in range(6)]

        async def write(at: int) -> None:
            session = world.session("shared", spec())
            while not stop.is_set():
                text = f"{at}-{len(written[at])}"
                await session.append(user(text), id=text)
                written[at].append(text)

        async def hold() -> None:
            while not stop.is_set():
                try:
                    async with world.session("shared", spec()).turn(wait="10s") as turn:
                        await turn.append(user("turn"))
                        await turn.append(user("turn"))
                except LeaseLost:
                    continue

        async with asyncio.TaskGroup() as group:
            for at in range(6):
                group.create_task(write(at))
            group.create_task(hold())
            gone: set[str] = set()
            for _ in range(15):
                await asyncio.sleep(0.02)
                marks = [len(texts) for texts in written]
                await memory.session("shared").erase()
                gone |= {
                    text for texts, n in zip(written, marks, strict=True) for text in texts[:n]
                }
            stop.set()
        session = memory.session("shared")
        texts = [item["content"] for item in await session.read(limit=10_000)]
        assert not gone & set(texts), "what was acknowledged before an erasure has gone"
        for at in range(6):
            mine = [text for text in texts if text.startswith(f"{at}-")]
            assert mine == written[at][len(written[at]) - len(mine) :]
        index = await world.raw.zrange(world.keys.sessions, 0, -1)
        assert index == [b"shared"], "the new conversation is in the index"
        await session.erase()
        assert await world.raw.zcard(world.keys.sessions) == 0

    async def test_by_label_while_sessions_come(self, world: World) -> None:
        memory = world.client(spec()).memory("support")
        stop = asyncio.Event()

        async def begin() -> None:
            at = 0
            while not stop.is_set():
                await memory.session(f"s{at % 40}", labels=LABELS).append(user(SECRET))
                at += 1

        async with asyncio.TaskGroup() as group:
            group.create_task(begin())
            for _ in range(5):
                await memory.erase(labels=LABELS)
            stop.set()
        await memory.erase(labels=LABELS)
        after = await dump(world.raw, world.memory.namespace)
        assert SECRET.encode() not in b"".join(after.values())
        assert all(key.endswith(b":meta") for key in after)


class TestLateRepetitions:
    @pytest_asyncio.fixture
    async def clients(
        self, proxy: CuttingProxy, valkey_server: Server, namespace: str
    ) -> AsyncGenerator[tuple[Client, Client]]:
        """A client whose connections break, and one whose do not."""
        async with (
            holdfast.connect(proxy.url, namespace=namespace, policy=spec()) as broken,
            holdfast.connect(valkey_server.url, namespace=namespace, policy=spec()) as sound,
        ):
            yield broken, sound

    async def _repeat_over_an_erasure(
        self, proxy: CuttingProxy, writer: Session, eraser: Session, begun_anew: bool
    ) -> None:
        """Let an append arrive, lose its answer, erase, and only then let it be repeated."""
        fault = proxy.cut_after_request(script("append").sha, times=1_000)
        appending = asyncio.create_task(writer.append(user(SECRET), id="late"))
        await until(lambda: fault.fired > 0, "the append was carried out")
        await eraser.erase()
        if begun_anew:
            await eraser.append(user("new"))
        fault.left = 0
        with pytest.raises(AmbiguousWrite, match="erased"):
            await appending

    @pytest.mark.parametrize("begun_anew", [False, True])
    @pytest.mark.parametrize("known", [False, True], ids=["first call", "later call"])
    async def test_put_nothing_back(
        self, proxy: CuttingProxy, clients: tuple[Client, Client], known: bool, begun_anew: bool
    ) -> None:
        writer, eraser = (client.memory("support").session("any") for client in clients)
        if known:
            await writer.append(user("before"))
        await self._repeat_over_an_erasure(proxy, writer, eraser, begun_anew)
        assert await eraser.read() == ([user("new")] if begun_anew else [])
        assert (await writer.append(user("again"), id="late")).duplicate is False
        assert (await eraser.read())[-1] == user("again")

    async def test_without_an_erasure_go_on_as_before(
        self, proxy: CuttingProxy, clients: tuple[Client, Client]
    ) -> None:
        writer, other = (client.memory("support").session("any") for client in clients)
        for at in range(4):
            cut = (proxy.cut_after_request, proxy.cut_before_request)[at % 2]
            cut(script("append").sha)
            await writer.append(user(str(at)), id=str(at))
        assert await other.read() == [user(str(at)) for at in range(4)]

    async def test_the_receipt_survives_a_lost_answer(
        self, proxy: CuttingProxy, clients: tuple[Client, Client]
    ) -> None:
        eraser, writer = (client.memory("support").session("any") for client in clients)
        await writer.append_many([user("a"), user("b")])
        proxy.cut_after_request(script("erase").sha)
        assert (await eraser.erase()).messages == 2

    async def test_an_import_goes_on_after_a_lost_answer(
        self, proxy: CuttingProxy, clients: tuple[Client, Client]
    ) -> None:
        broken, sound = (client.memory("support") for client in clients)
        for first in range(0, 2_000, 500):
            await sound.session("a").append_many([user(f"{n}") for n in range(first, first + 500)])
        lines = [line async for line in sound.session("a").export()]
        proxy.cut_after_request(script("import").sha)
        with pytest.raises(AmbiguousWrite):
            await broken.session("b").import_(lines)
        assert await sound.session("b").length() == 1_000
        assert (await broken.session("b").import_(lines)).resumed == 1_000
        assert [line async for line in sound.session("b").export()] == lines


class TestLabelsAndTheOperator:
    async def test_label_indexes_expire_whoever_manages(self, world: World) -> None:
        await world.apply()
        memory = world.client().memory("support")
        await memory.session("first").append(user("a"))
        terms = await world.apply()  # which keeps the index from now on
        await memory.session("a", labels=LABELS).append(user("a"))
        (label,) = await labels_of(world)
        assert await world.raw.pttl(world.keys.sessions) == -1
        life = 2 * terms.ttl + 86_400_000
        assert life - 60_000 < await world.raw.pttl(label) <= life

    @pytest.mark.parametrize("read", ["all", "limit", "budget", "page"])
    async def test_a_session_that_is_only_read_stays_in_them(self, world: World, read: str) -> None:
        """Where reading renews it: its indexes would end two idle times and a day after its last write."""
        await world.apply(retention={"ttl": "1h", "refreshOn": ["Write", "Read"]})
        memory = world.client().memory("support")
        await memory.session("a", labels=LABELS).append(user("a"))
        (label,) = await labels_of(world)
        await world.raw.delete(label, world.keys.sessions)  # as when their time is over
        reader = memory.session("a")  # which was not told of the labels
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "all": reader.read,
            "limit": lambda: reader.read(limit=1),
            "budget": lambda: reader.read(max_tokens=100),
            "page": reader.read_page,
        }
        await calls[read]()
        assert await labels_of(world) == [label]
        assert await world.raw.zscore(label, "a")
        assert await world.raw.zscore(world.keys.sessions, "a")
        await world.raw.config_resetstat()
        await calls[read]()
        assert "cmdstat_zadd" not in await world.raw.info("commandstats")
        assert (await memory.erase(labels=LABELS)).sessions == 1
        await calls[read]()
        assert await labels_of(world) == []
        assert await world.raw.zscore(world.keys.sessions, "a") is None

    async def test_walks_pass_them_by(self, world: World) -> None:
        terms = await world.apply()
        memory = world.client().memory("support")
        for at in range(30):
            await memory.session(f"s{at}", labels=LABELS).append(user("a"))
        await memory.session("s0").erase()
        steps = await world.roll_out(terms)
        assert total(steps, "seen") == 29
        step, held = await world.hands.measure(world.memory, cursor=0, limit=100)
        assert (step.broken, held.sessions) == (0, 29)

    async def test_an_erased_session_is_no_session_to_the_operator(self, world: World) -> None:
        await world.apply()
        session: Session = world.session("a")
        await session.append(user("a"))
        await session.erase()
        await world.raw.zadd(world.keys.sessions, {"a": 1})  # as an operator's look may come in
        _, held = await world.hands.measure(world.memory, cursor=0, limit=100)
        assert held.sessions == 0
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        await world.bury(revision)
        with pytest.raises(HoldfastError):
            await world.session("a").append(user("b"))

    async def test_a_deletion_takes_the_labels_too(self, world: World) -> None:
        await world.apply()
        memory = world.client().memory("support")
        for at in range(1_100):
            await memory.session("a", labels={"user": str(at)}).append(user("a"))
        await memory.session("a").clear()
        assert len(await labels_of(world)) == 1_100
        revision = await world.hands.begin_deletion(world.memory, FIRST)
        assert revision is not None
        await world.bury(revision)
        assert await world.hands.end_deletion(world.memory, FIRST)
        assert [name for name in await world.names() if "label" in name] == []

    async def test_an_agent_erases_what_was_begun_under_an_older_policy(self, world: World) -> None:
        await world.apply()
        memory: Memory = world.client().memory("support")
        await memory.session("a", labels=LABELS).append(user("a"))
        terms = await world.apply(limits={"maxTokens": 500})
        await world.roll_out(terms)
        assert (await memory.erase(labels=LABELS)).sessions == 1


async def labels_of(world: World) -> list[bytes]:
    """The indexes of labels."""
    pattern = f"mem:{{{world.memory}}}:label:" + "[0-9a-f]" * 32
    return [key async for key in world.raw.scan_iter(pattern, count=10_000)]
