"""A program on files of a binding, against real servers: rotation under load, and what is refused."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio

import holdfast
from holdfast.errors import AccessDenied, HoldfastError
from holdfast.store.access import AccessUser, Grant, password_hash, user_name
from holdfast.store.bindings import ROOT
from tests.harness.binding_files import BindingFiles, entry
from tests.harness.waiting import until
from tests.integration.world import World, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]


class Bound:
    """A user of a memory with the files of its binding."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.files = BindingFiles(root / "memory")
        self.name = user_name(
            cluster="0" * 8,
            namespace=world.memory.namespace,
            binding="agent",
            uid=secrets.token_hex(4),
        )
        self.grants = (Grant(world.memory),)

    async def put(self, *passwords: str) -> None:
        hashes = tuple(map(password_hash, passwords))
        await self.world.hands.access.put(AccessUser(self.name, self.grants, hashes))

    def write(self, password: str, *, access: str = "ReadWrite") -> None:
        memory = entry("mine", f"mem:{{{self.world.memory}", access)
        self.files.write(
            [memory],
            mode="standalone",
            endpoints=f"127.0.0.1:{self.world.server.port}",
            username=self.name,
            password=password,
        )


@pytest_asyncio.fixture
async def bound(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Bound]:
    bound = Bound(world, tmp_path)
    monkeypatch.setenv(ROOT, str(tmp_path))
    await world.apply()
    await bound.put("first")
    bound.write("first")
    yield bound
    await world.hands.access.revoke(bound.name)


class Load:
    """Programs that call without a pause, each with connections of its own, some made anew each time."""

    def __init__(self) -> None:
        self.done = 0
        self.failures: list[HoldfastError] = []
        self._over = asyncio.Event()

    async def keep_on(self, name: str) -> None:
        async with holdfast.connect() as client:
            session = client.memory("mine").session(name)
            while not self._over.is_set():
                await self._call(session)

    async def begin_anew(self, name: str) -> None:
        while not self._over.is_set():
            async with holdfast.connect() as client:
                await self._call(client.memory("mine").session(name))

    async def wait_for_turns(self) -> None:
        async with holdfast.connect() as client:
            while not self._over.is_set():
                try:
                    async with client.memory("mine").session("shared").turn(wait="20s") as turn:
                        await turn.append(user("mine"))
                    self.done += 1
                except HoldfastError as error:
                    self.failures.append(error)

    async def _call(self, session: holdfast.Session) -> None:
        try:
            await session.append(user("hello"))
            await session.read(limit=1)
            self.done += 1
        except HoldfastError as error:
            self.failures.append(error)

    def end(self) -> None:
        self._over.set()

    async def some_more(self) -> None:
        """Wait until every kind of caller has most likely called again."""
        after = self.done + 60
        await until(lambda: self._reached(after), "the callers go on")

    async def _reached(self, count: int) -> bool:
        return self.done >= count


async def test_no_call_fails_while_passwords_are_renewed(bound: Bound) -> None:
    load = Load()
    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(load.keep_on(f"s-{number}"))
            group.create_task(load.begin_anew(f"n-{number}"))
            group.create_task(load.wait_for_turns())
        current = "first"
        for following in ("second", "third", "fourth"):
            await load.some_more()
            await bound.put(following, current)
            await load.some_more()
            bound.write(following)
            await load.some_more()
            await bound.put(following)
            current = following
        await load.some_more()
        load.end()
    assert not load.failures, load.failures[0]
    assert load.done > 500


async def test_an_open_connection_outlives_its_password_and_not_its_user(bound: Bound) -> None:
    async with holdfast.connect() as client:
        session = client.memory().session("a")
        await session.append(user("one"))
        await bound.put("second")  # the files still say the first
        await session.append(user("two"))
        async with holdfast.connect() as late:
            with pytest.raises(AccessDenied, match="refused the credentials"):
                await late.memory().session("a").length()
            bound.write("second")
            assert await late.memory().session("a").length() == 2
        await bound.world.hands.access.revoke(bound.name)
        with pytest.raises(HoldfastError):
            await session.append(user("three"))
        with pytest.raises(AccessDenied):
            await session.append(user("four"))


@pytest.mark.parametrize("refresh", [["Write"], ["Write", "Read"]])
async def test_a_reader_reads_with_the_rule_of_a_reader(
    bound: Bound, refresh: Sequence[str]
) -> None:
    await bound.world.apply(retention={"ttl": "1h", "refreshOn": refresh})
    async with holdfast.connect() as writer:
        await writer.memory("mine").session("a").append(user("hello"), id="1")
    bound.grants = (Grant(bound.world.memory, read_only=True),)
    await bound.put("first")
    bound.write("first", access="ReadOnly")
    async with holdfast.connect() as client:
        session = client.memory("mine").session("a")
        assert await session.read() == [user("hello")]
        assert await session.read(max_tokens=100) == [user("hello")]
        assert await session.read(limit=1) == [user("hello")]
        assert len((await session.read_page()).records) == 1
        assert (await session.health()).messages == 1
        assert await session.explain(id="1")
        with pytest.raises(AccessDenied, match="read only"):
            await session.append(user("x"))
    # Files that promise more than the server allows.
    bound.write("first", access="ReadWrite")
    async with holdfast.connect() as client:
        with pytest.raises(AccessDenied, match="do not allow"):
            await client.memory("mine").session("a").append(user("x"))


async def test_files_that_are_away_for_a_moment_are_waited_for(bound: Bound) -> None:
    async with holdfast.connect() as client:
        link = bound.files.folder / "..data"
        target = link.readlink()
        data = bound.files.folder / target
        hidden = data.rename(data.with_name("..hidden"))
        data.mkdir()
        (data / "username").mkdir()  # no file: it cannot be read
        waiting = asyncio.create_task(client.memory("mine").session("a").append(user("hello")))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.2)
        (data / "username").rmdir()
        data.rmdir()
        hidden.rename(data)
        assert (await waiting).seq == 1
