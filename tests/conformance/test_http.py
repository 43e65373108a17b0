"""The library over a sidecar keeps the contract of the library: one API, whatever lies between.

Each client under test speaks HTTP over a Unix socket with the real server, which runs in the test's own
loop: so both stores can be looked at from the other side. What the suite's tests do to a client's own parts,
which are the sidecar's here, is done to the sidecar: its policy and its summariser.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from holdfast.session import Session
from holdfast.store import MemoryStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.redis import RedisStore
from holdfast.testing import conformance
from holdfast.testing.conformance import Advance
from holdfast.testing.conformance.support import Connect, SessionContract, open_session
from holdfast.testing.conformance.upkeep import Open
from tests.harness.sidecars import Sidecars, running_sidecars


@pytest.fixture(params=["in-memory", pytest.param("valkey", marks=pytest.mark.redis)])
def kind(request: pytest.FixtureRequest) -> str:
    """Which store the sidecars use."""
    return request.param


@pytest_asyncio.fixture
async def store(kind: str, request: pytest.FixtureRequest) -> AsyncGenerator[MemoryStore]:
    if kind == "valkey":
        server = request.getfixturevalue("valkey_server")
        store: MemoryStore = RedisStore.from_url(server.url)
    else:
        store = InMemoryStore()
    yield store
    await store.aclose()


@pytest.fixture
def advance() -> Advance:
    """Let time pass: the server's own timers are real."""
    return asyncio.sleep


class OverHTTP:
    """Takes the place of the suite's clients."""

    @pytest_asyncio.fixture
    async def sidecars(self, store: MemoryStore, namespace: str) -> AsyncGenerator[Sidecars]:
        async with running_sidecars(store, namespace) as sidecars:
            yield sidecars

    @pytest.fixture
    def connect(self, sidecars: Sidecars) -> Connect:
        return sidecars.connect

    @pytest.fixture
    def opened(self, sidecars: Sidecars) -> Open:
        def make(author: Any = None, **spec: Any) -> Session:
            return open_session(sidecars.connect(author, **spec))

        return make


class OneStore(OverHTTP):
    """The same over one store."""

    @pytest.fixture
    def kind(self) -> str:
        return "in-memory"


LEFT_OUT: dict[str, dict[str, str]] = {
    "TestSummaries": {
        "test_closing_waits_for_one_that_is_being_written": "closes the library's own client",
        "test_one_that_is_cancelled_changes_nothing": "a sidecar ends what it began",
    },
    "TestTransfer": {
        "test_a_change_between_the_parts_ends_it": (
            "acts between two parts of an import: lines that were sent need not have been taken in yet"
        ),
    },
}
"""Tests by name that this binding cannot run, and why."""


ONE_STORE = ("TestExplain", "TestFlush", "TestSummaries")
"""Suites of what the sidecar does by itself, which takes long: over one store."""


def _bound() -> dict[str, type]:
    """Bind whatever the suite has that is on clients made by `connect` or `opened`."""
    found: dict[str, type] = {}
    for name in conformance.__all__:
        suite = getattr(conformance, name)
        if not (isinstance(suite, type) and issubclass(suite, SessionContract)):
            continue
        left_out = LEFT_OUT.get(name, {})
        assert all(hasattr(suite, test) for test in left_out), "the suite no longer has it"
        binding = OneStore if name in ONE_STORE else OverHTTP
        found[name] = type(name, (binding, suite), dict.fromkeys(left_out))
    return found


globals().update(_bound())


def test_the_suite_is_bound() -> None:
    assert {"TestMessages", "TestTurnCancelled", "TestFlush", "TestErase"} <= globals().keys()
    assert "TestAppend" not in globals(), "it speaks to a store"
