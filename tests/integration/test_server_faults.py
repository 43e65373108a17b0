"""Servers that restart, freeze, load, are full, forget scripts, refuse, or hold what is not ours."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.asyncio import Redis

import holdfast
from holdfast.client import Client
from holdfast.errors import (
    AccessDenied,
    AmbiguousWrite,
    CorruptRecord,
    HoldfastError,
    ScriptsMissing,
    StoreUnavailable,
    UnknownKeys,
)
from holdfast.session import Session
from holdfast.store.redis import RedisStore
from holdfast.store.redis.script import all_scripts, script
from tests.harness.parts import need_server
from tests.harness.servers import SLOW_TO_LOAD, Product, Server, is_loading
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

STATE = ("meta", "log", "pin", "ids", "hist")


@pytest_asyncio.fixture(params=list(Product))
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Server]:
    """Return a server of the test's own that keeps its data over restarts."""
    need_server(request.param)
    async with Server(request.param, tmp_path / "data", persist=True) as server:
        yield server


class OnSharedServers:
    """What needs no server of its own."""

    @pytest.fixture
    def server(self, each_server: Server) -> Server:
        """Return one of the servers of the whole run."""
        return each_server


@pytest_asyncio.fixture
async def raw(server: Server) -> AsyncGenerator[Redis]:
    """Return a client for what happens behind the library's back."""
    async with server.client() as raw:
        yield raw


@pytest_asyncio.fixture
async def client(server: Server, namespace: str) -> AsyncGenerator[Client]:
    async with holdfast.connect(server.url, namespace=namespace, policy=work.policy()) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    return client.memory(work.MEMORY).session(work.SHARED)


def connect(server: Server, namespace: str, *, login: str = "", timeout: float = 5.0) -> Client:
    """Return a client with its own credentials (`user:password@`) and its own patience."""
    store = RedisStore.from_url(server.url.replace("//", f"//{login}"), timeout=timeout)
    return Client(store, namespace=namespace, policy=work.policy())


async def contents(raw: Redis, namespace: str) -> dict[str, Any]:
    """Return all that a session's keys hold, however they came to be."""
    found: dict[str, Any] = {}
    for name in (*STATE, "q"):
        key = work.key_of(namespace, name)
        kind = await raw.type(key)
        if kind != b"none":
            found[name] = (kind, await raw.dump(key), await raw.pexpiretime(key))
    return found


class TestRestarts:
    @pytest.mark.slow
    @pytest.mark.parametrize("kill", [False, True], ids=["in order", "killed"])
    async def test_under_load(self, server: Server, client: Client, kill: bool) -> None:
        writers = [
            _Writer(client.memory(work.MEMORY).session(f"load-{at}"), ids=at % 2 == 0)
            for at in range(6)
        ]
        tasks = [asyncio.create_task(writer.work()) for writer in writers]
        for _ in range(2):
            await _progress(writers)
            if kill:
                await server.kill()
                await server.start()
            else:
                await server.restart()
        await _progress(writers)
        for writer in writers:
            writer.over = True
        await asyncio.gather(*tasks)
        for writer in writers:
            assert {type(error) for error in writer.errors} <= {AmbiguousWrite, StoreUnavailable}
            stored = [item["content"] for item in await writer.session.read()]
            assert len(stored) == len(set(stored)), "something is stored twice"
            assert set(writer.acknowledged) <= set(stored)
            assert [text for text in stored if text in set(writer.acknowledged)] == (
                writer.acknowledged
            )
            assert set(stored) <= {*writer.acknowledged, *writer.unknown}

    async def test_the_first_call_afterwards_is_not_in_doubt(
        self, server: Server, session: Session
    ) -> None:
        await session.append(user("before"))
        await server.restart()
        await session.append(user("after"))
        assert await session.read() == [user("before"), user("after")]

    async def test_while_it_loads_calls_wait_and_happen_once(
        self, namespace: str, tmp_path: Path
    ) -> None:
        need_server(Product.REDIS)
        async with Server(
            Product.REDIS, tmp_path / "slow", persist=True, arguments=SLOW_TO_LOAD
        ) as server:
            async with server.client() as raw:
                for number in range(400):
                    await raw.set(f"ballast-{number}", secrets.token_bytes(100))
            async with connect(server, namespace) as client:
                memory = client.memory(work.MEMORY)
                known = memory.session(work.SHARED)
                await known.append(user("before"))
                async with server.client() as raw:
                    await raw.save()
                await server.stop()
                starting = asyncio.create_task(server.start())
                await until(lambda: is_loading(server), "it loads")
                new = memory.session("new")
                await asyncio.gather(
                    known.append(user("known")),
                    known.append(user("with id"), id="r-1"),
                    new.append(user("new")),
                    known.read(),
                )
                await starting
                assert await new.read() == [user("new")]
                stored = [item["content"] for item in await known.read()]
                assert sorted(stored) == ["before", "known", "with id"]


class _Writer:
    """Appends until told to stop, and remembers what it was told."""

    def __init__(self, session: Session, *, ids: bool) -> None:
        self.session = session
        self.over = False
        self.acknowledged: list[str] = []
        self.unknown: list[str] = []
        self.errors: list[HoldfastError] = []
        self._ids = ids

    async def work(self) -> None:
        number = 0
        while not self.over:
            number += 1
            text = f"m-{number}"
            try:
                await self.session.append(user(text), id=text if self._ids else None)
            except HoldfastError as error:
                self.errors.append(error)
                self.unknown.append(text)
                await asyncio.sleep(0)
            else:
                self.acknowledged.append(text)


async def _progress(writers: Sequence[_Writer]) -> None:
    """Wait until every writer got more done."""
    before = [len(writer.acknowledged) for writer in writers]

    def more() -> bool:
        return all(
            len(writer.acknowledged) > count + 20
            for writer, count in zip(writers, before, strict=True)
        )

    await until(more, "every writer gets on")


class TestFrozen:
    async def test_for_two_seconds_nothing_is_stored_twice(
        self, server: Server, session: Session
    ) -> None:
        await session.append(user("0"))
        server.pause()
        calls = [
            asyncio.create_task(
                session.append(user(str(number)), id=f"r-{number}" if number % 2 else None)
            )
            for number in range(1, 21)
        ]
        await asyncio.sleep(2)
        server.resume()
        await asyncio.gather(*calls)
        stored = sorted(int(item["content"]) for item in await session.read())
        assert stored == list(range(21))

    async def test_for_longer_than_the_patience(self, server: Server, namespace: str) -> None:
        async with connect(server, namespace, timeout=0.5) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("before"))
            await asyncio.gather(*(session.read() for _ in range(3)))  # as many connections
            server.pause()
            began = time.monotonic()
            ends = await asyncio.gather(
                session.append(user("unknown")),
                session.append(user("with id"), id="r-1"),
                session.read(),
                session.append(user("never sent")),
                session.read(),
                return_exceptions=True,
            )
            assert [type(end) for end in ends] == [AmbiguousWrite] * 2 + [StoreUnavailable] * 3
            assert time.monotonic() - began < 30
            server.resume()
            await until(work.answers(session), "the server is found again")
            await session.append(user("with id"), id="r-1")
            await session.append(user("after"))

            async def settled() -> bool:
                return (await session.read())[-1] == user("after")

            await until(settled, "the server has worked off what it was sent")
            texts = [item["content"][:10] for item in await session.read()]
            assert len(texts) == len(set(texts))
            assert {"before", "with id", "after"} <= set(texts)
            assert "never sent" not in texts

    async def test_while_a_large_message_is_on_its_way(
        self, server: Server, namespace: str
    ) -> None:
        async with connect(server, namespace, timeout=0.5) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("before"))
            server.pause()
            began = time.monotonic()
            with pytest.raises(AmbiguousWrite):
                await session.append(user("x" * 4_000_000))  # the kernel's buffers take less
            assert time.monotonic() - began < 30
            server.resume()
            # On a busy machine the call's own repetitions found out that the server is away.
            await until(work.answers(session), "the server is found again")
            await session.append(user("after"))
            assert await session.length() in (2, 3)


class TestScripts(OnSharedServers):
    async def test_every_call_survives_that_they_are_forgotten(
        self, raw: Redis, server: Server, namespace: str
    ) -> None:
        spec = work.policy(retention={"ttl": "1h", "refreshOn": ["Write", "Read"]})
        async with holdfast.connect(server.url, namespace=namespace, policy=spec) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            message = user("one")

            async def forget(call: Awaitable[Any]) -> Any:
                await raw.script_flush()
                return await call

            await forget(session.append(message))
            await forget(session.append(user("two"), id="r-1"))
            assert await forget(session.pop()) == user("two")
            assert await forget(session.read()) == [message]
            assert await forget(session.read(limit=1)) == [message]
            assert await forget(session.read(max_tokens=100)) == [message]
            assert (await forget(session.read_page())).total == 1
            await forget(session.pin(1))
            turn = await forget(session.turn().__aenter__())
            await forget(turn.check())
            await forget(turn.append(user("three")))
            await forget(turn.__aexit__(None, None, None))
            assert (await session.health()).lease is None
            assert await forget(session.clear()) == 2

    @pytest.mark.parametrize("known", ["append", "index"])
    async def test_only_one_of_two_is_known(self, raw: Redis, session: Session, known: str) -> None:
        # As after an upgrade that changed one of them, or while another process loads them.
        await raw.script_flush()
        await raw.script_load(script(known).body)
        done = await session.append(user("once"))
        assert (done.seq, done.length) == (1, 1)
        assert await session.read() == [user("once")]

    async def test_only_acquire_is_known(self, raw: Redis, session: Session) -> None:
        await raw.script_flush()
        await raw.script_load(script("acquire").body)
        async with session.turn() as turn:
            await turn.append(user("once"))
        assert await session.read() == [user("once")]


class TestForeignKeys(OnSharedServers):
    @pytest.mark.parametrize(
        ("name", "written"),
        [
            ("meta", True),
            ("meta", False),
            ("log", True),
            ("log", False),
            ("pin", True),
            ("pin", False),
            ("ids", True),
            ("ids", False),
        ],
    )
    async def test_another_type_in_the_way_changes_nothing(
        self, raw: Redis, session: Session, namespace: str, name: str, written: bool
    ) -> None:
        if written:
            await session.append_many(
                [user("known"), {"role": "system", "content": "pinned"}], id="0"
            )
        await raw.delete(work.key_of(namespace, name))
        await raw.set(work.key_of(namespace, name), "foreign")
        before = await contents(raw, namespace)
        with pytest.raises(UnknownKeys):
            await session.append_many([user("new"), {"role": "system", "content": "new"}], id="1")
        assert await contents(raw, namespace) == before
        if name != "ids":
            with pytest.raises(UnknownKeys):
                await session.read()
            assert await contents(raw, namespace) == before

    @pytest.mark.parametrize("name", ["log", "pin"])
    @pytest.mark.parametrize("foreign", ["a record", "a type"])
    async def test_a_session_that_something_else_wrote_to_can_be_cleared(
        self, raw: Redis, session: Session, namespace: str, name: str, foreign: str
    ) -> None:
        await session.append_many([user("known"), {"role": "system", "content": "pinned"}])
        key = work.key_of(namespace, name)
        if foreign == "a record":
            await raw.rpush(key, "foreign")
            with pytest.raises(CorruptRecord):
                await session.pin(1)
        else:
            await raw.delete(key)
            await raw.set(key, "foreign")
            with pytest.raises(UnknownKeys):
                await session.pin(1)
        await session.clear()
        assert not await raw.exists(key)
        await session.append(user("after"))
        assert await session.read() == [user("after")]

    async def test_another_type_in_place_of_the_index(
        self, raw: Redis, session: Session, namespace: str
    ) -> None:
        await raw.set(f"mem:{{{namespace}/{work.MEMORY}}}:sessions", "foreign")
        try:
            await session.append(user("once"))
            stored = 1
        except UnknownKeys:
            stored = 0
        assert await session.length() == stored

    async def test_another_type_in_place_of_the_line(
        self, raw: Redis, session: Session, namespace: str
    ) -> None:
        await session.append(user("known"))
        await raw.set(work.key_of(namespace, "q"), "foreign")
        before = await contents(raw, namespace)
        with pytest.raises(UnknownKeys):
            await session.turn().__aenter__()
        assert await contents(raw, namespace) == before

    @pytest.mark.parametrize(
        "name",
        [
            "log",
            "pin",
        ],
    )
    async def test_records_that_vanished_are_counted_again(
        self, raw: Redis, server: Server, session: Session, namespace: str, name: str
    ) -> None:
        for number in range(10):
            await session.append_many([user(f"m-{number}")], pin=number % 2 == 0)
        await raw.delete(work.key_of(namespace, name))
        done = await session.append_many([user("after")], pin=name == "pin")
        assert "vanished" in " ".join(done.warnings)
        assert done.length == 6
        assert await work.counters(session) == await work.recount(server, namespace)
        assert len(await session.read()) == 6
        health = await session.health()
        assert health.dropped == 5
        assert (await session.append(user("again"))).warnings == ()

    async def test_counters_that_vanished_give_no_number_twice(
        self, raw: Redis, server: Server, session: Session, namespace: str
    ) -> None:
        for number in range(10):
            await session.append(user(f"m-{number}"))
        await raw.delete(work.key_of(namespace, "meta"))
        for number in range(10, 13):
            await session.append(user(f"m-{number}"))
        assert await work.counters(session) == await work.recount(server, namespace)
        records = (await session.read_page()).records
        seqs = [record.seq for record in records]
        assert seqs == sorted(set(seqs))
        assert len(records) == (await session.health()).messages


class TestFullServer:
    async def test_refuses_writes_and_lets_memory_be_freed(
        self, raw: Redis, session: Session, namespace: str
    ) -> None:
        messages = [user(f"m-{number}") for number in range(5)]
        await session.append_many(messages, id="r-0")
        exported = [line async for line in session.export()]
        async with session.turn() as turn:
            await raw.config_set("maxmemory", 1)
            before = await contents(raw, namespace)
            for attempt in (
                session.append(user("new")),
                session.append(user("new"), id="r-1"),
                turn.append_many([user("new"), {"role": "system", "content": "new"}]),
                session.pin(1),
            ):
                with pytest.raises(StoreUnavailable, match="memory"):
                    await attempt
            assert await contents(raw, namespace) == before
            await turn.check()
            assert await session.read() == messages
            assert [line async for line in session.export()] == exported
            assert await session.read(limit=2) == messages[-2:]
            assert await session.read(max_tokens=1000) == messages
            assert (await session.read_page()).total == len(messages)
        assert (await session.health()).lease is None
        with pytest.raises(StoreUnavailable, match="memory"):
            await session.turn().__aenter__()
        assert await session.pop() == messages[-1]
        assert await session.clear() == 4
        assert await session.length() == 0
        await raw.config_set("maxmemory", 0)
        await session.append(user("room again"))
        assert await session.read() == [user("room again")]


class TestAccess:
    @pytest.mark.parametrize("login", ["", ":wrong@", "nobody:secret@"])
    async def test_wrong_credentials(
        self, raw: Redis, server: Server, namespace: str, login: str
    ) -> None:
        await raw.config_set("requirepass", "secret")
        async with connect(server, namespace, login=login) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            began = time.monotonic()
            for attempt in (
                session.append(user("x")),
                session.read(),
                session.health(),
                session.turn().__aenter__(),
            ):
                with pytest.raises(AccessDenied):
                    await attempt
            assert time.monotonic() - began < 15, "refused credentials were tried again"
        async with connect(server, namespace, login=":secret@") as client:
            await client.memory(work.MEMORY).session(work.SHARED).append(user("x"))

    @pytest.mark.parametrize(
        "rules",
        [
            ["~mem:{elsewhere/*", "+@all"],
            ["~*", "+@all", "-evalsha", "-hmget"],
            ["%R~*", "+@all"],
        ],
        ids=["foreign keys", "no scripts", "read-only"],
    )
    async def test_missing_permissions(
        self, raw: Redis, server: Server, namespace: str, rules: list[str]
    ) -> None:
        await _load_scripts(raw)
        await raw.execute_command("ACL", "SETUSER", "tenant", "on", ">secret", *rules)
        async with connect(server, namespace, login="tenant:secret@") as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            for attempt in (
                session.append(user("x")),
                session.append(user("x"), id="r-1"),
                session.turn().__aenter__(),
                session.clear(),
            ):
                with pytest.raises(AccessDenied):
                    await attempt
        assert await contents(raw, namespace) == {}

    async def test_read_only_access_is_enough_to_read(
        self, raw: Redis, server: Server, session: Session, namespace: str
    ) -> None:
        await session.append_many([user("a"), {"role": "system", "content": "b"}])
        rules = ["%R~mem:*", "-@all", "+evalsha_ro", "+multi", "+exec", "+time", "+ping"]
        rules += [f"+{name}" for name in ("hmget", "hgetall", "lrange", "lindex", "llen", "zcard")]
        await raw.execute_command("ACL", "SETUSER", "tenant", "on", ">secret", *rules)
        expected = await session.read()
        async with connect(server, namespace, login="tenant:secret@") as client:
            reader = client.memory(work.MEMORY).session(work.SHARED)
            assert await reader.read() == expected
            assert await reader.read(max_tokens=1000) == expected
            assert await reader.read(limit=2) == expected
            assert len((await reader.read_page()).records) == 2
            assert (await reader.health()).messages == 2
            with pytest.raises(AccessDenied):
                await reader.append(user("c"))

    async def test_an_account_that_is_withdrawn_while_it_is_used(
        self, raw: Redis, server: Server, namespace: str
    ) -> None:
        await raw.execute_command("ACL", "SETUSER", "tenant", "on", ">secret", "~*", "+@all")
        async with connect(server, namespace, login="tenant:secret@") as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            await session.append(user("before"))
            await raw.execute_command("ACL", "DELUSER", "tenant")
            with pytest.raises(AccessDenied):
                await session.read()
            with pytest.raises(AccessDenied):
                await session.append(user("after"), id="r-1")

    async def test_scripts_that_may_not_be_loaded(
        self, raw: Redis, server: Server, namespace: str
    ) -> None:
        rules = ["~*", "+@all", "-script"]
        await raw.execute_command("ACL", "SETUSER", "tenant", "on", ">secret", *rules)
        async with connect(server, namespace, login="tenant:secret@", timeout=1.5) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            with pytest.raises(ScriptsMissing):
                await session.append(user("x"))
            attempt = asyncio.create_task(session.append(user("x")))
            await _load_scripts(raw)
            await attempt
            assert await session.length() == 1

    async def test_a_waiter_that_may_not_block_asks_now_and_then(
        self, raw: Redis, server: Server, namespace: str, session: Session
    ) -> None:
        rules = ["~*", "+@all", "-blpop"]
        await raw.execute_command("ACL", "SETUSER", "tenant", "on", ">secret", *rules)
        async with connect(server, namespace, login="tenant:secret@") as client:
            own = client.memory(work.MEMORY).session(work.SHARED)

            async def queued() -> bool:
                return (await session.health()).waiting == 1

            async with session.turn():
                waiter = asyncio.create_task(own.turn(wait="30s").__aenter__())
                await until(queued, "somebody waits")
                before = (await raw.info("commandstats"))["cmdstat_evalsha"]["calls"]
                await asyncio.sleep(0.5)
                after = (await raw.info("commandstats"))["cmdstat_evalsha"]["calls"]
            turn = await waiter
            await turn.__aexit__(None, None, None)
            assert after - before < 50


async def _load_scripts(raw: Redis) -> None:
    for each in all_scripts():
        await raw.script_load(each.body)
