"""The store on a primary that Sentinel watches keeps the contract."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from holdfast.store.redis import RedisStore
from holdfast.testing.conformance import *  # noqa: F403 - the suite is meant to be taken in whole
from holdfast.testing.conformance import Advance
from tests.harness.sentinels import Sentinels

pytestmark = [pytest.mark.redis, pytest.mark.slow]


@pytest_asyncio.fixture
async def store(sentinels: Sentinels) -> AsyncGenerator[RedisStore]:
    store = RedisStore.from_url(sentinels.url)
    yield store
    await store.aclose()


@pytest.fixture
def advance() -> Advance:
    return asyncio.sleep
