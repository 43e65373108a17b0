"""The synchronous library: threads, interruptions, forks, event loops, and its end."""

import asyncio
import contextvars
import gc
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytest

import holdfast
from holdfast import sync
from holdfast.errors import ConfigurationError, LeaseLost, MessageInvalid, SessionBusy
from holdfast.sync.portal import Portal
from holdfast.tokens import Count

SOURCE = Path(__file__).parents[2] / "operator"
SPEC: dict[str, Any] = {"model": {"tokenizer": "approximate"}, "retention": {"ttl": "1h"}}
AT_ONCE = timedelta(0)
IN_A_LOOP = (
    "this call would block the event loop that runs in this thread: use holdfast.connect() and await "
    "the call, or make it in another thread, with asyncio.to_thread()"
)
CLOSED = "the client is closed: call holdfast.sync.connect() again"
CLOSED_MEANWHILE = "the client was closed during this call: nobody knows whether it wrote"


@pytest.fixture
def client() -> Generator[sync.Client]:
    """A client with a store of its own."""
    with sync.connect("memory://", policy=SPEC) as client:
        yield client


@pytest.fixture
def session(client: sync.Client) -> sync.Session:
    """A session that was never written."""
    return client.memory().session("a")


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def own_threads() -> int:
    return sum(thread.name == "holdfast-sync" for thread in threading.enumerate())


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition in a program without an event loop."""
    limit = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < limit, f"never: {what}"
        time.sleep(0.005)


def aside(work: Callable[[], object]) -> Future[object]:
    """Do something in another thread."""
    pool = ThreadPoolExecutor(1)
    done = pool.submit(work)
    pool.shutdown(wait=False)
    return done


# --- what it is


def test_it_does_what_the_library_does(session: sync.Session) -> None:
    done = session.append(user("hi"), id="request 7")
    assert isinstance(done, holdfast.AppendResult)
    assert session.append(user("hi"), id="request 7").duplicate
    with session.turn(wait="5s") as turn:
        assert turn.append_many([user("a"), user("b")]).count == 2
        assert turn.read() == [user("hi"), user("a"), user("b")]
        turn.check()
        lease = session.health().lease
        assert lease is not None
        assert lease.fence == turn.fence
    assert session.pop() == user("b")
    session.pin(done.seq)
    page = session.read_page(limit=1)
    assert isinstance(page, holdfast.Page)
    assert [record.pinned for record in page.records] == [True]
    assert (session.length(), session.token_count()) == (2, session.health().tokens)
    assert session.clear() == 2


def test_a_memory_says_where_it_is(client: sync.Client) -> None:
    memory = client.memory("support", format="chat")
    assert memory.address == ("local", "support")
    assert memory.format == "chat"
    assert memory.session("a").read() == []


def test_an_error_is_the_library_s_own_and_shows_where_it_came_from(session: sync.Session) -> None:
    with pytest.raises(MessageInvalid) as refusal:
        session.append(b"bytes")
    frames = [Path(frame.filename).name for frame in traceback.extract_tb(refusal.tb)]
    assert frames[0] == "test_sync.py"
    assert frames.index("facade.py") < frames.index("log.py") < frames.index("messages.py")


def test_an_error_is_not_kept_by_the_call_that_raised_it(session: sync.Session) -> None:
    def fail() -> "weakref.ref[BaseException]":
        try:
            session.append(b"bytes")
        except MessageInvalid as error:
            return weakref.ref(error)
        pytest.fail("bytes were stored")

    session.length()
    gc.disable()
    try:
        left = fail()
        until(lambda: left() is None, "the error was freed, with no collection of cycles")
    finally:
        gc.enable()


def test_the_caller_s_context_is_that_of_the_call() -> None:
    request: contextvars.ContextVar[str] = contextvars.ContextVar("request")
    seen: list[str] = []

    class Counter:
        name = "of this test"

        def count(self, text: str) -> Count:
            seen.append(request.get())
            return Count(len(text), exact=True)

    with sync.connect("memory://", policy=SPEC, counter=Counter()) as client:
        request.set("r-7")
        client.memory().session("a").append(user("hi"))
    assert set(seen) == {"r-7"}


# --- one loop, many threads


def test_the_thread_starts_with_the_first_call_and_ends_with_the_client() -> None:
    before = own_threads()
    client = sync.connect("memory://", policy=SPEC)
    session = client.memory().session("a")
    session.turn()
    assert own_threads() == before
    session.length()
    assert own_threads() == before + 1
    client.close()
    assert own_threads() == before
    client.close()
    sync.connect("memory://", policy=SPEC).close()


def test_a_client_that_was_closed_says_so(client: sync.Client, session: sync.Session) -> None:
    client.close()
    for call in (session.length, session.turn, client.memory, lambda: session.append(user("a"))):
        with pytest.raises(RuntimeError, match=re.escape(CLOSED)):
            call()


def test_threads_share_a_client(client: sync.Client) -> None:
    together = threading.Barrier(8)

    def write(name: int) -> None:
        together.wait()
        session = client.memory("support").session("a")
        for number in range(10):
            session.append([name, number])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    found = client.memory("support").session("a").read()
    for name in range(8):
        assert [number for who, number in found if who == name] == list(range(10))
    assert own_threads() == 1


def test_threads_take_turns(client: sync.Client) -> None:
    def count(_: int) -> None:
        session = client.memory().session("a")
        for _ in range(5):
            with session.turn(wait="1m") as turn:
                turn.append(len(turn.read()))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    assert client.memory().session("a").read() == list(range(30))


def test_closing_ends_the_calls_of_other_threads(
    client: sync.Client, session: sync.Session
) -> None:
    holder = session.turn()
    holder.__enter__()
    waiter = aside(session.turn(wait="1m").__enter__)
    until(lambda: session.health().waiting == 1, "somebody waits")
    client.close()
    with pytest.raises(RuntimeError, match=re.escape(CLOSED_MEANWHILE)):
        waiter.result(30)
    assert holder.lost
    assert own_threads() == 0


def test_leaving_a_turn_of_a_closed_client_hides_nothing(
    client: sync.Client, session: sync.Session
) -> None:
    def body() -> None:
        with session.turn():
            client.close()
            raise KeyError

    with pytest.raises(KeyError):
        body()


def test_a_client_that_nobody_holds_ends_its_thread() -> None:
    def use() -> sync.Session:
        session = sync.connect("memory://", policy=SPEC).memory().session("a")
        session.append(user("hi"))
        return session

    session = use()
    gc.collect()
    assert session.read() == [user("hi")], "whoever holds a session holds its client"
    del session
    gc.collect()
    until(lambda: own_threads() == 0, "the thread ended")


# --- turns


def test_a_turn_is_given_back_after_an_error(session: sync.Session) -> None:
    turn = session.turn()

    def body() -> None:
        with turn:
            turn.append(user("kept"))
            raise KeyError

    with pytest.raises(KeyError):
        body()
    with session.turn(wait=AT_ONCE):
        assert session.read() == [user("kept")]
    with pytest.raises(LeaseLost):
        turn.append(user("late"))


def test_who_does_not_wait_is_refused(session: sync.Session) -> None:
    with session.turn() as turn:
        with pytest.raises(SessionBusy), session.turn(wait=AT_ONCE):
            pytest.fail("two held the turn")
        with pytest.raises(RuntimeError, match="a turn is entered once"):
            turn.__enter__()
        turn.check()


def test_a_lost_turn_tells_who_waits_for_that(session: sync.Session) -> None:
    with session.turn() as turn:
        assert not turn.lost
        assert not turn.interrupted
        assert turn.lost.wait("10ms") is False
        assert turn.lost.wait(AT_ONCE) is False
        told = aside(turn.lost.wait)
        session.clear()
        with pytest.raises(LeaseLost):
            turn.append(user("late"))
        assert told.result(30) is True
        assert turn.lost
        assert turn.lost.wait(AT_ONCE) is True
        assert not turn.interrupted


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(5, TypeError), ("soon", ValueError), (timedelta(seconds=-1), ValueError)],
)
def test_a_bare_number_is_no_time_to_wait(
    session: sync.Session, timeout: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match="duration"):
        session.turn().lost.wait(timeout)


def test_a_thread_cannot_be_cancelled(session: sync.Session) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        session.turn(on_interrupt="cancel")
    assert str(refusal.value) == (
        "on_interrupt='cancel' cannot be had here: nothing can cancel a thread. Look at "
        "turn.interrupted, or call turn.check()"
    )


# --- interruptions


class _Stop(Exception):
    """What the handler of a signal raises."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stop


@pytest.fixture
def interrupt() -> Generator[Callable[[Callable[[], bool]], None]]:
    """Let a handler raise `_Stop` in this thread, as soon as a condition holds."""
    watchers: list[Future[object]] = []

    def when(condition: Callable[[], bool]) -> None:
        def watch() -> None:
            until(condition, "time for the signal")
            os.kill(os.getpid(), signal.SIGUSR1)

        watchers.append(aside(watch))

    before = signal.signal(signal.SIGUSR1, _stop)
    yield when
    for watcher in watchers:
        watcher.result(30)
    signal.signal(signal.SIGUSR1, before)


def test_an_interrupted_waiter_leaves_the_line(session: sync.Session, interrupt: Any) -> None:
    with session.turn():
        interrupt(lambda: session.health().waiting == 1)
        with pytest.raises(_Stop), session.turn(wait="1m"):
            pytest.fail("two held the turn")
        assert session.health().waiting == 0
    with session.turn(wait=AT_ONCE):
        pass


def test_an_interrupted_body_gives_the_turn_back(session: sync.Session, interrupt: Any) -> None:
    turn = session.turn()
    interrupt(lambda: session.health().lease is not None)
    with pytest.raises(_Stop), turn:
        turn.lost.wait("1m")
    assert session.health().lease is None


def test_a_signal_that_finds_nobody_waiting_is_heeded_soon(session: sync.Session) -> None:
    """It is noted, as it is where it comes between the last instruction and the wait, and wakes nobody up."""

    def watch() -> None:
        until(lambda: session.health().waiting == 1, "time for the signal")
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, _stop)
    try:
        with session.turn():
            watcher = aside(watch)
            began = time.monotonic()
            with pytest.raises(_Stop), session.turn(wait="5m"):
                pytest.fail("two held the turn")
            assert time.monotonic() - began < 60
        watcher.result(30)
    finally:
        signal.signal(signal.SIGUSR1, before)


class _Context:
    """A context whose entering takes until it is told to go on, or is cancelled."""

    def __init__(self, *, heeds: bool) -> None:
        self.heeds = heeds
        self.entering = threading.Event()
        self.cancelled = threading.Event()
        self.left = threading.Event()
        self._go = asyncio.Event()

    async def __aenter__(self) -> None:
        self.entering.set()
        try:
            await self._go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            if self.heeds:
                await self._go.wait()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.left.set()

    async def go(self) -> None:
        self._go.set()


@pytest.fixture
def portal() -> Generator[Portal]:
    """A portal that ends nothing."""
    portal = Portal(lambda: asyncio.sleep(0))
    yield portal
    portal.close()


def test_what_was_entered_in_spite_of_the_interruption_is_left(
    portal: Portal, interrupt: Any
) -> None:
    context = _Context(heeds=False)
    interrupt(context.entering.is_set)
    with pytest.raises(_Stop):
        portal.enter(context)
    assert context.left.is_set()


@pytest.mark.parametrize("begun", [False, True])
def test_an_interruption_in_the_middle_of_submitting_leaves_nothing_entered(
    portal: Portal, monkeypatch: pytest.MonkeyPatch, *, begun: bool
) -> None:
    context = _Context(heeds=False)
    soon = asyncio.BaseEventLoop.call_soon_threadsafe

    def interrupted(*arguments: Any, **more: Any) -> None:
        monkeypatch.undo()
        if begun:
            soon(*arguments, **more)
            assert context.entering.wait(30)
        raise _Stop

    portal.run(asyncio.sleep, 0)
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_soon_threadsafe", interrupted)
    with pytest.raises(_Stop):
        portal.enter(context)
    assert (context.entering.is_set(), context.left.is_set()) == (begun, begun)


def test_a_second_interruption_does_not_wait_for_the_tidying_up(
    portal: Portal, interrupt: Any
) -> None:
    context = _Context(heeds=True)
    interrupt(context.entering.is_set)
    interrupt(context.cancelled.is_set)
    with pytest.raises(_Stop):
        portal.enter(context)
    assert not context.left.is_set()
    portal.run(context.go)
    assert context.left.wait(30), "it goes on behind whoever left"


INTERRUPTED = """
import signal, sys, threading
import holdfast.sync
from holdfast.errors import SessionBusy

# Where tests were started in the background, a shell has it ignored, and so do their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
spec = {"model": {"tokenizer": "approximate"}, "retention": {"ttl": "1h"}}
with holdfast.sync.connect("memory://", policy=spec) as client:
    session = client.memory().session("a")

    def tell():
        while session.health().waiting == 0:
            pass
        print("waiting", flush=True)

    with session.turn() as turn:
        threading.Thread(target=tell).start()
        try:
            with session.turn(wait="1m"):
                print("entered")
        except KeyboardInterrupt:
            print("interrupted", session.health().waiting)
    try:
        with session.turn() as turn:
            print("holding", flush=True)
            turn.lost.wait("1m")
    except KeyboardInterrupt:
        print("interrupted", session.health().lease, flush=True)
"""


def program(text: str, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, *options, "-c", text],
        env={"PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(running: "subprocess.Popen[str]") -> str:
    out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert err == ""
    return out


def test_ctrl_c_leaves_neither_a_lease_nor_a_place_in_line() -> None:
    with program(INTERRUPTED, "-W", "error") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "waiting\n"
        running.send_signal(signal.SIGINT)
        assert running.stdout.readline() == "interrupted 0\n"
        assert running.stdout.readline() == "holding\n"
        running.send_signal(signal.SIGINT)
        assert finished(running) == "interrupted None\n"


# --- where it must not be used


FORKED = """
import os, sys
import holdfast.sync

spec = {"model": {"tokenizer": "approximate"}, "retention": {"ttl": "1h"}}
used, unused = (holdfast.sync.connect("memory://", policy=spec) for _ in range(2))
session = used.memory().session("a")
session.append("before")
with session.turn() as turn:
    child = os.fork()
    if child == 0:
        for call in (session.length, session.turn, used.memory, lambda: turn.append("child")):
            try:
                call()
            except RuntimeError as error:
                print(error)
        used.close()
        unused.memory().session("b").append("child")
        print(unused.memory().session("b").read(), flush=True)
    else:
        assert os.waitpid(child, 0)[1] == 0
        turn.append("after")
        print(session.read())
"""


def test_a_fork_is_refused_with_a_sentence() -> None:
    refusal = (
        "the client was in use before this process was forked and belongs to the parent: call "
        "holdfast.sync.connect() here as well\n"
    )
    with program(FORKED, "-W", "ignore") as running:
        assert finished(running) == f"{4 * refusal}['child']\n['before', 'after']\n"


@pytest.mark.asyncio
async def test_an_event_loop_is_not_blocked(client: sync.Client, session: sync.Session) -> None:
    turn = session.turn()
    for call in (session.length, turn.__enter__, turn.lost.wait):
        with pytest.raises(RuntimeError, match=re.escape(IN_A_LOOP)):
            call()
    await asyncio.to_thread(session.append, user("hi"))
    assert await asyncio.to_thread(session.read) == [user("hi")]
    client.close()


# --- the end


UNCLOSED = """
import holdfast.sync

spec = {"model": {"tokenizer": "approximate"}, "retention": {"ttl": "1h"}}
client = holdfast.sync.connect("memory://", policy=spec)
turn = client.memory().session("a").turn()
turn.__enter__()
print(turn.append("hi").length)
"""


def test_the_end_of_the_program_closes_quietly() -> None:
    with program(UNCLOSED, "-X", "dev", "-W", "error") as running:
        assert finished(running) == "1\n"


@pytest.mark.parametrize(
    ("text", "loaded"),
    [("import holdfast.sync", False), ("import holdfast.sync; holdfast.sync.connect", True)],
)
def test_importing_it_is_cheap(text: str, loaded: bool) -> None:
    asks = "import sys; print('pydantic' in sys.modules, 'redis' in sys.modules)"
    with program(f"{text}; {asks}", "-W", "error") as running:
        assert finished(running) == f"{loaded} False\n"


def test_what_fails_while_closing_is_raised_once() -> None:
    async def fail() -> None:
        raise _Stop

    portal = Portal(fail)
    portal.run(asyncio.sleep, 0)
    with pytest.raises(_Stop):
        portal.close()
    portal.close()


def test_a_call_may_close_its_own_client(portal: Portal) -> None:
    async def close() -> None:
        portal.close()
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match=re.escape(CLOSED_MEANWHILE)):
        portal.run(close)
    until(lambda: own_threads() == 0, "the thread ended")


def test_a_call_that_ends_the_loop_ends_no_other_thread(portal: Portal) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        portal.run(leave)
    until(lambda: own_threads() == 0, "the thread ended")
    with pytest.raises(RuntimeError, match="the client's event loop has ended"):
        portal.run(asyncio.sleep, 0)


def test_what_is_left_running_ends_with_the_portal(portal: Portal) -> None:
    ended = threading.Event()
    kept: list[asyncio.Task[None]] = []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def begin() -> None:
        kept.append(asyncio.create_task(forever()))
        await asyncio.sleep(0)

    portal.run(begin)
    portal.close()
    assert ended.is_set()


# --- iterators


async def _numbers(log: list[str], most: int) -> AsyncIterator[int]:
    try:
        for number in range(most):
            yield number
            await asyncio.sleep(0)
    finally:
        log.append("closed")


def test_an_iterator_is_followed_to_its_end(portal: Portal) -> None:
    log: list[str] = []
    assert list(portal.iterate(_numbers, log, 3)) == [0, 1, 2]
    assert log == ["closed"]


class _Lines:
    """An iterator that has nothing to close."""

    def __init__(self) -> None:
        self.left = 3

    def __aiter__(self) -> "_Lines":
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        self.left -= 1
        return self.left


def test_an_iterator_without_an_end_of_its_own_is_followed_as_well(portal: Portal) -> None:
    assert list(portal.iterate(_Lines)) == [2, 1, 0]
    assert next(iter(portal.iterate(_Lines))) == 2


def test_a_session_is_copied_line_by_line(client: sync.Client) -> None:
    old, new = (client.memory().session(name) for name in ("old", "new"))
    old.append_many(list(range(250)))
    assert new.import_(old.export()).records == 250
    assert new.read() == list(range(250))


def test_an_error_of_an_iterator_that_is_given_comes_out(session: sync.Session) -> None:
    def lines() -> Generator[str]:
        yield from session.export()
        raise _Stop

    with pytest.raises(_Stop):
        session.import_(lines())


def test_an_iterator_that_is_left_is_closed(portal: Portal) -> None:
    log: list[str] = []
    items = portal.iterate(_numbers, log, 3)
    assert next(items) == 0
    items.close()
    assert log == ["closed"]
