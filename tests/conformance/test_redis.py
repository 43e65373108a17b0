"""The store on Redis keeps the contract."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from holdfast.store.redis import RedisStore
from holdfast.testing.conformance import *  # noqa: F403 - the suite is meant to be taken in whole
from holdfast.testing.conformance import Advance
from tests.harness.servers import Server

pytestmark = pytest.mark.redis


@pytest_asyncio.fixture
async def store(redis_server: Server) -> AsyncGenerator[RedisStore]:
    store = RedisStore.from_url(redis_server.url)
    yield store
    await store.aclose()


@pytest.fixture
def advance() -> Advance:
    return asyncio.sleep
