"""Whose event loops are awake while a server answers: by what they ask of their selector."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

from holdfast import connect
from holdfast.store.addresses import read_address
from holdfast.store.redis.maintenance import RedisMaintenance
from tests.harness.servers import Server

POLICY = {
    "limits": {"maxTokens": 1_000},
    "retention": {"ttl": "1h"},
    "model": {"tokenizer": "approximate"},
}
CALLS = 50
_TRIES = 20


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


def test_a_client_alone_is_answered_by_a_near_server_without_a_sleep(
    valkey_server: Server, namespace: str
) -> None:
    async def test(sleeps: Sleeps) -> None:
        found: list[int] = []
        # A busy machine is not near; each client looks anew until it has found that out.
        while len(found) < _TRIES and (not found or found[-1] > CALLS // 2):
            async with connect(valkey_server.url, namespace=namespace, policy=POLICY) as client:
                session = client.memory("m").session("s")
                await session.append("connects")
                before = sleeps.count
                for _ in range(CALLS):
                    await session.append("hi")
                found.append(sleeps.count - before)
        assert found[-1] <= CALLS // 2, found

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
