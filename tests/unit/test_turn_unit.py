"""A turn's own clockwork: entering, renewing, losing and leaving it, also while the store is in trouble."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from holdfast.client import Client
from holdfast.errors import (
    AcknowledgedLost,
    ConfigurationError,
    HoldfastError,
    LeaseLost,
    MessageInvalid,
    PolicyNotFound,
    RecordNotFound,
    SessionBusy,
    StoreUnavailable,
)
from holdfast.policies import terms_of
from holdfast.policy import load_policy
from holdfast.session import Session
from holdfast.store import SessionStore, SessionVanished
from holdfast.store.in_memory import InMemoryStore
from holdfast.turn import Signal, Turn
from holdfast.values import (
    Appended,
    Archive,
    Batch,
    Caller,
    Changed,
    Departed,
    Granted,
    MemoryAddress,
    PolicyDocument,
    Queued,
    Section,
    Status,
    Stored,
    Terms,
    Window,
)
from tests.harness.waiting import until

SUPPORT = MemoryAddress("local", "support")
AT_ONCE = timedelta(0)
SHORTEST = "3s"
LOST_AFTER = 2.7
"""Seconds: nine tenths of the shortest lease."""
SPEC: dict[str, Any] = {
    "model": {"tokenizer": "approximate"},
    "limits": {"maxTokens": 100_000},
    "retention": {"ttl": "1h"},
}


class Faults:
    """What goes wrong in the store, by the name of the call.

    Attributes:
        errors: raised instead of carrying the call out, as often as given; one alone for ever.
        before: the call waits for it before it is carried out.
        after: the call waits for it after it was carried out: a late reply.
        calls: every call that came in.
        leases: the TTL of each acquire and renewal.
        stopped: the process stood still, so that it hears of a grant when that is about to end.
        sent: the acquires that are under way or over.
    """

    def __init__(self) -> None:
        self.errors: dict[str, HoldfastError | list[HoldfastError]] = {}
        self.before: dict[str, asyncio.Event] = {}
        self.after: dict[str, asyncio.Event] = {}
        self.calls: list[str] = []
        self.leases: list[int] = []
        self.stopped = False
        self.sent: list[asyncio.Task[Granted | Queued]] = []

    def count(self, name: str) -> int:
        return self.calls.count(name)

    async def enter(self, name: str) -> None:
        self.calls.append(name)
        if name in self.before:
            await self.before[name].wait()
        planned = self.errors.get(name)
        if isinstance(planned, list):
            if planned:
                raise planned.pop(0)
        elif planned is not None:
            raise planned

    async def leave(self, name: str) -> None:
        if name in self.after:
            await self.after[name].wait()


class FaultySession:
    """A session of another store, with faults in front of it."""

    def __init__(self, inner: SessionStore, faults: Faults) -> None:
        self.inner = inner
        self.faults = faults

    async def append(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        await self.faults.enter("append")
        return await self.inner.append(terms, batch, caller)

    async def newest(self, terms: Terms, count: int) -> Sequence[Stored]:
        await self.faults.enter("newest")
        return await self.inner.newest(terms, count)

    async def pop(
        self,
        terms: Terms,
        caller: Caller,
        *,
        expected: int,
        opens: Collection[str],
        closes: Collection[str],
    ) -> Changed:
        await self.faults.enter("pop")
        return await self.inner.pop(terms, caller, expected=expected, opens=opens, closes=closes)

    async def clear(self, terms: Terms, caller: Caller, *, force: bool) -> Changed:
        await self.faults.enter("clear")
        done = await self.inner.clear(terms, caller, force=force)
        await self.faults.leave("clear")
        return done

    async def pin(self, terms: Terms, caller: Caller, *, seq: int, pinned: bool) -> Changed:
        await self.faults.enter("pin")
        return await self.inner.pin(terms, caller, seq=seq, pinned=pinned)

    async def departed(self) -> tuple[Departed, ...]:
        await self.faults.enter("departed")
        return await self.inner.departed()

    async def everything(self, terms: Terms) -> Window:
        await self.faults.enter("everything")
        return await self.inner.everything(terms)

    async def archive(self, terms: Terms) -> Archive:
        await self.faults.enter("archive")
        return await self.inner.archive(terms)

    async def tail(self, terms: Terms, *, tokens: int) -> Window:
        await self.faults.enter("tail")
        return await self.inner.tail(terms, tokens=tokens)

    async def page(self, terms: Terms, *, after: int, limit: int) -> Section:
        await self.faults.enter("page")
        return await self.inner.page(terms, after=after, limit=limit)

    async def status(self) -> Status:
        await self.faults.enter("status")
        return await self.inner.status()

    async def acquire(
        self, terms: Terms, token: str, holder: str, *, interrupt: bool = False
    ) -> Granted | Queued:
        async def ask() -> Granted | Queued:
            await self.faults.enter("acquire")
            self.faults.leases.append(terms.lease)
            answer = await self.inner.acquire(terms, token, holder, interrupt=interrupt)
            await self.faults.leave("acquire")
            return answer

        # What was sent is carried out, whether or not anybody waits for the answer.
        sent = asyncio.create_task(ask())
        self.faults.sent.append(sent)
        return await asyncio.shield(sent)

    async def sleep(self, token: str, seconds: float) -> Granted | None:
        await self.faults.enter("sleep")
        granted = await self.inner.sleep(token, seconds)
        if granted is not None and self.faults.stopped:
            return granted._replace(until=time.monotonic())
        return granted

    async def renew(self, terms: Terms, token: str, epoch: int, holder: str = "") -> int:
        await self.faults.enter("renew")
        self.faults.leases.append(terms.lease)
        revision = await self.inner.renew(terms, token, epoch, holder)
        await self.faults.leave("renew")
        return revision

    async def release(self, terms: Terms, token: str, *, doubt: bool = False) -> None:
        await self.faults.enter("release")
        await self.inner.release(terms, token, doubt=doubt)


class FaultyStore:
    """The in-memory store, with faults in front of its sessions."""

    def __init__(self) -> None:
        self.inner = InMemoryStore()
        self.faults = Faults()

    def put(self, revision: int, *, active: bool = True, **spec: Any) -> None:
        document = load_policy(SPEC | spec)[1].document().encode()
        self.inner.put_policy(SUPPORT, PolicyDocument(revision, active, document))

    def session(self, memory: MemoryAddress, key: str) -> SessionStore:
        return FaultySession(self.inner.session(memory, key), self.faults)

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        return await self.inner.policy(memory)

    async def aclose(self) -> None:
        await self.inner.aclose()


@pytest.fixture
def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
def faults(store: FaultyStore) -> Faults:
    return store.faults


@pytest_asyncio.fixture
async def client(store: FaultyStore) -> AsyncGenerator[Client]:
    async with Client(store, policy=SPEC) as client:
        yield client


@pytest.fixture
def session(client: Client) -> Session:
    return client.memory("support").session("any")


@pytest.fixture
def inner(store: FaultyStore) -> SessionStore:
    """The session as it is, without the faults."""
    return store.inner.session(SUPPORT, "any")


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def seize(inner: SessionStore) -> None:
    """End the turn that is held, as if its lease had run out."""
    status = await inner.status()
    assert status.lease is not None
    await inner.release(terms_of(load_policy(SPEC)[1], 0), status.lease_token)


async def is_free(inner: SessionStore) -> bool:
    status = await inner.status()
    return status.lease is None and status.waiting == 0


class BodyError(Exception):
    """What the body of a turn raises."""


# --- what may be asked for


@pytest.mark.parametrize(
    "ttl",
    [
        *("2999ms", "1ms", "2s", timedelta(seconds=2.999), timedelta(0)),
        *("3600001ms", "3601s", "1000d", timedelta(hours=1, milliseconds=1), timedelta.max),
    ],
)
def test_a_turn_is_reserved_for_three_seconds_to_an_hour(
    session: Session, ttl: str | timedelta
) -> None:
    """As the policy's own: beyond that, a session of a process that died would never expire."""
    with pytest.raises(ConfigurationError, match="a turn's ttl is at least 3s and at most 1h"):
        session.turn(ttl=ttl)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("ttl", "lease"),
    [
        (None, 30_000),
        ("3s", 3_000),
        ("3000ms", 3_000),
        (timedelta(seconds=3), 3_000),
        ("2m", 120_000),
        (timedelta(minutes=1, milliseconds=1), 60_001),
        ("1h", 3_600_000),
    ],
)
async def test_the_ttl_of_a_turn(
    session: Session, inner: SessionStore, ttl: str | timedelta | None, lease: int
) -> None:
    async with session.turn(ttl=ttl) as turn:
        await turn.check()
        found = (await inner.status()).lease
        assert found is not None
        assert lease - 2_000 < found.remaining * 1000 <= lease


@pytest.mark.parametrize("name", ["wait", "ttl"])
@pytest.mark.parametrize("value", ["", "soon", "30", "1.5s", "-5s", "0s", " 5s", "5S", "5s\n"])
def test_what_is_no_duration(session: Session, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is no duration: a duration should match"):
        session.turn(**{name: value})


def test_what_no_turn_can_do(session: Session) -> None:
    with pytest.raises(ConfigurationError, match="waited for at most 24h"):
        session.turn(wait=timedelta(hours=24, milliseconds=1))
    session.turn(wait="24h")
    with pytest.raises(ConfigurationError, match="on_interrupt is 'cancel' or None"):
        session.turn(on_interrupt="stop")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["wait", "ttl"])
def test_a_duration_is_not_negative_and_no_bare_number(session: Session, name: str) -> None:
    negative: dict[str, Any] = {name: timedelta(microseconds=-1)}
    number: dict[str, Any] = {name: 30}
    with pytest.raises(ConfigurationError, match="not negative"):
        session.turn(**negative)
    with pytest.raises(TypeError, match="a bare number has no unit"):
        session.turn(**number)


@pytest.mark.asyncio
@pytest.mark.parametrize("wait", [AT_ONCE, timedelta(microseconds=999)])
async def test_who_does_not_wait_never_stands_in_line(
    session: Session, faults: Faults, wait: timedelta
) -> None:
    async with session.turn():
        with pytest.raises(SessionBusy) as refusal:
            async with session.turn(wait=wait):
                pytest.fail("two held the turn")
        assert faults.count("sleep") == 0
    assert refusal.value.place == 0
    assert (refusal.value.memory, refusal.value.session) == ("local/support", "any")


@pytest.mark.asyncio
@pytest.mark.parametrize("wait", ["150ms", timedelta(milliseconds=150)])
async def test_who_waits_stands_in_line_so_long(
    session: Session, faults: Faults, wait: str | timedelta
) -> None:
    async with session.turn():
        began = time.monotonic()
        with pytest.raises(SessionBusy):
            async with session.turn(wait=wait):
                pytest.fail("two held the turn")
        assert 0.14 <= time.monotonic() - began < 20
        assert faults.count("sleep") >= 1


@pytest.mark.asyncio
async def test_a_policy_says_how_long_to_wait(store: FaultyStore, faults: Faults) -> None:
    async with Client(store, policy=SPEC | {"locking": {"waitTimeout": "120ms"}}) as client:
        session = client.memory("support").session("any")
        async with session.turn():
            with pytest.raises(SessionBusy):
                async with session.turn():
                    pytest.fail("two held the turn")
        assert faults.count("sleep") >= 1


@pytest.mark.asyncio
async def test_who_waits_in_spite_of_a_policy_that_rejects(
    store: FaultyStore, faults: Faults
) -> None:
    async with Client(store, policy=SPEC | {"locking": {"onBusy": "Reject"}}) as client:
        session = client.memory("support").session("any")
        async with session.turn():
            with pytest.raises(SessionBusy):
                async with session.turn():
                    pytest.fail("two held the turn")
            assert faults.count("sleep") == 0
            with pytest.raises(SessionBusy):
                async with session.turn(wait="100ms"):
                    pytest.fail("two held the turn")
            assert faults.count("sleep") >= 1


@pytest.mark.asyncio
async def test_the_holder_is_this_process(session: Session) -> None:
    async with session.turn():
        with pytest.raises(SessionBusy) as refusal:
            async with session.turn(wait=AT_ONCE):
                pytest.fail("two held the turn")
    assert refusal.value.holder == f"{socket.gethostname()}:{os.getpid()}"[-60:]
    assert 0 < refusal.value.remaining <= 30


@pytest.mark.asyncio
async def test_a_long_host_name_keeps_its_end(
    store: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "a" * 100 + "-pod")
    async with Client(store, policy=SPEC) as client:
        session = client.memory("support").session("any")
        async with session.turn():
            lease = (await session.health()).lease
    assert lease is not None
    assert lease.holder is not None
    assert len(lease.holder) == 60
    assert lease.holder.endswith(f"-pod:{os.getpid()}")


# --- entering


@pytest.mark.asyncio
async def test_a_turn_is_entered_once(session: Session, inner: SessionStore) -> None:
    turn = session.turn()
    async with turn:
        with pytest.raises(RuntimeError, match="entered once"):
            await turn.__aenter__()
        await turn.append(user("still mine"))
    with pytest.raises(RuntimeError, match="entered once"):
        async with turn:
            pytest.fail("it was used before")
    assert await is_free(inner)


@pytest.mark.asyncio
async def test_a_turn_that_was_not_entered_does_nothing(session: Session, faults: Faults) -> None:
    turn = session.turn()
    with pytest.raises(LeaseLost):
        await turn.append(user("too early"))
    assert faults.count("append") == 0
    assert turn.fence == 0


@pytest.mark.asyncio
async def test_without_a_policy_there_is_no_turn(store: FaultyStore, faults: Faults) -> None:
    async with Client(store) as client:
        turn = client.memory("support").session("any").turn()
        with pytest.raises(PolicyNotFound):
            async with turn:
                pytest.fail("there is no policy")
        assert faults.calls == []
        store.put(1)
        async with turn:
            await turn.append(user("now there is"))


@pytest.mark.asyncio
@pytest.mark.parametrize("release_works", [True, False])
async def test_a_store_that_cannot_be_asked_leaves_no_turn(
    session: Session, faults: Faults, inner: SessionStore, release_works: bool
) -> None:
    faults.errors["acquire"] = StoreUnavailable("gone")
    if not release_works:
        faults.errors["release"] = StoreUnavailable("gone too")
    with pytest.raises(StoreUnavailable, match=r"^gone \(memory 'local/support', session 'any'\)$"):
        async with session.turn():
            pytest.fail("nobody granted it")
    assert faults.count("release") == 1, "it may have been granted all the same"
    assert await is_free(inner)


@pytest.mark.asyncio
async def test_a_turn_under_a_newer_policy_catches_up(
    store: FaultyStore, session: Session, inner: SessionStore
) -> None:
    await session.append(user("hi"))
    store.put(5, locking={"leaseTTL": "50s"})
    document = await store.policy(SUPPORT)
    assert document is not None
    async with Client(store) as other:
        await other.memory("support").session("any").append(user("newer"))
    async with session.turn() as turn:
        await turn.append(user("under the newer one"))
        lease = (await inner.status()).lease
        assert lease is not None
        assert lease.remaining > 40
    assert (await session.health()).revision == 5


# --- cancelled while entering


@pytest.mark.asyncio
@pytest.mark.parametrize("late", ["before", "after"])
async def test_a_grant_that_comes_late_is_given_back(
    session: Session, faults: Faults, inner: SessionStore, late: str
) -> None:
    """The call is under way when its caller is cancelled, before or after it is carried out."""
    gate = asyncio.Event()
    (faults.before if late == "before" else faults.after)["acquire"] = gate
    entering = asyncio.create_task(session.turn().__aenter__())
    await until(lambda: faults.count("acquire") == 1, "it asked")
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert faults.count("release") == 1
    assert not faults.sent[0].done()
    gate.set()
    await faults.sent[0]
    assert await is_free(inner)


@pytest.mark.asyncio
async def test_who_is_cancelled_in_line_leaves_it(
    session: Session, faults: Faults, inner: SessionStore
) -> None:
    async with session.turn():
        waiting = asyncio.create_task(session.turn(wait="1m").__aenter__())
        await until(lambda: faults.count("sleep") == 1, "it waits in line")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await inner.status()).waiting == 0


# --- losing it


async def attempts(turn: Turn) -> dict[str, Callable[[], Awaitable[object]]]:
    """Every call that a turn has."""
    return {
        "append": lambda: turn.append(user("late")),
        "append_many": lambda: turn.append_many([user("late"), user("later")]),
        "append nothing": lambda: turn.append_many([]),
        "read": turn.read,
        "read some": lambda: turn.read(limit=1),
        "read nothing": lambda: turn.read(limit=0),
        "read a budget": lambda: turn.read(max_tokens=100),
        "read_page": turn.read_page,
        "pop": turn.pop,
        "clear": turn.clear,
        "clear by force": lambda: turn.clear(force=True),
        "pin": lambda: turn.pin(1),
        "length": turn.length,
        "token_count": turn.token_count,
        "health": turn.health,
        "check": turn.check,
    }


async def assert_all_lost(turn: Turn) -> None:
    for name, attempt in (await attempts(turn)).items():
        with pytest.raises(LeaseLost, match="wrote nothing") as refusal:
            await attempt()
        about = (refusal.value.memory, refusal.value.session)
        assert about == ("local/support", "any"), name


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["append", "pop", "clear", "pin", "read", "read_page", "check"])
async def test_the_loss_is_noticed_by_any_call(
    session: Session, inner: SessionStore, name: str
) -> None:
    await session.append(user("before"))
    async with session.turn() as turn:
        await seize(inner)
        with pytest.raises(LeaseLost) as refusal:
            await (await attempts(turn))[name]()
        assert (refusal.value.memory, refusal.value.session) == ("local/support", "any")
        assert turn.lost
        await assert_all_lost(turn)
    assert (await inner.status()).messages == 1


@pytest.mark.asyncio
async def test_a_cleared_session_ends_the_turn_of_another(session: Session) -> None:
    async with session.turn() as turn:
        await turn.append(user("hi"))
        await session.clear()
        with pytest.raises(LeaseLost):
            await turn.append(user("late"))
        assert turn.lost
    assert await session.length() == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "call",
    [
        lambda turn: turn.pin(1),
        lambda turn: turn.clear(),
        lambda turn: turn.check(),
    ],
    ids=["pin", "clear", "check"],
)
async def test_a_turn_ends_with_its_session_whatever_is_called_next(
    call: Callable[[Turn], Awaitable[object]],
) -> None:
    async with Client(InMemoryStore(), policy=SPEC) as client:
        session = client.memory("support").session("42")
        async with session.turn() as turn:
            await turn.append(user("hi"))
            await session.erase(force=True)
            with pytest.raises(LeaseLost):
                await call(turn)
            assert turn.lost
        assert await session.length() == 0


@pytest.mark.asyncio
async def test_a_turn_survives_its_own_clear(session: Session) -> None:
    async with session.turn() as turn:
        await turn.append(user("old"))
        await turn.clear()
        await turn.append(user("new"))
        await turn.check()
        assert await turn.read() == [user("new")]
        assert not turn.lost


@pytest.mark.asyncio
async def test_a_renewal_in_the_middle_of_its_own_clear_ends_no_turn(
    session: Session, faults: Faults
) -> None:
    reply = faults.after["clear"] = asyncio.Event()
    async with session.turn() as turn:
        await turn.append(user("old"))
        clearing = asyncio.create_task(turn.clear())
        await until(lambda: faults.count("clear") == 1, "it is cleared, and nobody knows yet")
        renewing = asyncio.create_task(turn.check())
        await asyncio.sleep(0)
        reply.set()
        assert await clearing == 1
        await renewing
        assert not turn.lost
        await turn.append(user("new"))


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["append", "pop", "pin", "read", "read a budget", "read_page"])
async def test_a_call_in_the_middle_of_its_own_clear_ends_no_turn(
    session: Session, faults: Faults, name: str
) -> None:
    reply = faults.after["clear"] = asyncio.Event()
    async with session.turn() as turn:
        await turn.append_many([user("old"), user("older")])
        clearing = asyncio.create_task(turn.clear())
        await until(lambda: faults.count("clear") == 1, "it is cleared, and nobody knows yet")
        calling = asyncio.ensure_future((await attempts(turn))[name]())
        for _ in range(5):
            await asyncio.sleep(0)
        reply.set()
        assert await clearing == 2
        if name == "pin":
            with pytest.raises(RecordNotFound):
                await calling
        else:
            await calling
        assert not turn.lost
        await turn.append(user("new"))


@pytest.mark.asyncio
async def test_clearing_waits_for_what_is_under_way(session: Session, faults: Faults) -> None:
    gate = faults.before["append"] = asyncio.Event()
    async with session.turn() as turn:
        appending = [asyncio.create_task(turn.append(user(text))) for text in "ab"]
        await until(lambda: faults.count("append") == 2, "both are under way")
        clearing = asyncio.create_task(turn.clear())
        for _ in range(5):
            await asyncio.sleep(0)
        assert faults.count("clear") == 0
        reading = asyncio.create_task(turn.read())
        gate.set()
        assert {(await each).seq for each in appending} == {1, 2}
        assert await clearing == 2
        assert await reading == []
        assert not turn.lost


@pytest.mark.asyncio
async def test_closing_the_client_ends_a_turn_that_was_left_open(
    store: FaultyStore, faults: Faults, inner: SessionStore
) -> None:
    client = Client(store, policy=SPEC)
    turn = client.memory("support").session("any").turn()
    await turn.__aenter__()
    await turn.append(user("kept"))
    await client.aclose()
    assert turn.lost
    assert await is_free(inner)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await assert_all_lost(turn)
    await turn.__aexit__(None, None, None)
    assert faults.count("release") == 1


# --- the turn that was handed over


async def hand_over(session: Session, faults: Faults) -> Turn:
    """Return the turn of a waiter to whom it was handed over; faults from before do not count."""
    async with session.turn():
        waiting = asyncio.create_task(session.turn(wait="1m").__aenter__())
        await until(lambda: faults.count("sleep") == 1, "it waits in line")
        faults.calls.clear()
    return await waiting


@pytest.mark.asyncio
async def test_who_is_handed_the_turn_has_it_without_asking(
    session: Session, faults: Faults, inner: SessionStore
) -> None:
    turn = await hand_over(session, faults)
    assert faults.calls == ["release"]
    status = await inner.status()
    assert status.lease is not None
    assert (status.lease.fence, status.lease.remaining <= 2) == (turn.fence, True)
    await turn.append(user("mine"))
    await turn.__aexit__(None, None, None)
    assert await is_free(inner)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["append", "read", "read_page", "check"])
async def test_the_first_call_renews_a_turn_that_was_handed_over(
    session: Session, faults: Faults, inner: SessionStore, name: str
) -> None:
    turn = await hand_over(session, faults)
    for _ in range(2):
        await (await attempts(turn))[name]()
        status = await inner.status()
        assert status.lease is not None
        assert status.lease.remaining > 20
        assert status.lease.holder == f"{socket.gethostname()}:{os.getpid()}"[-60:]
        assert faults.count("renew") == (1 if name != "check" else faults.count("renew"))
    await turn.__aexit__(None, None, None)


@pytest.mark.asyncio
async def test_a_turn_that_was_handed_over_is_renewed_soon_by_itself(
    session: Session, faults: Faults, inner: SessionStore
) -> None:
    began = time.monotonic()
    turn = await hand_over(session, faults)
    await until(lambda: faults.count("renew") == 1, "it is renewed")
    assert time.monotonic() - began < 7, "a third of the lease's time is ten seconds"
    status = await inner.status()
    assert status.lease is not None
    assert status.lease.remaining > 20
    await turn.__aexit__(None, None, None)


@pytest.mark.asyncio
async def test_a_hand_over_that_is_heard_of_too_late_is_asked_about(
    session: Session, faults: Faults
) -> None:
    faults.stopped = True
    turn = await hand_over(session, faults)
    assert faults.calls == ["release", "acquire"]
    await turn.append(user("mine"))
    await turn.__aexit__(None, None, None)


@pytest.mark.asyncio
async def test_a_lease_does_not_get_shorter_while_it_is_held(
    store: FaultyStore, faults: Faults
) -> None:
    """The next renewal was planned for the longer one, and the holder counts on it."""
    store.put(1, locking={"leaseTTL": "50s"})
    async with Client(store) as client:
        session = client.memory("support").session("any")
        async with session.turn() as turn:
            store.put(2, locking={"leaseTTL": "3s"})
            async with Client(store) as other:
                await other.memory("support").session("any").append(user("newer"))
            await turn.check()
            await turn.check()
            status = await store.inner.session(SUPPORT, "any").status()
            assert status.lease is not None
            assert status.lease.remaining > 3
            await turn.append(user("under revision 2"))
        faults.leases.clear()
        async with session.turn():
            assert faults.leases == [3_000]


@pytest.mark.asyncio
async def test_renewing_follows_a_newer_policy_and_keeps_the_turns_own_ttl(
    store: FaultyStore, faults: Faults
) -> None:
    store.put(1)
    async with Client(store) as client, Client(store) as other:
        session = client.memory("support").session("any")
        second = client.memory("support").session("second")
        async with session.turn(ttl="20s") as own, second.turn() as plain:
            store.put(2, locking={"leaseTTL": "50s"})
            for name in ("any", "second"):
                await other.memory("support").session(name).append(user("newer"))
            for turn in (own, plain):
                await turn.check()
            faults.leases.clear()
            await own.check()
            await plain.check()
            assert faults.leases == [20_000, 50_000]
            await own.append(user("under revision 2"))
            assert (await session.health()).revision_behind == 0


@pytest.mark.asyncio
async def test_a_memory_that_is_being_deleted_ends_no_turn_but_its_writes(
    store: FaultyStore,
) -> None:
    store.put(1)
    async with Client(store) as client:
        session = client.memory("support").session("any")
        async with session.turn() as turn:
            await turn.append(user("hi"))
            store.put(2, active=False)
            with pytest.raises(PolicyNotFound, match="being deleted"):
                await client.memory("support").policies.catch_up(2)


# --- what a handle makes of an answer


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["append", "pop", "clear", "pin"])
async def test_a_newer_policy_is_fetched_and_the_call_repeated(
    session: Session, faults: Faults, store: FaultyStore, name: str
) -> None:
    seq = (await session.append(user("hi"))).seq
    store.put(4)
    async with Client(store) as other:
        await other.memory("support").session("any").append(user("newer"))
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "append": lambda: session.append(user("again")),
        "pop": session.pop,
        "clear": session.clear,
        "pin": lambda: session.pin(seq),
    }
    before = faults.count(name)
    await calls[name]()
    assert faults.count(name) == before + 2
    health = await session.health()
    assert (health.managed, health.revision, health.revision_behind) == (True, 4, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["append", "clear"])
async def test_who_is_told_that_messages_were_lost_goes_on_from_there(
    session: Session, inner: SessionStore, faults: Faults, name: str
) -> None:
    for text in "abc":
        await session.append(user(text))
    faults.errors[name] = [AcknowledgedLost("two are gone", first=2, last=3)]
    call = session.append(user("d")) if name == "append" else session.clear()
    with pytest.raises(AcknowledgedLost) as refusal:
        await call
    assert (refusal.value.first, refusal.value.last) == (2, 3)
    assert (refusal.value.memory, refusal.value.session) == ("local/support", "any")
    await session.append(user("e"))
    assert (await inner.status()).messages == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["append", "clear"])
async def test_who_is_told_that_a_session_vanished_begins_it_anew(
    session: Session, inner: SessionStore, faults: Faults, name: str
) -> None:
    for text in "abc":
        await session.append(user(text))
    faults.errors[name] = [SessionVanished()]
    call = session.append(user("d")) if name == "append" else session.clear()
    with pytest.raises(AcknowledgedLost) as refusal:
        await call
    assert (refusal.value.first, refusal.value.last) == (1, 3)
    assert (refusal.value.memory, refusal.value.session) == ("local/support", "any")
    faults.errors[name] = [SessionVanished()]
    if name == "clear":
        assert await session.clear() == 3, "it is told once"
    else:
        await session.append(user("e"))
        assert (await inner.status()).messages == 4


@pytest.mark.asyncio
async def test_a_process_that_was_stopped_is_not_sure_of_its_session(
    session: Session, inner: SessionStore, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("holdfast.place.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("holdfast.log.time", SimpleNamespace(monotonic=lambda: now))
    await session.append(user("a"))
    gate = faults.before["append"] = asyncio.Event()
    faults.errors["append"] = [SessionVanished()]
    appending = asyncio.create_task(session.append(user("b")))
    await until(lambda: faults.count("append") == 2, "it was sent")
    now += 51
    gate.set()
    await appending
    assert (faults.count("append"), (await inner.status()).messages) == (3, 2)


@pytest.mark.asyncio
async def test_pop_takes_what_is_the_newest_by_then(session: Session, faults: Faults) -> None:
    await session.append_many([user("a"), user("b")])
    gate = faults.before["pop"] = asyncio.Event()
    popping = asyncio.create_task(session.pop())
    await until(lambda: faults.count("pop") == 1, "it knows the newest")
    await session.append(user("c"))
    gate.set()
    assert await popping == user("c")
    assert await session.read() == [user("a"), user("b")]


@pytest.mark.asyncio
@pytest.mark.parametrize("group", [0, -1])
async def test_a_group_that_cannot_be_is_refused_before_anything_is_sent(
    session: Session, faults: Faults, group: int
) -> None:
    with pytest.raises(MessageInvalid, match="sequence number"):
        await session.append(user("hi"), group=group)
    assert faults.count("append") == 0


@pytest.mark.asyncio
async def test_there_is_nothing_to_take_or_to_clear(session: Session) -> None:
    assert await session.pop() is None
    assert await session.clear() == 0
    assert await session.read(limit=0) == []
    assert not (await session.status()).exists


@pytest.mark.asyncio
async def test_a_call_that_waits_keeps_a_session_above_its_limit_and_says_so(
    store: FaultyStore,
) -> None:
    async with Client(store, policy=SPEC | {"limits": {"maxTokens": 20}}) as client:
        session = client.memory("support").session("any")
        function = {"name": "f", "arguments": "x" * 40}
        calls = [{"id": "c1", "type": "function", "function": function}]
        await session.append({"role": "assistant", "content": None, "tool_calls": calls})
        done = await session.append(user("x" * 40))
        assert done.warnings == ("over the limit until open tool calls are answered",)
        assert done.tokens > 20
        assert (await session.health()).warnings == (
            "over maxTokens: protected messages or open tool calls leave no choice",
        )


# --- leaving it


@pytest.mark.asyncio
@pytest.mark.parametrize("release_works", [True, False])
async def test_the_bodys_error_comes_out(
    session: Session, faults: Faults, release_works: bool
) -> None:
    if not release_works:
        faults.errors["release"] = StoreUnavailable("gone")

    async def body() -> None:
        async with session.turn():
            raise BodyError

    with pytest.raises(BodyError) as error:
        await body()
    assert error.value.__context__ is None
    assert faults.count("release") == 1


@pytest.mark.asyncio
async def test_a_turn_that_cannot_be_given_back_ends_by_itself(
    session: Session, faults: Faults, inner: SessionStore
) -> None:
    faults.errors["release"] = StoreUnavailable("gone")
    async with session.turn() as turn:
        await turn.append(user("kept"))
    with pytest.raises(LeaseLost):
        await turn.append(user("late"))
    assert not await is_free(inner)
    assert (await inner.status()).messages == 1


@pytest.mark.asyncio
async def test_after_leaving_every_call_is_refused(session: Session, faults: Faults) -> None:
    async with session.turn() as turn:
        await turn.append(user("kept"))
    calls = list(faults.calls)
    await assert_all_lost(turn)
    assert faults.calls == calls


@pytest.mark.asyncio
async def test_leaving_ends_the_renewals(store: FaultyStore) -> None:
    renewing = asyncio.Event()
    async with (
        Client(store, policy=SPEC) as client,
        client.memory("support").session("any").turn(ttl=SHORTEST),
    ):
        assert asyncio.all_tasks() == {asyncio.current_task()}, "a turn costs no task"
        store.faults.before["renew"] = renewing
        await until(lambda: store.faults.count("renew") == 1, "it is renewed")
        assert len(asyncio.all_tasks()) == 2
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()}, "no task is left")


@pytest.mark.asyncio
async def test_who_is_cancelled_while_leaving_gives_the_turn_back(
    session: Session, faults: Faults, inner: SessionStore
) -> None:
    gate = faults.before["release"] = asyncio.Event()

    async def hold() -> None:
        async with session.turn():
            pass

    holding = asyncio.create_task(hold())
    await until(lambda: faults.count("release") == 1, "it is leaving")
    holding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holding
    gate.set()
    await until(lambda: is_free(inner), "the turn is free")


# --- what takes its time, all of it at the same time


class Scene:
    """A store of its own for each scenario."""

    def __init__(self) -> None:
        self.store = FaultyStore()
        self.faults = self.store.faults
        self.client = Client(self.store, policy=SPEC)
        self.session = self.client.memory("support").session("any")
        self.inner = self.store.inner.session(SUPPORT, "any")
        self.began = time.monotonic()

    @property
    def age(self) -> float:
        return time.monotonic() - self.began


async def past_its_deadline_a_turn_is_lost_whatever_the_store_says(scene: Scene) -> None:
    """No renewal gets through, while the store would still take the turn for held."""
    faults = scene.faults
    faults.errors["renew"] = StoreUnavailable("gone")
    told: list[float] = []

    async def listen(turn: Turn) -> None:
        await turn.lost
        told.append(scene.age)

    async with scene.session.turn(ttl=SHORTEST) as turn:
        assert not turn.lost
        listeners = [asyncio.create_task(listen(turn)) for _ in range(3)]
        with pytest.raises(StoreUnavailable):
            await turn.check()
        assert not turn.lost, "nobody knows"
        await turn.append(user("in time"))
        await asyncio.gather(*listeners)
        assert turn.lost
        assert all(after >= LOST_AFTER for after in told)
        assert faults.count("renew") >= 4, "tried again and again"
        await turn.lost
        calls = list(faults.calls)
        await assert_all_lost(turn)
        assert faults.calls == calls, "the store was not even asked"
        assert (await scene.inner.status()).messages == 1
    assert await is_free(scene.inner)


async def a_store_that_hangs_does_not_keep_a_turn_alive(scene: Scene) -> None:
    scene.faults.before["renew"] = asyncio.Event()
    async with scene.session.turn(ttl=SHORTEST) as turn:
        await turn.lost
        assert scene.age >= LOST_AFTER
        assert scene.faults.count("renew") == 1
        with pytest.raises(LeaseLost):
            await turn.append(user("late"))


async def failed_renewals_are_made_up_for(scene: Scene) -> None:
    faults = scene.faults
    faults.errors["renew"] = [StoreUnavailable("gone"), StoreUnavailable("gone")]
    async with scene.session.turn(ttl=SHORTEST) as turn:
        await until(lambda: faults.count("renew") == 3, "the third renewal")
        assert 1 <= scene.age < LOST_AFTER, "tried again sooner than a third of the lease"
        await until(lambda: scene.age > LOST_AFTER + 0.1, "the first deadline has passed")
        assert not turn.lost
        await turn.append(user("mine"))
    assert (await scene.inner.status()).messages == 1


async def the_loss_is_noticed_by_the_next_renewal(scene: Scene) -> None:
    async with scene.session.turn(ttl=SHORTEST) as turn:
        await seize(scene.inner)
        assert not turn.lost
        await turn.lost
        assert scene.faults.count("renew") == 1
        assert 1 <= scene.age < LOST_AFTER
        await assert_all_lost(turn)


async def who_is_cancelled_does_not_wait_for_a_store_that_hangs(scene: Scene) -> None:
    gate = scene.faults.after["acquire"] = asyncio.Event()
    entering = asyncio.create_task(scene.session.turn().__aenter__())
    await until(lambda: scene.faults.count("acquire") == 1, "it asked")
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert scene.age < 0.9, "it does not wait for the answer"
    assert await is_free(scene.inner)
    gate.set()


async def leaving_does_not_wait_for_a_store_that_hangs_and_closing_does(scene: Scene) -> None:
    gate = scene.faults.before["release"] = asyncio.Event()

    async def body() -> None:
        async with scene.session.turn():
            raise BodyError

    with pytest.raises(BodyError):
        await body()
    assert 0.9 <= scene.age < 10, "it waits a second, no longer"
    assert not await is_free(scene.inner)
    closing = asyncio.create_task(scene.client.aclose())
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    assert await is_free(scene.inner)


async def closing_does_not_wait_for_ever(scene: Scene) -> None:
    gate = scene.faults.before["release"] = asyncio.Event()
    async with scene.session.turn():
        pass
    left = scene.age
    await scene.client.aclose()
    assert 1.9 <= scene.age - left < 10
    gate.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not await is_free(scene.inner), "nothing goes on after closing"


@pytest.mark.asyncio
async def test_time_and_turns() -> None:
    """Every scenario takes one to three seconds of waiting, and they do not meet."""
    scenarios = (
        past_its_deadline_a_turn_is_lost_whatever_the_store_says,
        a_store_that_hangs_does_not_keep_a_turn_alive,
        failed_renewals_are_made_up_for,
        the_loss_is_noticed_by_the_next_renewal,
        who_is_cancelled_does_not_wait_for_a_store_that_hangs,
        leaving_does_not_wait_for_a_store_that_hangs_and_closing_does,
        closing_does_not_wait_for_ever,
    )
    for left_to_try in (4, 3, 2, 1, 0):
        pulse = Pulse()
        beating = asyncio.create_task(pulse.beat())
        try:
            async with asyncio.timeout(120), asyncio.TaskGroup() as together:
                for scenario in scenarios:
                    together.create_task(scenario(Scene()))
            return
        except ExceptionGroup:
            # A machine that stands still lets leases end that somebody keeps.
            if pulse.longest < 0.2 or not left_to_try:
                raise
        finally:
            beating.cancel()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 120)


class Pulse:
    """Notices when the loop does not turn.

    Attributes:
        longest: seconds for which it did not.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def beat(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now


# --- a signal


@pytest.mark.asyncio
async def test_a_signal_is_given_once_and_heard_by_all() -> None:
    signal = Signal()
    assert not signal
    heard: list[int] = []

    async def listen(number: int) -> None:
        await signal
        heard.append(number)

    listeners = [asyncio.create_task(listen(number)) for number in range(3)]
    await asyncio.sleep(0)
    assert heard == []
    signal.set()
    signal.set()
    await asyncio.gather(*listeners)
    assert sorted(heard) == [0, 1, 2]
    assert signal
    await signal
