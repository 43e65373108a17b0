"""A copy by export and import is the same session: whatever happened before, and whatever happens then."""

import itertools
import json
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast import connect
from holdfast.client import Client
from holdfast.errors import HoldfastError
from holdfast.session import Session
from tests.harness.servers import Server

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

NAMES = ["x", "x#0", "x#1", "y", "y#0", "z", None]
POLICY: dict[str, Any] = {
    "limits": {"maxMessages": 6},
    "retention": {"ttl": "1h"},
    "model": {"tokenizer": "approximate"},
    "idempotency": {"maxRememberedIDs": 4},
}

names = st.sampled_from(NAMES)
texts = st.sampled_from(["a", "b", "c"])
roles = st.sampled_from(["user", "assistant"])
messages = st.lists(st.tuples(roles, texts), min_size=1, max_size=3)
acts = (
    st.tuples(st.just("append"), names, messages)
    | st.tuples(st.just("replace"), names, messages)
    | st.tuples(st.sampled_from(["pop", "clear", "flush", "pin"]), st.none(), st.just([]))
)
Act = tuple[str, str | None, list[tuple[str, str]]]


async def perform(session: Session, act: Act) -> Any:
    """Carry it out; return what was answered, but for times and the epoch."""
    kind, name, said = act
    items = [{"role": role, "content": text} for role, text in said]
    try:
        match kind:
            case "append":
                done = await session.append_many(items, id=name)
                return done.seq, done.duplicate, done.evicted
            case "replace":
                done = await session.replace(items, id=name)
                return done.seq, done.duplicate
            case "pop":
                return await session.pop()
            case "clear":
                return await session.clear()
            case "flush":
                return (await session.flush("FIFO")).dropped
            case _:
                return await session.pin(1 + await session.length())
    except HoldfastError as error:
        return error.code


async def told(session: Session) -> tuple[list[Any], list[str], Any]:
    """Return all that a session tells of itself, but for times."""
    lines = [json.loads(line) async for line in session.export()]
    for each in itertools.chain(lines[1:], lines[0]["history"]):
        each.pop("ts" if "ts" in each else "at")
    explained = [
        (await session.explain(seq=seq)).partition(" on 20")[0]
        for seq in range(lines[0]["lastSeq"] + 2)
    ]
    health = await session.health()
    return lines, explained, (health.dropped, health.messages, health.tokens, health.pinned)


async def live(client: Client, before: list[Act], after: list[Act]) -> None:
    """Let a session live, copy it, and let both go on."""
    memory = client.memory("support")
    session, copy = memory.session(uuid.uuid4().hex), memory.session(uuid.uuid4().hex)
    for act in before:
        await perform(session, act)
    lines = [line async for line in session.export()]
    assert (await copy.import_(lines)).complete
    assert [line async for line in copy.export()] == lines
    assert (await copy.import_(lines)).complete
    assert [line async for line in copy.export()] == lines
    assert await told(copy) == await told(session)
    for act in after:
        assert await perform(copy, act) == await perform(session, act), act
    assert await told(copy) == await told(session)


@settings(
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(before=st.lists(acts, max_size=14), after=st.lists(acts, max_size=8))
async def test_a_copy_goes_on_as_the_original(
    valkey_server: Server, before: list[Act], after: list[Act]
) -> None:
    for address in ("memory://", valkey_server.url):
        async with connect(
            address, namespace=f"t-{uuid.uuid4().hex[:12]}", policy=POLICY
        ) as client:
            await live(client, before, after)
