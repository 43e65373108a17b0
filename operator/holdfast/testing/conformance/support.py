"""What the tests of this package share: inputs with exact numbers, and the fixtures of each level."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import msgspec
import pytest

from holdfast.client import Client
from holdfast.keys import session_key
from holdfast.messages import id_key
from holdfast.session import Session
from holdfast.store import MemoryStore, SessionStore, lease_token
from holdfast.values import (
    Batch,
    Caller,
    Granted,
    MemoryAddress,
    Prepared,
    Queued,
    Refresh,
    Status,
    Stored,
    Terms,
)

Advance = Callable[[float], Awaitable[None]]

LONG = 3_600_000
"""Milliseconds that no test lives to see."""

FREE = Caller()
"""Somebody who writes without a turn and knows nothing of the session."""


class Connect(Protocol):
    """Make a client of the store under test, with the given parts of a policy."""

    def __call__(self, **spec: Any) -> Client:
        """Return a new client in the test's own namespace."""
        ...


class Snapshot(NamedTuple):
    """All that a refused call must leave as it was."""

    status: Status
    records: Sequence[Stored]


def terms(**changes: Any) -> Terms:
    """Return terms without limits and with long times, but for the changes."""
    ample = Terms(
        revision=0,
        max_tokens=0,
        max_messages=0,
        refuse=False,
        ttl=LONG,
        after_clear=0,
        after_flush=0,
        max_lifetime=0,
        refresh=Refresh.WRITE,
        lease=60_000,
        grant=10_000,
        enforced=False,
        max_ids=256,
    )
    return replace(ample, **changes)


def digest(text: str) -> str:
    """Return the digest of a tool call's id."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def prepared(
    item: Any = "hello",
    tokens: int = 1,
    flags: int = 0,
    *,
    group: int = 0,
    opens: Iterable[str] = (),
    closes: Iterable[str] = (),
    id: str | None = None,
) -> Prepared:
    """Return a message as the library hands it to a store; the calls are named by any text."""
    return Prepared(
        body=msgspec.json.encode(item),
        tokens=tokens,
        flags=flags,
        group=group,
        opens=tuple(map(digest, opens)),
        closes=tuple(
            "?" + digest(call[1:]) if call.startswith("?") else digest(call) for call in closes
        ),
        id=id,
    )


def batch(*records: Prepared) -> Batch:
    """Return a batch without an id."""
    return Batch(records)


def identified(name: str, *records: Prepared) -> Batch:
    """Return a batch under an id; the same records give the same digest."""
    bodies = b"\n".join(record.body for record in records)
    return Batch(records, key=id_key(name), digest=int(digest(bodies.decode())[:5], 16))


def new_token(wait: int = LONG) -> str:
    """Return a token that nobody else has; it waits in line for so many milliseconds."""
    return lease_token(wait)


def held(token: str, granted: Granted) -> Caller:
    """Return the caller who was granted the turn."""
    return Caller(token, granted.epoch, granted.seen)


async def write(handle: SessionStore, *records: Prepared, terms_: Terms | None = None) -> list[int]:
    """Append each record on its own, without limits unless given, and return their numbers."""
    agreed = terms_ or terms()
    return [(await handle.append(agreed, batch(record), FREE)).seq for record in records]


async def take(handle: SessionStore, agreed: Terms, token: str) -> Granted:
    """Take the turn, which must be free or ours."""
    answer = await handle.acquire(agreed, token, f"holder {token}")
    assert isinstance(answer, Granted), f"the turn was not granted: {answer}"
    return answer


async def stand_in_line(handle: SessionStore, agreed: Terms, token: str) -> Queued:
    """Take a place in line, or ask again; the turn must be somebody else's."""
    answer = await handle.acquire(agreed, token, f"holder {token}")
    assert isinstance(answer, Queued), f"the turn should have been somebody else's: {answer}"
    return answer


async def stored(handle: SessionStore) -> Sequence[Stored]:
    """Return all records without renewing anything."""
    return (await handle.everything(terms(refresh=Refresh(0)))).records


async def newest(handle: SessionStore) -> Stored | None:
    """Return the record that was appended last."""
    return next(iter(await handle.newest(terms(refresh=Refresh(0)), 1)), None)


async def items(handle: SessionStore) -> list[Any]:
    """Return all items, oldest first, without renewing anything."""
    return [record.item for record in await stored(handle)]


async def snapshot(handle: SessionStore, agreed: Terms) -> Snapshot:
    """Return the session's state under terms at least as new as it has seen."""
    window = await handle.everything(replace(agreed, refresh=Refresh(0)))
    return Snapshot(window.status._replace(lease=None), list(window.records))


@asynccontextmanager
async def unchanged(handle: SessionStore, agreed: Terms) -> AsyncGenerator[None]:
    """Check that what is done inside leaves no trace in the session."""
    before = await snapshot(handle, agreed)
    yield
    assert await snapshot(handle, agreed) == before


class StoreContract:
    """Fixtures of the tests that speak to a store directly."""

    @pytest.fixture
    def memory(self, namespace: str) -> MemoryAddress:
        """Return a memory of the test's own."""
        return MemoryAddress(namespace, "support")

    @pytest.fixture
    def handle(self, store: MemoryStore, memory: MemoryAddress) -> SessionStore:
        """Return a session that was never written."""
        return store.session(memory, "any")

    @pytest.fixture
    def other(self, store: MemoryStore, memory: MemoryAddress) -> SessionStore:
        """Return a second handle on the same session."""
        return store.session(memory, "any")


class SessionContract:
    """Fixtures of the tests that use the library as an agent does."""

    @pytest.fixture
    def connect(self, store: MemoryStore, namespace: str) -> Connect:
        """Return a maker of clients on the store under test."""

        def make(**spec: Any) -> Client:
            return Client(store, namespace=namespace, policy=policy(**spec))

        return make

    @pytest.fixture
    def session(self, connect: Connect) -> Session:
        """Return a session that was never written, with room for all a test writes."""
        return open_session(connect())

    @pytest.fixture
    def underneath(self, store: MemoryStore, namespace: str) -> SessionStore:
        """Return the store's own handle on the session of `open_session`."""
        return store.session(MemoryAddress(namespace, "support"), session_key("any id"))


def policy(**spec: Any) -> dict[str, Any]:
    """Return a policy with room for all a test writes, but for the given parts."""
    ample: dict[str, Any] = {
        "model": {"tokenizer": "approximate"},
        "limits": {"maxTokens": 100_000},
        "retention": {"ttl": "1h"},
    }
    return ample | spec


def open_session(client: Client) -> Session:
    """Return the session that all tests of this level use unless they say otherwise."""
    return client.memory("support").session("any id")


def user(text: str) -> dict[str, Any]:
    """Return what a person says."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    """Return what the model answers."""
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, Any]:
    """Return what the model is told."""
    return {"role": "system", "content": text}


def call(*ids: str) -> dict[str, Any]:
    """Return a message of the model that calls a tool once for each id."""
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": id_, "type": "function", "function": function} for id_ in ids],
    }


def result(id_: str, content: str = "rain") -> dict[str, Any]:
    """Return the result of a tool call."""
    return {"role": "tool", "tool_call_id": id_, "content": content}


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds; fail after a time that only a hang needs."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - a server is asked, which has no event
            await asyncio.sleep(0.005)
