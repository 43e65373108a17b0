"""The synchronous library keeps the contract of the asynchronous one, on Valkey.

Each client under test is a synchronous one with a connection of its own. The suite awaits, so each
blocking call is made in a thread that a coroutine waits for. What asks for a task to be cancelled is left
out: it is here that nothing can cancel a thread.
"""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import pytest_asyncio

import holdfast
from holdfast import sync
from holdfast.store.redis import RedisStore
from holdfast.testing import conformance
from holdfast.testing.conformance import Advance
from holdfast.testing.conformance.support import Connect, SessionContract, policy
from tests.harness.servers import Server
from tests.harness.waiting import until

pytestmark = pytest.mark.redis

SOURCE = Path(__file__).parents[2] / "operator"


class Awaited:
    """A synchronous object whose calls are awaited, each in a thread."""

    def __init__(self, blocking: Any, threads: ThreadPoolExecutor) -> None:
        self._blocking = blocking
        self._threads = threads

    def __getattr__(self, name: str) -> Any:
        """Return a method that is awaited, or what the object has there."""
        value = getattr(self._blocking, name)
        if isinstance(value, sync.Signal):
            return AwaitedSignal(value, self._threads)
        if not callable(value):
            return value
        if name in ("memory", "session", "turn"):
            return lambda *given, **named: Awaited(value(*given, **named), self._threads)
        if name == "export":
            return lambda *given, **named: self._iterate(value(*given, **named))
        return lambda *given, **named: self._call(lambda: value(*given, **named))

    async def __aenter__(self) -> Self:
        """Enter the object in a thread."""
        await self._call(self._blocking.__enter__)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the object in a thread."""
        await self._call(lambda: self._blocking.__exit__(kind, error, trace))

    async def _iterate(self, items: Iterator[Any]) -> AsyncGenerator[Any]:
        while (item := await self._call(lambda: next(items, None))) is not None:
            yield item

    def _call(self, call: Callable[[], Any]) -> Awaitable[Any]:
        async def called() -> Any:
            return await asyncio.get_running_loop().run_in_executor(self._threads, call)

        return called()


class AwaitedSignal:
    """A synchronous signal that is awaited, in a thread."""

    def __init__(self, signal: sync.Signal, threads: ThreadPoolExecutor) -> None:
        self._signal = signal
        self._threads = threads

    def __bool__(self) -> bool:
        """Whether it happened."""
        return bool(self._signal)

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until it happened."""
        waiting = asyncio.get_running_loop().run_in_executor(self._threads, self._signal.wait)
        assert (yield from waiting.__await__())


@pytest_asyncio.fixture
async def store(valkey_server: Server) -> AsyncGenerator[RedisStore]:
    """Give the store that tests look at, and the operator writes to, beside the clients."""
    store = RedisStore.from_url(valkey_server.url)
    yield store
    await store.aclose()


@pytest.fixture
def advance() -> Advance:
    """Let the time of the server pass."""
    return asyncio.sleep


class _Blocking:
    """Takes the place of the suite's asynchronous clients."""

    @pytest.fixture
    def connect(self, valkey_server: Server, namespace: str) -> Generator[Connect]:
        clients: list[sync.Client] = []
        # One for each call that waits: waiters for one turn wait for each other.
        with ThreadPoolExecutor(64) as threads:

            def make(**spec: Any) -> Any:
                client = sync.connect(valkey_server.url, namespace=namespace, policy=policy(**spec))
                clients.append(client)
                return Awaited(client, threads)

            yield make
            for client in clients:
                client.close()


LEFT_OUT = {
    "TestTurnCancelled": None,
    "TestTurn": (
        "test_an_interrupted_body_is_cancelled_where_it_asked_for_that",
        "test_a_cancellation_by_somebody_else_goes_on",
        "test_the_error_of_an_interrupted_body_comes_out",
    ),
    "TestTransfer": (
        "test_lines_may_come_asynchronously",
        "test_a_change_between_the_parts_ends_it",
    ),
}
"""Classes as a whole, and tests by name, that cancel a task, or hand in what comes asynchronously."""


def _bound() -> dict[str, type]:
    """Bind whatever the suite has that is on clients made by `connect` alone."""
    found: dict[str, type] = {}
    for name in conformance.__all__:
        suite = getattr(conformance, name)
        left_out = LEFT_OUT.get(name, ())
        if left_out is None or SessionContract not in getattr(suite, "__bases__", ()):
            continue
        assert all(hasattr(suite, test) for test in left_out), "the suite no longer has it"
        found[name] = type(name, (_Blocking, suite), dict.fromkeys(left_out))
    return found


globals().update(_bound())


def test_the_suite_is_bound() -> None:
    assert {"TestMessages", "TestSession", "TestTurn", "TestTurnAndOthers"} <= globals().keys()
    assert "TestTurnCancelled" not in globals()
    assert "TestAppend" not in globals(), "it speaks to a store"


UNCLOSED = """
import sys
import holdfast.sync

url, namespace = sys.argv[1:]
spec = {"model": {"tokenizer": "approximate"}, "retention": {"ttl": "1h"}}
client = holdfast.sync.connect(url, namespace=namespace, policy=spec)
session = client.memory("support").session("any id")
turn = session.turn(ttl="1h")
turn.__enter__()
turn.append("hi")
print(session.health().lease.fence == turn.fence)
"""


@pytest.mark.asyncio
async def test_the_end_of_a_program_frees_its_turn(valkey_server: Server, namespace: str) -> None:
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", UNCLOSED, valkey_server.url, namespace],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
    async with holdfast.connect(valkey_server.url, namespace=namespace, policy=policy()) as client:
        session = client.memory("support").session("any id")

        async def free() -> bool:
            return (await session.health()).lease is None

        await until(free, "the turn is free, long before its lease ends")
        assert await session.read() == ["hi"]
