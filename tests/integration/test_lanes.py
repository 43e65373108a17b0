"""Callers that come at once share exchanges: counted by the server."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from uuid import uuid4

import pytest
import uvloop

from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.store.redis import RedisStore
from holdfast.values import Batch, Caller, MemoryAddress, Prepared
from tests.harness.servers import Server

CALLERS, CALLS = 16, 40


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_crowd_takes_two_exchanges_a_round(
    valkey_server: Server, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The server reads an exchange at once. Sixteen callers in halves: an eighth of one per append."""

    async def reads_per_append() -> float:
        terms = terms_of(Policy.model_validate({"retention": {"ttl": "1h"}}), 0)
        one = Batch((Prepared(b'{"role":"user","content":"hi"}', 5),))
        memory = MemoryAddress(f"ns-{uuid4().hex}", "crowd")

        async with (
            aclosing(RedisStore.from_url(valkey_server.url)) as store,
            valkey_server.client() as raw,
        ):
            sessions = [store.session(memory, f"s-{at}") for at in range(CALLERS)]

            async def call(at: int, calls: int) -> None:
                for _ in range(calls):
                    await sessions[at].append(terms, one, Caller())

            await asyncio.gather(*(call(at, 2) for at in range(CALLERS)))
            await raw.config_resetstat()
            await asyncio.gather(*(call(at, CALLS) for at in range(CALLERS)))
            told = await raw.info("stats")
            return told["total_reads_processed"] / (CALLERS * CALLS)

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(reads_per_append()) <= 0.15
