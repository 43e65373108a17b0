"""The library over a real sidecar, as agents use it: names, turns, restarts, observers, threads, sizes.

The sidecar runs in the test's loop, on the in-memory store: what a store does has its own tests.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import pytest
import pytest_asyncio

import holdfast
from holdfast import sync
from holdfast.errors import (
    AmbiguousWrite,
    BudgetExceeded,
    ConfigurationError,
    LeaseLost,
    MemoryNotFound,
    RecordNotFound,
    SessionBusy,
    SessionKeyError,
    TurnInterrupted,
)
from holdfast.store.in_memory import InMemoryStore
from holdfast.telemetry import Call, Counted, Measured
from holdfast.testing.conformance.support import open_session, user
from holdfast.values import MemoryAddress
from holdfast_sidecar.app import Api
from holdfast_sidecar.limits import Limits
from holdfast_sidecar.serving import HttpServer
from tests.harness.sidecars import Sidecars, running_sidecars
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio

INTERRUPT = {"onBusy": "Interrupt"}


@pytest_asyncio.fixture
async def sidecars() -> AsyncGenerator[Sidecars]:
    async with running_sidecars(InMemoryStore(), "team-a") as sidecars:
        yield sidecars


class Recorder:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.counts: list[tuple[str, str, str]] = []
        self.levels: dict[tuple[str, str], float | None] = {}

    def begun(self, call: Call, memory: MemoryAddress, /) -> object:
        return call

    def ended(
        self, call: Call, memory: MemoryAddress, outcome: str, seconds: float, begun: object, /
    ) -> None:
        assert begun == (None if call is Call.HOLD else call)
        assert seconds >= 0
        self.calls.append((call, str(memory), outcome))

    def counted(
        self, what: Counted, memory: MemoryAddress | None, amount: int, label: str, /
    ) -> None:
        self.counts.append((what, str(memory), label))

    def measured(
        self, what: Measured, memory: MemoryAddress | None, value: float | None, label: str, /
    ) -> None:
        self.levels[what, label] = value


# --- one API


async def test_it_is_the_library_to_whoever_holds_it(sidecars: Sidecars) -> None:
    client = sidecars.connect()
    memory = client.memory("support")
    session = memory.session("a")
    async with session.turn() as turn:
        assert isinstance(client, holdfast.Client)
        assert isinstance(memory, holdfast.Memory)
        assert isinstance(session, holdfast.Session)
        assert isinstance(turn, holdfast.Turn)
        assert isinstance(session, holdfast.MessageLog)
        assert isinstance(turn, holdfast.MessageLog)
    assert isinstance(await session.health(), holdfast.Health)
    assert isinstance(await session.append(user("a")), holdfast.AppendResult)
    assert isinstance(await session.read(), holdfast.Messages)
    (record,) = (await session.read_page()).records
    assert isinstance(record, holdfast.Record)
    assert isinstance(await session.erase(), holdfast.Receipt)
    with pytest.raises(RecordNotFound, match="team-a/support") as refusal:
        await session.pin(7)
    assert (refusal.value.memory, refusal.value.session) == ("team-a/support", "a")
    with pytest.raises(ConfigurationError, match=r"ask health\(\)"):
        await session.status()


async def test_a_memory_may_be_left_out_where_there_is_one(sidecars: Sidecars) -> None:
    sidecar = sidecars.sidecar()
    client = sidecars.connect()
    with pytest.raises(MemoryNotFound, match="'support', 'sales'"):
        await client.memory().session("a").append(user("a"))
    await sidecar.stop()
    sidecar.memories = ("support",)
    sidecar.start()
    unnamed = client.memory()
    await asyncio.gather(*(unnamed.session("a").append(user("a")) for _ in range(5)))
    assert str(unnamed.address) == "sidecar/support"
    assert await client.memory("support").session("a").length() == 5
    with pytest.raises(MemoryNotFound, match="no memory 'other' is served here"):
        await client.memory("other").session("a").append(user("a"))


async def test_a_format_is_fixed_by_the_client(sidecars: Sidecars) -> None:
    client = sidecars.connect()
    odd = {"kind": "request", "parts": [{"part_kind": "user-prompt", "content": "hi"}]}
    by_shape, fixed = (client.memory("support", format=name) for name in (None, "chat"))
    await by_shape.session("a").append(odd)
    assert (await by_shape.session("a").health()).unrecognised == 0
    await fixed.session("b").append(odd)
    assert (await fixed.session("b").health()).unrecognised == 1
    with pytest.raises(ConfigurationError, match="format"):
        await client.memory("support", format="prose").session("c").append(odd)


async def test_a_session_is_named_as_its_memory_names_them(sidecars: Sidecars) -> None:
    plain = sidecars.connect().memory("support")
    with pytest.raises(SessionKeyError, match="give the session's id"):
        await plain.session(user_id="1").append(user("a"))
    templated = sidecars.connect(keyTemplate="user:{user_id}").memory("support")
    for wrong in (templated.session("user_id=1"), templated.session("user:1")):
        with pytest.raises(SessionKeyError, match="give its fields by name"):
            await wrong.append(user("a"))
    with pytest.raises(SessionKeyError, match="name the session"):
        await templated.session().append(user("a"))


async def test_it_works_over_tcp_too(sidecars: Sidecars) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sidecar = sidecars.sidecar()
    server = HttpServer(Api(sidecar.service), [listener], Limits())
    serving = asyncio.create_task(server.run_until_stopped())
    async with holdfast.connect(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
        session = open_session(client)
        async with session.turn() as turn:
            await turn.append(user("a"))
        assert await session.read() == [user("a")]
    server.stop()
    await serving


async def test_large_bodies_go_both_ways(sidecars: Sidecars) -> None:
    session = open_session(sidecars.connect(limits={"maxMessageSize": "4Mi", "maxMessages": 100}))
    messages = [user("x" * 2_000_000) for _ in range(3)]
    await session.append_many(messages)
    assert await session.read() == messages
    with pytest.raises(BudgetExceeded, match="bytes of JSON"):
        await session.append_many(messages * 2)
    lines = [line async for line in session.export()]
    copy = sidecars.connect(limits={"maxMessageSize": "4Mi", "maxMessages": 100})
    done = await copy.memory("support").session("copy").import_(lines)
    assert (done.records, done.complete) == (3, True)


async def test_an_export_may_be_left_early(sidecars: Sidecars) -> None:
    session = open_session(sidecars.connect(limits={"maxMessages": 100}))
    await session.append_many([user("x" * 10_000) for _ in range(100)])
    export: Any = session.export()
    async with contextlib.aclosing(export) as lines:
        assert "holdfast.dev/session" in await anext(lines)
    assert await session.length() == 100


async def test_lines_that_are_no_text_end_an_import_with_their_number(sidecars: Sidecars) -> None:
    session = open_session(sidecars.connect())
    await session.append(user("a"))
    lines = [line async for line in session.export()]
    other = sidecars.connect().memory("support").session("other")

    async def broken() -> AsyncIterator[str]:
        yield lines[0]
        yield '{"\ud800": 1}'

    with pytest.raises(holdfast.ImportRefused, match="line 2 is no Unicode") as refusal:
        await other.import_(broken())
    assert refusal.value.line == 2


async def test_a_refusal_is_heard_however_much_is_still_to_be_sent(sidecars: Sidecars) -> None:
    session = open_session(sidecars.connect())
    with pytest.raises(holdfast.ImportRefused, match="line 1") as refusal:
        await session.import_("no line of an export" * 50 for _ in range(50_000))
    assert refusal.value.line == 1
    assert await session.length() == 0


# --- turns


async def test_many_turns_leave_room_for_calls(sidecars: Sidecars) -> None:
    """Each has a connection of its own: those for calls are not used up by them."""
    memory = sidecars.connect().memory("support")
    async with contextlib.AsyncExitStack() as stack:
        turns = [await stack.enter_async_context(memory.session(f"{n}").turn()) for n in range(100)]
        await asyncio.gather(*(turn.append(user("a")) for turn in turns))
    assert (await memory.session("99").health()).lease is None


async def test_an_interrupted_turn_is_told_without_asking(sidecars: Sidecars) -> None:
    old, new = (open_session(sidecars.connect(locking=INTERRUPT)) for _ in range(2))
    async with old.turn() as turn, new.turn():
        async with asyncio.timeout(90):
            await turn.interrupted
        assert turn.lost
        with pytest.raises(TurnInterrupted):
            await turn.check()


async def test_who_waits_is_told_who_holds_the_turn(sidecars: Sidecars) -> None:
    mine, yours = (open_session(sidecars.connect()) for _ in range(2))
    async with mine.turn():
        with pytest.raises(SessionBusy) as refusal:
            async with yours.turn(wait="100ms"):
                pytest.fail("two held the turn")
    assert refusal.value.holder
    assert refusal.value.remaining > 0


async def test_a_closed_client_frees_its_turns(sidecars: Sidecars) -> None:
    client = sidecars.connect()
    turn = await open_session(client).turn(ttl="1h").__aenter__()
    await client.aclose()
    assert turn.lost
    async with open_session(sidecars.connect()).turn(wait="90s"):
        pass
    with pytest.raises(LeaseLost):
        await turn.append(user("late"))


async def test_a_client_that_dies_frees_its_turn(sidecars: Sidecars) -> None:
    client = sidecars.connect()
    turn: Any = await open_session(client).turn(ttl="1h").__aenter__()
    await turn._held._connection.aclose()  # as the end of its process does
    async with open_session(sidecars.connect()).turn(wait="90s"):
        pass


async def test_a_turn_is_lost_when_its_sidecar_ends(sidecars: Sidecars) -> None:
    sidecar = sidecars.sidecar()
    session = open_session(sidecars.connect())
    async with session.turn() as turn:
        await turn.append(user("before"))
        await sidecar.stop()
        async with asyncio.timeout(90):
            await turn.lost
        with pytest.raises(LeaseLost):
            await turn.append(user("late"))
        sidecar.start()
        assert await session.read() == [user("before")]
    async with session.turn(wait="90s") as turn:
        await turn.append(user("after"))


async def test_calls_bridge_a_restart(sidecars: Sidecars) -> None:
    sidecar = sidecars.sidecar()
    session = open_session(sidecars.connect())
    await asyncio.gather(*(session.append(n) for n in range(20)))
    await sidecar.stop()
    calls = [asyncio.create_task(session.append(n)) for n in range(20, 40)]
    await asyncio.sleep(0)
    sidecar.start()
    await asyncio.gather(*calls)
    assert sorted(await session.read()) == list(range(40))


async def test_a_memory_without_ids_leaves_a_repeated_write_in_doubt(sidecars: Sidecars) -> None:
    """The client cannot know that the id is worth nothing; the sidecar does."""
    session: Any = open_session(sidecars.connect(idempotency={"maxRememberedIDs": 0}))
    request = await session._at.request(
        "POST", "/messages", body=b'{"message":"a","id":"i"}', stores=True
    )
    await session._at.call(request)
    request = await session._at.request(
        "POST", "/messages", body=b'{"message":"a","id":"i"}', stores=True, repeated=True
    )
    with pytest.raises(AmbiguousWrite, match="remembers no ids"):
        await session._at.call(request)
    assert await session.length() == 1


# --- what is told


async def test_observers_hear_of_calls_and_of_nothing_that_the_sidecar_counts(
    sidecars: Sidecars,
) -> None:
    recorder = Recorder()
    client = sidecars.connect(observers=[recorder], locking=INTERRUPT)
    session = open_session(client)
    await session.append(user("a"), id="i")
    await session.append_many([user("b")])
    await session.replace([user("c")])
    await session.read()
    await session.read_page()
    await session.pin(3)
    await session.length()
    await session.token_count()
    await session.health()
    await session.flush()
    await session.summaries()
    await session.history()
    await session.explain(seq=1)
    lines = [line async for line in session.export()]
    await client.memory("support").session("b").import_(lines)
    await session.pop()
    await session.clear()
    with pytest.raises(RecordNotFound):
        await session.pin(3)
    async with session.turn() as turn:
        await turn.check()
        async with open_session(sidecars.connect(locking=INTERRUPT)).turn():
            async with asyncio.timeout(90):
                await turn.lost
    await session.erase()
    await client.memory("support").erase(labels={"a": "b"})
    heard = {call for call, _, _ in recorder.calls}
    assert set(Call) - heard == {Call.STATUS, Call.SUMMARIZE}
    assert {memory for _, memory, _ in recorder.calls} == {"sidecar/support"}
    assert ("pin", "sidecar/support", "RecordNotFound") in recorder.calls
    assert ("hold", "sidecar/support", "TurnInterrupted") in recorder.calls
    assert recorder.counts == [("turns_lost", "sidecar/support", "interrupted")]
    assert recorder.levels["breakers", "closed"] == 1


async def test_observers_hear_of_repetitions(sidecars: Sidecars) -> None:
    recorder = Recorder()
    sidecar = sidecars.sidecar()
    session = open_session(sidecars.connect(observers=[recorder]))
    await sidecar.stop()
    call = asyncio.create_task(session.append(user("a")))
    await until(lambda: bool(recorder.counts), "it is repeated")
    sidecar.start()
    await call
    assert set(recorder.counts) == {("retries", "None", "unreachable")}


# --- other threads


def _use_blocking(url: str, names: Sequence[str]) -> list[Any]:
    found: list[Any] = []
    with sync.connect(url) as client:
        for name in names:
            session = client.memory("support").session(name)
            with session.turn() as turn:
                turn.append(user(name))
                found.append(turn.read())
                assert not turn.lost
            lines = list(session.export())
            client.memory("support").session(f"{name} too").import_(lines)
            found.append(client.memory("support").session(f"{name} too").read())
        with pytest.raises(SessionKeyError):
            client.memory("support").session("")
        assert client.breakers[0].state == "closed"
    return found


async def test_the_synchronous_library_goes_the_same_way(sidecars: Sidecars) -> None:
    url = sidecars.sidecar().url
    found = await asyncio.to_thread(_use_blocking, url, ["a", "b"])
    assert found == [[user(name)] for name in "aabb"]


async def test_looking_is_no_use(sidecars: Sidecars) -> None:
    session = open_session(sidecars.connect(eviction={"policy": "LRU"}))
    await session.append_many([user("a"), user("b")])
    underneath = sidecars.underneath()
    for used, groups in ((False, set[int]()), (True, {1})):
        await session.read_page(limit=1, used=used)
        assert set((await underneath.snapshot()).accessed) == groups


async def test_a_call_that_is_cancelled_anywhere_leaves_a_client_that_works(
    sidecars: Sidecars,
) -> None:
    session = open_session(sidecars.connect())
    for steps in range(24):
        call = asyncio.create_task(session.append(user(f"{steps}"), id=f"{steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert (await session.append(user(f"{steps}"), id=f"{steps}")).length == steps + 1
    assert await session.read() == [user(f"{steps}") for steps in range(24)]
