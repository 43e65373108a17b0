"""The in-memory store keeps the contract."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio

from holdfast.store.in_memory import InMemoryStore
from holdfast.testing.conformance import *  # noqa: F403 - the suite is meant to be taken in whole
from holdfast.testing.conformance import Advance


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000_000_000

    def __call__(self) -> int:
        """Return microseconds since 1970."""
        return self.now


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest_asyncio.fixture
async def store(clock: ManualClock) -> AsyncGenerator[InMemoryStore]:
    store = InMemoryStore(clock=clock)
    yield store
    await store.aclose()


@pytest.fixture
def advance(clock: ManualClock) -> Advance:
    async def advance(seconds: float) -> None:
        clock.now += round(seconds * 1_000_000)
        await asyncio.sleep(0)

    return advance
