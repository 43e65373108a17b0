"""What the tests of this folder do in processes of their own, and what both sides agree on."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import holdfast
from holdfast.errors import BudgetExceeded, LeaseLost, StoreUnavailable
from holdfast.session import Session
from tests.harness.processes import Child
from tests.harness.servers import Server

MEMORY = "support"
SHARED = "shared"
PER_TURN = 5
CALLS_IN_TEN = 3


def policy(**spec: Any) -> dict[str, Any]:
    """Return a policy with room for all that a test writes, but for the given parts."""
    ample: dict[str, Any] = {
        "model": {"tokenizer": "approximate"},
        "limits": {"maxTokens": 9_000_000, "maxMessageSize": "4Mi"},
        "retention": {"ttl": "1h"},
    }
    return ample | spec


def user(text: str) -> dict[str, Any]:
    """Return what a person says."""
    return {"role": "user", "content": text}


def key_of(namespace: str, name: str, session: str = SHARED) -> str:
    """Return a session's key in the server."""
    return f"mem:{{{namespace}/{MEMORY}/{session}}}:{name}"


@dataclass(frozen=True, slots=True)
class Recount:
    """The counters of a session as its records themselves say."""

    tokens: int
    messages: int
    pinned: int
    bytes: int


async def recount(server: Server, namespace: str, session: str = SHARED) -> Recount:
    """Count what is stored, past the library."""
    async with server.client() as raw:
        log = await raw.lrange(key_of(namespace, "log", session), 0, -1)
        pin = await raw.lrange(key_of(namespace, "pin", session), 0, -1)
    return Recount(
        tokens=sum(json.loads(record)[0] for record in log + pin),
        messages=len(log) + len(pin),
        pinned=len(pin),
        bytes=sum(map(len, log + pin)),
    )


async def counters(session: Session) -> Recount:
    """Return what the library says of the same."""
    health = await session.health()
    return Recount(health.tokens, health.messages, health.pinned, health.bytes)


def answers(session: Session) -> Callable[[], Awaitable[bool]]:
    """Return a condition for `until`: the library reaches the server, which it may not ask at once."""

    async def answers() -> bool:
        try:
            await session.length()
        except StoreUnavailable:
            return False
        return True

    return answers


async def append_alone(
    child: Child, *, url: str, namespace: str, spec: dict[str, Any], count: int
) -> list[int]:
    """Append one by one without a turn; return the sequence numbers that were acknowledged."""
    async with holdfast.connect(url, namespace=namespace, policy=spec) as client:
        session = client.memory(MEMORY).session(SHARED)
        await session.length()
        await child.barrier()
        return [
            (await session.append({"worker": child.index, "number": number})).seq
            for number in range(count)
        ]


async def append_in_turns(
    child: Child, *, url: str, namespace: str, spec: dict[str, Any], count: int
) -> list[list[int]]:
    """Append some in each of many turns; return each turn's fence, then its sequence numbers."""
    turns: list[list[int]] = []
    async with holdfast.connect(url, namespace=namespace, policy=spec) as client:
        session = client.memory(MEMORY).session(SHARED)
        await session.length()
        await child.barrier()
        for first in range(0, count, PER_TURN):
            async with session.turn(wait="120s") as turn:
                numbers = [
                    (await turn.append({"worker": child.index, "number": number})).seq
                    for number in range(first, first + PER_TURN)
                ]
                turns.append([turn.fence, *numbers])
    return turns


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of `append_many`."""

    items: Sequence[dict[str, Any]]
    pin: bool


def mixed_operations(worker: int, count: int) -> list[Operation]:
    """Return the same calls for the same worker: talk, tool calls and their results, pins, batches."""
    chance = random.Random(worker)
    open_calls: list[str] = []
    operations: list[Operation] = []
    for number in range(count):
        label = f"{worker}-{number}"
        items = [
            user(f"{label} {'x' * chance.randrange(200)}") for _ in range(chance.choice((1, 1, 3)))
        ]
        pin = False
        if open_calls and chance.random() < 0.8:
            items = [{"role": "tool", "tool_call_id": open_calls.pop(0), "content": label}]
        elif chance.random() < CALLS_IN_TEN / 10:
            ids = [f"call-{label}-{at}" for at in range(chance.choice((1, 2)))]
            function = {"name": "look_up", "arguments": "{}"}
            calls = [{"id": id_, "type": "function", "function": function} for id_ in ids]
            items = [{"role": "assistant", "content": None, "tool_calls": calls}]
            open_calls += ids
        elif number in (7, 70):
            pin = True
        elif number == 30:
            items = [{"role": "system", "content": label}]
        operations.append(Operation(items, pin))
    return operations


async def append_mixed(
    child: Child, *, url: str, namespace: str, spec: dict[str, Any], count: int
) -> list[tuple[int, int]]:
    """Do the worker's mixed operations; return seq and number of each that was acknowledged."""
    acknowledged: list[tuple[int, int]] = []
    async with holdfast.connect(url, namespace=namespace, policy=spec) as client:
        session = client.memory(MEMORY).session(SHARED)
        await session.length()
        await child.barrier()
        for number, operation in enumerate(mixed_operations(child.index, count)):
            try:
                done = await session.append_many(operation.items, pin=operation.pin)
            except BudgetExceeded:
                continue
            acknowledged.append((done.seq, number))
    return acknowledged


async def write_first(
    child: Child, *, url: str, namespace: str, spec: dict[str, Any], rounds: int
) -> list[int]:
    """Be one of the first to write to a session nobody wrote to, again and again."""
    async with holdfast.connect(url, namespace=namespace, policy=spec) as client:
        memory = client.memory(MEMORY)
        seqs: list[int] = []
        for round_ in range(rounds):
            session = memory.session(f"new-{round_}")
            await child.barrier()
            seqs.append((await session.append(user(f"from {child.index}"))).seq)
        return seqs


async def wait_in_line(child: Child, *, url: str, namespace: str, spec: dict[str, Any]) -> None:
    """Line up for the turn with each number that comes, and write the number when it is there."""
    async with holdfast.connect(url, namespace=namespace, policy=spec) as client:
        session = client.memory(MEMORY).session(SHARED)

        async def take_turn(number: int) -> None:
            async with session.turn(wait="120s") as turn:
                await turn.append({"number": number, "fence": turn.fence})

        async with asyncio.TaskGroup() as waiting:
            while (number := await child.receive()) is not None:
                waiting.create_task(take_turn(number))


async def hold_and_write(
    child: Child, *, url: str, namespace: str, spec: dict[str, Any], session_id: str
) -> str:
    """Hold a turn with the shortest lease, and write once more when told; say what became of it."""
    async with holdfast.connect(url, namespace=namespace, policy=spec) as client:
        session = client.memory(MEMORY).session(session_id)
        async with session.turn(wait="60s", ttl="3s") as turn:
            await turn.append(user("before"))
            child.report("holding")
            await child.receive()
            try:
                await turn.append(user("too late"))
            except LeaseLost:
                return "LeaseLost"
        return "written"
