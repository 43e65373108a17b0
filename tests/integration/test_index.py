"""The index of a memory's sessions: it outlives them, but not for ever."""

import secrets

import pytest

import holdfast
from tests.harness.servers import Server, redis_client

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

HOUR = 3_600_000


async def test_an_index_that_nobody_manages_expires_after_its_sessions(
    valkey_server: Server,
) -> None:
    namespace = f"index-{secrets.token_hex(4)}"
    index = f"mem:{{{namespace}/support}}:sessions"
    policy = {"retention": {"ttl": "1h"}}
    raw = redis_client(valkey_server.port)
    async with holdfast.connect(valkey_server.url, namespace=namespace, policy=policy) as client:
        for name in ("first", "second"):
            await client.memory("support").session(name).append({"role": "user", "content": "a"})
        life = await raw.pttl(index)
        assert 24 * HOUR < life <= 26 * HOUR

        await raw.persist(index)  # as an operator does that manages the memory
        await client.memory("support").session("third").append({"role": "user", "content": "a"})
        assert await raw.pttl(index) == -1
        assert await raw.zcard(index) == 3
    await raw.aclose()
