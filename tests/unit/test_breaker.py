"""The circuit breaker: when calls to a server fail at once, and how it is found to be back."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.breaker import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    PROBE,
    Breaker,
    Breakers,
    BreakerState,
    all_away,
)
from holdfast.errors import AccessDenied, StoreUnavailable
from holdfast.store.redis.breaking import BreakingCarrier
from holdfast.store.redis.carrier import Broken
from holdfast.store.redis.cluster import ClusterCarrier
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.sentinel import SentinelCarrier
from holdfast.telemetry import Call, Counted, Measured, Telemetry
from holdfast.values import MemoryAddress
from tests.harness.listener import Listener
from tests.harness.waiting import until

PATIENCE = 5.0
CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Clock:
    """Monotonic seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker whose pauses are not shortened by chance."""
    return Breaker("server", patience=PATIENCE, clock=clock, jitter=lambda: 0.0)


def open_it(breaker: Breaker, clock: Clock) -> None:
    breaker.failed("no connection")
    clock.now += PATIENCE
    breaker.failed("no connection")
    assert breaker.state is OPEN


# --- one breaker


def test_it_opens_after_a_whole_patience_without_success(breaker: Breaker, clock: Clock) -> None:
    for _ in range(50):
        assert breaker.admit() is False
        breaker.failed("no connection")
        clock.now += PATIENCE / 50
    assert breaker.state is CLOSED
    assert breaker.admit() is False
    breaker.failed("no connection")
    assert (breaker.state, breaker.opened) == (OPEN, 1)


def test_one_failure_alone_opens_nothing(breaker: Breaker, clock: Clock) -> None:
    clock.now += 3600
    breaker.failed("cut long before")
    assert breaker.state is CLOSED
    assert breaker.admit() is False


def test_any_success_begins_the_count_anew(breaker: Breaker, clock: Clock) -> None:
    for _ in range(10):
        breaker.failed("no connection")
        clock.now += PATIENCE - 0.1
        breaker.succeeded()
    assert breaker.state is CLOSED
    assert breaker.away == 0


def test_while_it_is_open_calls_fail_at_once_and_are_told_why(
    breaker: Breaker, clock: Clock
) -> None:
    open_it(breaker, clock)
    clock.now += 0.25
    with pytest.raises(StoreUnavailable) as caught:
        breaker.admit()
    assert caught.value.message == (
        "the server has not answered for 5 s: calls fail at once, and it is asked again in 0.8 s. The "
        "last failure: no connection"
    )
    assert caught.value.retry_after == pytest.approx(FIRST_PAUSE - 0.25)
    assert caught.value.retryable


def test_after_the_pause_one_call_asks_and_the_others_fail(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker, clock)
    clock.now += FIRST_PAUSE
    assert breaker.admit() is True
    assert breaker.state is HALF_OPEN
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            breaker.admit()
    breaker.succeeded()
    assert breaker.state is CLOSED
    assert breaker.admit() is False


def test_each_question_without_an_answer_doubles_the_pause(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker, clock)
    pauses: list[float | None] = []
    for number in range(8):
        clock.now += LONGEST_PAUSE
        assert breaker.admit() is True
        pauses.append(breaker.still_away(f"reason {number}").retry_after)
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 30]
    with pytest.raises(StoreUnavailable, match="reason 7"):
        breaker.admit()
    breaker.succeeded()
    open_it(breaker, clock)
    with pytest.raises(StoreUnavailable) as caught:
        breaker.admit()
    assert caught.value.retry_after == FIRST_PAUSE
    assert breaker.opened == 2


def test_whoever_asks_and_is_never_heard_of_again_blocks_nobody(
    breaker: Breaker, clock: Clock
) -> None:
    open_it(breaker, clock)
    clock.now += FIRST_PAUSE
    assert breaker.admit() is True
    clock.now += PROBE
    assert breaker.admit() is True


def test_whoever_gives_up_asking_leaves_it_to_the_next(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker, clock)
    clock.now += FIRST_PAUSE
    assert breaker.admit() is True
    breaker.left()
    assert breaker.state is OPEN
    assert breaker.admit() is True


def test_calls_from_before_say_nothing_about_the_server_now(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker, clock)
    for _ in range(100):
        breaker.failed("from before")
    clock.now += FIRST_PAUSE
    assert breaker.admit() is True
    breaker.failed("from before")
    assert breaker.state is HALF_OPEN
    assert "no connection" in breaker.still_away("no connection").message


def test_an_answer_to_a_call_from_before_closes_it(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker, clock)
    breaker.succeeded()
    assert breaker.admit() is False


def test_who_asked_and_hears_late_changes_nothing(breaker: Breaker, clock: Clock) -> None:
    """Another call was answered meanwhile: the server is there."""
    open_it(breaker, clock)
    clock.now += FIRST_PAUSE
    assert breaker.admit() is True
    breaker.succeeded()
    breaker.left()
    assert breaker.state is CLOSED
    assert "no connection" in breaker.still_away("no connection").message
    assert breaker.state is CLOSED
    assert breaker.admit() is False


def test_pauses_differ_between_clients(clock: Clock) -> None:
    pauses: set[float | None] = set()
    for _ in range(20):
        breaker = Breaker(patience=PATIENCE, clock=clock)
        open_it(breaker, clock)
        with pytest.raises(StoreUnavailable) as caught:
            breaker.admit()
        pauses.add(caught.value.retry_after)
    assert len(pauses) > 10
    assert all(pause is not None and 0.7 < pause <= FIRST_PAUSE for pause in pauses)


class Life(RuleBasedStateMachine):
    """Any order of calls, answers, failures and time, against what must always hold."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(patience=PATIENCE, clock=self.clock)
        self.failures: list[float] = []
        self.asking = False
        self.asked_at = 0.0

    @rule(seconds=st.floats(0.001, 40))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def a_call_begins(self) -> None:
        before = self.breaker.state
        asks = self._admitted()
        if asks is None:
            assert before is not CLOSED
        else:
            assert asks == (before is not CLOSED)

    @rule()
    def a_call_begins_after_the_longest_pause(self) -> None:
        self.clock.now += LONGEST_PAUSE
        assert self._admitted() is not None, "the server is asked again, whatever happened"

    def _admitted(self) -> bool | None:
        """Whether the call has to ask; None where it is refused."""
        try:
            asks = self.breaker.admit()
        except StoreUnavailable as error:
            left = error.retry_after or 0
        else:
            if asks:
                assert not self.asking or self.clock.now >= self.asked_at + PROBE
                self.asking, self.asked_at = True, self.clock.now
            return asks
        assert 0 < left <= LONGEST_PAUSE
        return None

    @rule()
    def a_call_fails(self) -> None:
        before = self.breaker.state
        self.breaker.failed("no connection")
        if before is not CLOSED:
            assert self.breaker.state is before
            return
        self.failures.append(self.clock.now)
        lasted = self.clock.now - self.failures[0]
        due = len(self.failures) > 1 and lasted >= PATIENCE
        assert (self.breaker.state is OPEN) == due

    @rule()
    def a_call_succeeds(self) -> None:
        self.breaker.succeeded()
        self.failures.clear()
        self.asking = False
        assert self.breaker.state is CLOSED

    @precondition(lambda self: self.asking)
    @rule()
    def the_server_is_still_away(self) -> None:
        self.asking = False
        assert self.breaker.still_away("no connection").retry_after is not None
        assert self.breaker.state is OPEN

    @precondition(lambda self: self.asking)
    @rule()
    def whoever_asks_gives_up(self) -> None:
        self.asking = False
        self.breaker.left()


TestLife = Life.TestCase
TestLife.settings = settings(stateful_step_count=40)


# --- several servers


def test_only_when_all_servers_are_away_nobody_has_to_be_asked() -> None:
    soon, late = StoreUnavailable("a", retry_after=1.0), StoreUnavailable("b", retry_after=9.0)
    assert all_away([late, soon]) is soon
    assert all_away([late, StoreUnavailable("c"), soon]) is None
    assert all_away([TimeoutError()]) is None
    assert all_away([]) is None


class Told:
    """An observer that remembers the last levels."""

    def __init__(self) -> None:
        self.levels: dict[str, float | None] = {}

    def begun(self, call: Call, memory: MemoryAddress, /) -> object: ...

    def ended(
        self, call: Call, memory: MemoryAddress, outcome: str, seconds: float, begun: object, /
    ) -> None: ...

    def counted(
        self, what: Counted, memory: MemoryAddress | None, amount: int, label: str, /
    ) -> None: ...

    def measured(
        self, what: Measured, memory: MemoryAddress | None, value: float | None, label: str, /
    ) -> None:
        if what is Measured.BREAKERS:
            self.levels[label] = value


def test_observers_are_told_how_many_are_in_which_state(clock: Clock) -> None:
    told = Told()
    breakers = Breakers(patience=PATIENCE, telemetry=Telemetry([told]), clock=clock)
    one, two = breakers.add("one"), breakers.add("two")
    assert told.levels == {"closed": 2, "open": 0, "half-open": 0}
    open_it(one, clock)
    assert told.levels == {"closed": 1, "open": 1, "half-open": 0}
    clock.now += LONGEST_PAUSE
    one.admit()
    assert told.levels == {"closed": 1, "open": 0, "half-open": 1}
    breakers.remove(two)
    one.succeeded()
    assert told.levels == {"closed": 1, "open": 0, "half-open": 0}
    assert [breaker.server for breaker in breakers] == ["one"]


# --- the carrier


def pool_of(port: int) -> ConnectionPool:
    return ConnectionPool(
        host="127.0.0.1", port=port, retry=Retry(NoBackoff(), 0), socket_timeout=None
    )


def carrier_to(
    port: int, clock: Clock, *, timeout: float = 20, patience: float = PATIENCE
) -> tuple[BreakingCarrier, Breaker]:
    breakers = Breakers(patience=patience, clock=clock)
    carrier = BreakingCarrier(pool_of(port), owned=True, timeout=timeout, breakers=breakers)
    [breaker] = breakers
    return carrier, breaker


async def fails(call: Any, error: type[Exception] = StoreUnavailable) -> Any:
    with pytest.raises(error) as caught:
        await call
    return caught.value


@pytest.mark.asyncio
async def test_a_server_that_is_gone_is_asked_no_more_until_it_answers(clock: Clock) -> None:
    async with Listener() as listener:
        carrier, breaker = carrier_to(listener.port, clock)
        assert breaker.server == f"127.0.0.1:{listener.port}"
        listener.answers[b"GET"] = b""
        for seconds in (0.0, PATIENCE / 2, PATIENCE / 2):
            clock.now += seconds
            await fails(carrier.exchange([(b"GET", b"a")]), Broken)
        assert breaker.state is OPEN
        heard = len(listener.heard)
        error = await fails(carrier.exchange([(b"SET", b"a", 1)]))
        assert error.retry_after is not None
        await fails(carrier.block((b"BLPOP", b"a", 1), 1))
        assert len(listener.heard) == heard
        clock.now += FIRST_PAUSE
        listener.answers[b"PING"] = b""
        error = await fails(carrier.exchange([(b"SET", b"a", 1)]))
        assert "the connection broke" in error.message
        assert breaker.state is OPEN
        clock.now += LONGEST_PAUSE
        listener.answers[b"PING"] = b"+PONG\r\n"
        assert await carrier.exchange([(b"SET", b"a", 1)]) == [b"OK"]
        assert breaker.state is CLOSED
        assert len(listener.named(b"SET")) == 1, "a write was sent to find out"
        assert len(listener.named(b"PING")) == 2
        await carrier.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", [b"-NOPERM no\r\n", b"-LOADING x\r\n", b"-OOM x\r\n"])
async def test_a_server_that_refuses_is_there(clock: Clock, answer: bytes) -> None:
    async with Listener({b"GET": answer}) as listener:
        carrier, breaker = carrier_to(listener.port, clock)
        breaker.failed("earlier")
        for _ in range(5):
            clock.now += PATIENCE
            [reply] = await carrier.exchange([(b"GET", b"a")])
            assert isinstance(reply, Exception)
        assert breaker.state is CLOSED
        await carrier.aclose()


@pytest.mark.asyncio
async def test_a_server_that_refuses_the_credentials_is_there(clock: Clock) -> None:
    async with Listener({b"HELLO": b"-NOAUTH x\r\n", b"CLIENT": b"-NOAUTH x\r\n"}) as listener:
        listener.answers[b"AUTH"] = b"-WRONGPASS x\r\n"
        breakers = Breakers(patience=PATIENCE, clock=clock)
        pool = ConnectionPool(
            host="127.0.0.1", port=listener.port, password="x", retry=Retry(NoBackoff(), 0)
        )
        carrier = BreakingCarrier(pool, owned=True, breakers=breakers)
        [breaker] = breakers
        for _ in range(3):
            await fails(carrier.exchange([(b"GET", b"a")]), AccessDenied)
            await fails(carrier.block((b"BLPOP", b"a", 1), 1), AccessDenied)
            clock.now += PATIENCE
        assert breaker.state is CLOSED
        open_it(breaker, clock)
        clock.now += LONGEST_PAUSE
        await fails(carrier.exchange([(b"GET", b"a")]), AccessDenied)
        assert breaker.state is CLOSED
        await carrier.aclose()


@pytest.mark.asyncio
async def test_one_call_asks_while_the_others_fail_at_once(clock: Clock) -> None:
    async with Listener({b"PING": b"+PONG\r\n"}) as listener:
        carrier, breaker = carrier_to(listener.port, clock)
        open_it(breaker, clock)
        clock.now += LONGEST_PAUSE
        listener.hold.clear()
        first = asyncio.create_task(carrier.exchange([(b"GET", b"a")]))
        await until(lambda: breaker.state is HALF_OPEN, "it is asked")
        for _ in range(10):
            await fails(carrier.exchange([(b"GET", b"a")]))
        listener.hold.set()
        assert await first == [b"OK"]
        assert len(listener.named(b"PING")) == 1
        await carrier.aclose()


@pytest.mark.asyncio
async def test_whoever_is_cancelled_while_asking_leaves_it_to_the_next(clock: Clock) -> None:
    async with Listener({b"PING": b"+PONG\r\n"}) as listener:
        carrier, breaker = carrier_to(listener.port, clock)
        open_it(breaker, clock)
        clock.now += LONGEST_PAUSE
        listener.hold.clear()
        first = asyncio.create_task(carrier.exchange([(b"GET", b"a")]))
        await until(lambda: bool(listener.heard), "it is asked")
        first.cancel()
        await fails(first, asyncio.CancelledError)
        assert breaker.state is OPEN
        listener.hold.set()
        assert await carrier.exchange([(b"GET", b"a")]) == [b"OK"]
        await carrier.aclose()


@pytest.mark.asyncio
async def test_callers_with_little_patience_learn_of_a_silent_server_too(clock: Clock) -> None:
    async with Listener() as listener:
        carrier, breaker = carrier_to(listener.port, clock)
        await carrier.exchange([(b"GET", b"a")])
        listener.silent |= {b"GET", b"WAIT"}
        for commands in ([(b"GET", b"a")], [(b"SET", b"a", 1), (b"WAIT", 1, 9000)]):
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await carrier.exchange(commands)
                clock.now += PATIENCE
        assert breaker.away == 0
        calls = [asyncio.create_task(carrier.exchange([(b"GET", b"a")])) for _ in range(2)]
        await asyncio.wait(calls, timeout=1.0)
        calls[0].cancel()
        await fails(calls[0], asyncio.CancelledError)
        clock.now += PATIENCE
        calls[1].cancel()
        await fails(calls[1], asyncio.CancelledError)
        assert breaker.state is OPEN
        await carrier.aclose()


@pytest.mark.asyncio
async def test_waiting_for_a_turn_counts_when_it_breaks_and_when_it_is_answered(
    clock: Clock,
) -> None:
    async with Listener({b"BLPOP": b""}) as listener:
        carrier, breaker = carrier_to(listener.port, clock)
        for _ in range(2):
            await fails(carrier.block((b"BLPOP", b"a", 1), 1), Broken)
            clock.now += PATIENCE
        assert breaker.state is OPEN
        clock.now += LONGEST_PAUSE
        listener.answers[b"BLPOP"] = b"*2\r\n$1\r\na\r\n$1\r\nx\r\n"
        assert await carrier.block((b"BLPOP", b"a", 1), 1) == [b"a", b"x"]
        assert breaker.state is CLOSED
        breaker.failed("earlier")
        listener.answers[b"BLPOP"] = b"*-1\r\n"
        assert await carrier.block((b"BLPOP", b"a", 1), 1) is None
        clock.now += 1
        assert breaker.away > 0, "no answer is no success"
        await carrier.aclose()


@pytest.mark.asyncio
async def test_a_server_that_nobody_talks_to_any_more_is_forgotten(clock: Clock) -> None:
    async with Listener() as listener:
        breakers = Breakers(patience=PATIENCE, clock=clock)
        carriers = [
            BreakingCarrier(pool_of(listener.port), owned=True, breakers=breakers) for _ in range(2)
        ]
        await carriers[0].retire()
        assert len(list(breakers)) == 1
        for carrier in carriers:
            await carrier.aclose()
        assert list(breakers) == []


def test_a_socket_is_named_by_its_path(clock: Clock) -> None:
    breakers = Breakers(patience=PATIENCE, clock=clock)
    pool = ConnectionPool(path="/run/redis.sock", password="secret")
    BreakingCarrier(pool, owned=True, breakers=breakers)
    assert [breaker.server for breaker in breakers] == ["/run/redis.sock"]


# --- the runner's patience


@pytest.mark.asyncio
async def test_a_call_that_begins_while_the_server_is_away_is_not_repeated(clock: Clock) -> None:
    async with Listener() as listener:
        carrier, breaker = carrier_to(listener.port, clock)
        open_it(breaker, clock)
        runner = Runner(carrier, patience=600)
        error = await fails(runner.read([(b"GET", b"a")]))
        assert error.retry_after is not None
        assert listener.heard == []
        await carrier.aclose()


@pytest.mark.asyncio
async def test_a_call_that_was_under_way_goes_on_for_its_patience(clock: Clock) -> None:
    async with Listener({b"GET": b""}) as listener:
        carrier, breaker = carrier_to(listener.port, clock)
        call = asyncio.create_task(Runner(carrier, patience=600).read([(b"GET", b"a")]))
        await until(lambda: breaker.away > 0 or bool(listener.heard), "it failed once")
        await until(lambda: _moved(clock, 0.5) and breaker.state is OPEN, "it is open")
        listener.answers[b"GET"] = b"$2\r\nhi\r\n"
        await until(lambda: _moved(clock, 0.5) and call.done(), "it was repeated")
        assert await call == [b"hi"]
        assert breaker.state is CLOSED
        await carrier.aclose()


def _moved(clock: Clock, seconds: float) -> bool:
    clock.now += seconds
    return True


# --- servers that have to be found first


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "find",
    [
        lambda connect: ClusterCarrier([("a", 1), ("b", 2)], connect),
        lambda connect: SentinelCarrier([connect(("a", 1)), connect(("b", 2))], "main", connect),
    ],
    ids=["cluster", "sentinel"],
)
async def test_where_all_who_know_are_away_nobody_is_asked(
    clock: Clock, find: Callable[[Callable[[Any], BreakingCarrier]], Any]
) -> None:
    breakers = Breakers(patience=PATIENCE, clock=clock)
    async with Listener({b"CLUSTER": b"", b"SENTINEL": b""}) as listener:

        def connect(_: Any) -> BreakingCarrier:
            return BreakingCarrier(pool_of(listener.port), owned=True, breakers=breakers)

        carrier = find(connect)
        assert (await fails(carrier.exchange([(b"GET", b"a")]))).retry_after is None
        clock.now += PATIENCE
        assert (await fails(carrier.exchange([(b"GET", b"a")]))).retry_after is None
        assert {breaker.state for breaker in breakers} == {OPEN}
        heard = len(listener.heard)
        assert (await fails(carrier.exchange([(b"GET", b"a")]))).retry_after is not None
        assert len(listener.heard) == heard
        await carrier.aclose()


def _slots(first: int, last: int, port: int) -> bytes:
    return f"*3\r\n:{first}\r\n:{last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n".encode()


@pytest.mark.asyncio
async def test_a_node_of_a_cluster_that_is_away_stops_no_call_to_another(clock: Clock) -> None:
    breakers = Breakers(patience=PATIENCE, clock=clock)
    async with Listener() as one, Listener() as two:
        slots = b"*2\r\n" + _slots(0, 8191, one.port) + _slots(8192, 16383, two.port)
        for node in (one, two):
            node.answers[b"CLUSTER"] = slots

        def connect(node: tuple[str, int]) -> BreakingCarrier:
            return BreakingCarrier(pool_of(node[1]), owned=True, breakers=breakers)

        carrier = ClusterCarrier([("127.0.0.1", one.port), ("127.0.0.1", two.port)], connect)
        here, there = (b"GET", b"b"), (b"GET", b"a")  # slots 3300 and 15495
        assert await carrier.exchange([here, there]) == [b"OK", b"OK"]
        one.answers[b"GET"] = one.answers[b"CLUSTER"] = b""
        for seconds in (0.0, PATIENCE):
            clock.now += seconds
            await fails(carrier.exchange([here]), Broken)
            assert await carrier.exchange([there]) == [b"OK"]
        error = await fails(carrier.exchange([here]))
        assert error.retry_after is not None
        assert await carrier.exchange([there]) == [b"OK"]
        [gone, found] = await carrier.exchange([here, there])
        assert (gone.retry_after is not None, found) == (True, b"OK")
        states = {breaker.server: breaker.state for breaker in breakers}
        assert states == {f"127.0.0.1:{one.port}": OPEN, f"127.0.0.1:{two.port}": CLOSED}
        await carrier.aclose()
