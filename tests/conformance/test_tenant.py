"""The store keeps the contract for who has exactly the rule of a binding, on each server.

`make test` runs it on Valkey, `make verify` on Redis too: what may differ between them, whether a rule
means the same, is tried on both by `test_access.py`, `test_tenant_rule.py`, `test_tenant_commands.py`.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from holdfast.policy import load_policy
from holdfast.store.access import AccessUser, Grant, password_hash, user_name
from holdfast.store.maintenance import Owner, Totals
from holdfast.store.redis import RedisStore
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.testing.conformance import *  # noqa: F403 - the suite is meant to be taken in whole
from holdfast.testing.conformance import Advance, Govern
from holdfast.values import MemoryAddress
from tests.harness.servers import Product, Server

pytestmark = [pytest.mark.redis, pytest.mark.slow]

_MEMORIES = ("support", "support-a", "sales", "another", "other")


@pytest.fixture(params=[Product.VALKEY, pytest.param(Product.REDIS, marks=pytest.mark.thorough)])
def server(request: pytest.FixtureRequest) -> Server:
    return request.getfixturevalue(f"{request.param}_server")


@pytest_asyncio.fixture
async def hands(server: Server) -> AsyncGenerator[RedisMaintenance]:
    hands = RedisMaintenance.connect("127.0.0.1", server.port)
    await hands.load_scripts()
    yield hands
    await hands.aclose()


@pytest_asyncio.fixture
async def store(
    server: Server, namespace: str, hands: RedisMaintenance
) -> AsyncGenerator[RedisStore]:
    name = user_name(
        cluster="0" * 8, namespace=namespace, binding="agent", uid=secrets.token_hex(4)
    )
    memories = [*(MemoryAddress(namespace, each) for each in _MEMORIES)]
    memories.append(MemoryAddress(f"{namespace}-b", "support"))
    grants = tuple(map(Grant, memories))
    await hands.access.put(AccessUser(name, grants, (password_hash("secret"),)))
    store = RedisStore.from_url(f"redis://{quote(name)}:secret@127.0.0.1:{server.port}")
    yield store
    await store.aclose()
    await hands.access.revoke(name)


@pytest.fixture
def govern(hands: RedisMaintenance) -> Govern:
    async def govern(memory: MemoryAddress, spec: dict[str, Any], /, **held: int) -> None:
        _, policy = load_policy(spec)
        owner = Owner("cluster-1", "namespace-1", *memory, "uid-1", 1)
        await hands.claim(memory, owner)
        assert await hands.put_policy(memory, owner, policy.document(), policy.sha256())
        if held:
            await hands.put_usage(memory, owner, Totals(**held))

    return govern


@pytest.fixture
def advance() -> Advance:
    return asyncio.sleep
