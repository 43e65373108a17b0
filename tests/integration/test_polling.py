"""Whose event loops are awake while a server answers: by what they ask of their selector."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast import connect
from holdfast.store.addresses import read_address
from holdfast.store.redis import polling
from holdfast.store.redis.maintenance import RedisMaintenance
from tests.harness.servers import Server

POLICY = {
    "limits": {"maxTokens": 1_000},
    "retention": {"ttl": "1h"},
    "model": {"tokenizer": "approximate"},
}
CALLS = 50


class Sleeps(selectors.DefaultSelector):
    """A selector that counts how often a loop was ready to sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.count += timeout is None or timeout > 0
        return super().select(timeout)


def run(test: Callable[[Sleeps], Coroutine[Any, Any, None]]) -> None:
    sleeps = Sleeps()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(sleeps)) as runner:
        runner.run(test(sleeps))


@pytest.fixture(autouse=True)
def every_server_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine no server is; what is near is tried under a clock of the test, by the unit tests."""
    monkeypatch.setattr(polling, "_NEAR", 60.0)


def test_a_client_alone_is_answered_without_a_sleep(valkey_server: Server, namespace: str) -> None:
    async def test(sleeps: Sleeps) -> None:
        async with connect(valkey_server.url, namespace=namespace, policy=POLICY) as client:
            session = client.memory("m").session("s")
            await session.append("connects")
            before = sleeps.count
            for _ in range(CALLS):
                await session.append("hi")
            assert sleeps.count - before <= CALLS // 10  # the policy is looked at now and then

    run(test)


def test_an_operator_s_loop_sleeps(valkey_server: Server) -> None:
    """Nobody waits for its answers, and it shall leave the processor to others."""

    async def test(sleeps: Sleeps) -> None:
        hands = RedisMaintenance.over(read_address(valkey_server.url))
        await hands.instance()
        before = sleeps.count
        for _ in range(CALLS):
            await hands.instance()
        assert sleeps.count - before >= CALLS
        await hands.aclose()

    run(test)
