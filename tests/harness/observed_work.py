"""Work that makes every observer hear everything, with words in it that none of them may repeat."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.errors import (
    BudgetTooSmall,
    HoldfastError,
    IdempotencyConflict,
    LeaseLost,
    MessageTooLarge,
    RecordNotFound,
    SessionBusy,
    TurnInterrupted,
)
from holdfast.policy import load_policy
from holdfast.session import Session
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.redis.carrier import Carrier, Command
from holdfast.telemetry import Observer
from holdfast.turn import Turn
from holdfast.values import MemoryAddress, PolicyDocument, Privacy

NAMESPACE, NAME = "team-a", "support"
MEMORY = MemoryAddress(NAMESPACE, NAME)
MARKERS = ("s-person-42", "text-of-a-person", "id-of-a-caller", "tool-of-a-person", "4111-1111")
"""A session's id, content, a caller's id, a tool's name, and what is redacted."""
SESSION, TEXT, ID, TOOL, CARD = MARKERS
SPEC: dict[str, Any] = {
    "model": {"tokenizer": "approximate"},
    "limits": {"maxMessages": 6},
    "retention": {"ttl": "1h"},
    "privacy": {"redactPatterns": [r"\d{4}-\d{4}"]},
}


def user(text: str = TEXT) -> dict[str, Any]:
    """A message of a person."""
    return {"role": "user", "content": text}


@asynccontextmanager
async def client_of(*observers: Observer, **spec: Any) -> AsyncGenerator[Client]:
    """A client over a store in this process, under an operator's policy of revision 7."""
    store = InMemoryStore()
    document = load_policy(SPEC | spec)[1].document()
    store.put_policy(MEMORY, PolicyDocument(7, active=True, document=document.encode()))
    store.put_usage(MEMORY, sessions=1, messages=2, tokens=30, bytes=400)
    async with Client(store, namespace=NAMESPACE, observers=observers) as client:
        yield client


async def call_everything(session: Session) -> None:
    """Make every call once that succeeds; some are made by others in turn."""
    await session.append(user(), id=ID)
    await session.append_many([user(), user()])
    await session.append_many([])
    await session.read()
    await session.read_page()
    await session.pin(1)
    await session.length()
    await session.token_count()
    await session.status()
    await session.health()
    await session.summaries()
    await session.history()
    await session.explain(seq=1)
    await session.flush()
    await session.pop()
    async with session.turn() as turn:
        await turn.check()
    await session.clear()


async def fail(kind: type[Exception], call: Awaitable[object]) -> None:
    """Make a call that fails."""
    with pytest.raises(kind):
        await call


async def fail_in_every_way(session: Session) -> None:
    """Make calls that fail, each with another outcome."""
    call = {"id": "c", "type": "function", "function": {"name": TOOL, "arguments": "{}"}}
    await session.append({"role": "assistant", "content": None, "tool_calls": [call]}, id=f"{ID}-2")
    await fail(IdempotencyConflict, session.append(user("other"), id=f"{ID}-2"))
    await fail(RecordNotFound, session.pin(999))
    await session.append(user("word " * 50), pin=True)
    await fail(BudgetTooSmall, session.read(max_tokens=1))
    await fail(MessageTooLarge, session.append(user("x" * 300_000)))
    async with session.turn():
        await fail(SessionBusy, enter(session.turn(wait=timedelta(0))))
    await fail(LeaseLost, lose(session))
    waiting = asyncio.ensure_future(enter(session.turn(wait="30s")))
    async with session.turn():
        await asyncio.sleep(0)
        waiting.cancel()
        await fail(asyncio.CancelledError, waiting)  # pyright: ignore[reportArgumentType]


async def enter(turn: Turn) -> None:
    """Wait for a turn and leave it."""
    async with turn:
        pass


async def lose(session: Session) -> None:
    """Write in a turn that is over."""
    async with session.turn() as turn:
        await session.clear()
        await turn.append(user())


async def store_what_is_screened(session: Session) -> None:
    """Append what is replaced, withheld, unknown, evicted and a duplicate."""
    await session.append(user(f"pay with {CARD}"), id=f"{ID}-3")
    await session.append(user(f"pay with {CARD}"), id=f"{ID}-3")
    await session.append(user(), privacy=Privacy(persist=False))
    await session.append({"what": TEXT})
    for _ in range(6):
        await session.append(user())


async def interrupt(client: Client, then: Callable[[Turn], Awaitable[object]]) -> None:
    """Let a second turn take a first one, which then does something."""
    session = client.memory(NAME).session(SESSION)
    with pytest.raises(TurnInterrupted):
        async with session.turn() as turn, client.memory(NAME).session(SESSION).turn():
            await then(turn)


class Hand:
    """A carrier whose first exchanges fail as it is told."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Any]:
        if commands[0][0] != b"SCRIPT" and self.faults:
            fault = self.faults.pop(0)
            if isinstance(fault, HoldfastError):
                raise fault
            return [fault]
        return [b"fine" for _ in commands]

    async def block(self, command: Command, seconds: float) -> None:
        raise AssertionError

    async def nodes(self) -> Sequence[Carrier]:
        return [self]

    async def primaries(self) -> Sequence[Carrier]:
        return [self]

    async def aclose(self) -> None:
        pass
