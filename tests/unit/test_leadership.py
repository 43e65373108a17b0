"""Who leads: never two at once, and somebody soon. The rules alone, and the elector over a lease."""

import asyncio
import heapq
import itertools
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast_operator.elector import Alone, Elector
from holdfast_operator.leadership import Candidate, Lease, LeaseHasNoPlace, Times
from holdfast_operator.services.ports import ClusterConflict, ClusterError, ClusterUnavailable
from tests.harness.waiting import until

TIMES = Times()
FLOOR = 29_000_000


def held(by: str, version: str = "1", *, transitions: int = 4) -> Lease:
    return Lease(by, 12.0, transitions, "then", version)


def leading(name: str = "a", *, began: float = 100.0) -> Candidate:
    candidate = Candidate(name, TIMES)
    candidate.saw(None, began)
    draft = candidate.draft(began, FLOOR)
    assert draft is not None
    candidate.wrote(draft._replace(version="1"), began)
    return candidate


# --- the rules


def test_the_first_one_takes_the_lease_at_once_and_counts_from_before_its_request():
    candidate = leading(began=100.0)
    assert candidate.leads
    assert candidate.epoch == FLOOR
    assert candidate.left(103.0) == 5.0
    assert candidate.left(108.0) == 0.0


def test_who_waits_counts_from_when_it_saw_the_lease_change():
    candidate = Candidate("b", TIMES)
    candidate.saw(held("a", "1"), 100.0)
    candidate.saw(held("a", "2"), 109.0)
    candidate.saw(held("a", "2"), 119.0)
    assert candidate.draft(120.9, 0) is None
    assert candidate.draft(121.0, 0) == Lease("b", 12.0, 5, "", "2")


def test_a_longer_lease_of_its_holder_is_respected():
    candidate = Candidate("b", TIMES)
    candidate.saw(held("a")._replace(seconds=60.0), 100.0)
    assert candidate.draft(159.0, 0) is None
    assert candidate.draft(160.0, 0) is not None


def test_a_lease_that_was_given_up_is_taken_at_once():
    candidate = Candidate("b", TIMES)
    candidate.saw(held("")._replace(seconds=1.0), 100.0)
    draft = candidate.draft(100.0, 0)
    assert draft is not None
    assert draft.transitions == 5


def test_a_lease_that_vanished_still_counts_for_who_held_it():
    candidate = Candidate("b", TIMES)
    candidate.saw(held("a"), 100.0)
    candidate.saw(None, 105.0)
    candidate.saw(None, 110.0)
    assert candidate.draft(116.9, FLOOR) is None
    draft = candidate.draft(117.0, FLOOR)
    assert draft is not None
    assert draft.version == ""
    assert draft.transitions == FLOOR


def test_an_acquisition_whose_answer_was_lost_is_recognised():
    candidate = Candidate("b", TIMES)
    candidate.saw(held("b", "9", transitions=7), 100.0)
    draft = candidate.draft(100.0, 0)
    assert draft == held("b", "9", transitions=7)


@pytest.mark.parametrize(
    ("lease", "why"),
    [(None, "deleted"), (held("b", "2"), "held by b"), (held("", "2"), "held by nobody")],
)
def test_a_leader_whose_lease_is_anothers_leads_no_more(lease: Lease | None, why: str):
    candidate = leading()
    candidate.saw(lease, 101.0)
    assert why in candidate.lost
    assert candidate.left(101.0) == 0.0
    assert candidate.resignation() is None


def test_epochs_grow_also_over_a_lease_that_was_restored_from_a_backup():
    candidate = Candidate("b", TIMES)
    candidate.saw(held("", transitions=3), 100.0)
    draft = candidate.draft(100.0, FLOOR)
    assert draft is not None
    assert draft.transitions == FLOOR
    candidate = Candidate("c", TIMES)
    candidate.saw(held("", transitions=FLOOR + 2), 100.0)
    draft = candidate.draft(100.0, FLOOR)
    assert draft is not None
    assert draft.transitions == FLOOR + 3


@pytest.mark.parametrize(
    "times",
    [
        Times(lease=0.5),
        Times(lease=12.5),
        Times(lease=8, deadline=8),
        Times(retry=9),
        Times(request=8),
        Times(retry=0),
    ],
)
def test_times_that_cannot_work_are_refused(times: Times):
    assert times.fault()
    assert Times().fault() is None


# --- never two at once


@dataclass
class Process:
    """A candidate in the simulation: its clock runs at a rate of its own."""

    candidate: Candidate
    rate: float
    dead: bool = False
    intervals: list[tuple[float, float]] = field(default_factory=list)

    def clock(self, real: float) -> float:
        return real * self.rate

    def real(self, local: float) -> float:
        return local / self.rate


class Simulation:
    """Processes that want to lead, an API server, and a network that does what the numbers say.

    Time is real time; nobody in it sees it. A process is represented by what it does next; between its
    steps it may be paused for any time, and so may a request on its way, or the answer on its way back.
    """

    def __init__(self, choices: random.Random, rates: list[float], slow: float) -> None:
        self.choices = choices
        self.slow = slow
        self.lease: Lease | None = None
        self.version = 0
        self.processes = [
            Process(Candidate(str(number), TIMES), rate) for number, rate in enumerate(rates)
        ]
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.count = 0
        self.epochs: list[tuple[int, str]] = []

    def at(self, when: float, what: Callable[[float], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what))

    def delay(self) -> float:
        return self.choices.choice([0.01, 0.2, 1.0, 2.9, 6.0, 13.0, 40.0 * self.slow])

    def run(self, until: float) -> None:
        for process in self.processes:
            self.at(self.choices.uniform(0, 15), lambda now, one=process: self.turn(one, now))
        while self.events and self.events[0][0] < until:
            when, _, what = heapq.heappop(self.events)
            what(when)

    def alive(self, process: Process, now: float) -> bool:
        """What the watchdog does: a leader past its deadline is no more."""
        candidate = process.candidate
        if candidate.leads and candidate.left(process.clock(now)) <= 0:
            process.dead = True
        return not process.dead

    def turn(self, process: Process, now: float) -> None:
        """A process begins a round: it reads or, if it leads, renews or gives up."""
        if not self.alive(process, now):
            self.restart(process, now)
            return
        candidate = process.candidate
        if candidate.leads:
            resignation = candidate.resignation()
            if resignation is not None and self.choices.random() < 0.05:
                first, last = process.intervals[-1]
                process.intervals[-1] = (first, min(last, now))  # it stopped acting before it asked
                process.dead = True
                self.at(now + self.delay(), lambda at: self.store(resignation, at) and None)
                self.restart(process, now)
            else:
                self.write(process, now)
        else:
            self.at(now + self.delay(), lambda at: self.read(process, self.lease, at))

    def read(self, process: Process, lease: Lease | None, now: float) -> None:
        back = now + self.delay()

        def answered(at: float) -> None:
            if not self.alive(process, at):
                self.restart(process, at)
                return
            process.candidate.saw(lease, process.clock(at))
            if process.candidate.lost:
                process.dead = True
                self.restart(process, at)
            else:
                self.write(process, at)

        self.at(back, answered)

    def write(self, process: Process, now: float) -> None:
        draft = process.candidate.draft(process.clock(now), 0)
        if draft is None:
            self.again(process, now)
            return
        began = process.clock(now)
        arrives = now + self.delay()
        answers = arrives + self.delay()
        results: list[Lease | None] = []
        self.at(arrives, lambda at: results.append(self.store(draft, at)))
        timeout = process.real(began + TIMES.request)

        def answered(at: float) -> None:
            if not self.alive(process, at):
                self.restart(process, at)
            elif answers <= timeout and results[0] is not None:
                self.won(process, results[0], began, at)
                self.again(process, at)
            else:  # too late, or refused: it looks
                self.at(at + self.delay(), lambda later: self.read(process, self.lease, later))

        self.at(max(min(answers, timeout), now), answered)

    def won(self, process: Process, lease: Lease, began: float, now: float) -> None:
        first = not process.candidate.leads
        process.candidate.wrote(lease, began)
        local = process.clock(now)
        end = process.real(local + process.candidate.left(local))
        if first:
            process.intervals.append((now, max(now, end)))
            self.epochs.append((lease.transitions, lease.holder))
        else:
            begin, _ = process.intervals[-1]
            process.intervals[-1] = (begin, end)

    def store(self, lease: Lease, now: float) -> Lease | None:
        del now
        current = "" if self.lease is None else self.lease.version
        if lease.version != current:
            return None
        self.version += 1
        self.lease = lease._replace(version=str(self.version), acquired="then")
        return self.lease

    def again(self, process: Process, now: float) -> None:
        pause = TIMES.retry + (self.delay() if self.choices.random() < 0.1 else 0.0)
        self.at(process.real(process.clock(now) + pause), lambda at: self.turn(process, at))

    def restart(self, process: Process, now: float) -> None:
        """Kubernetes starts another process, with another name."""
        name = f"{process.candidate._name}'"
        again = Process(Candidate(name, TIMES), process.rate)
        self.processes.append(again)
        self.at(now + self.choices.uniform(0.5, 10), lambda at: self.turn(again, at))


@given(
    seed=st.integers(0, 2**32),
    rates=st.lists(st.floats(0.82, 1.22), min_size=2, max_size=4),
    slow=st.floats(0.0, 1.0),
)
@example(seed=1, rates=[0.82, 1.22], slow=1.0)
def test_two_never_lead_at_once_whatever_is_delayed_lost_or_paused(
    seed: int, rates: list[float], slow: float
):
    simulation = Simulation(random.Random(seed), rates, slow)
    simulation.run(until=400.0)
    periods = sorted(
        (first, last, process.candidate._name)
        for process in simulation.processes
        for first, last in process.intervals
    )
    for (_, last, one), (first, _, other) in itertools.pairwise(periods):
        assert last <= first, f"{one} led until {last}, {other} from {first}"
    holders: dict[int, str] = {}
    for epoch, holder in simulation.epochs:
        assert holders.setdefault(epoch, holder) == holder, "two leaders of one epoch"
    assert [epoch for epoch, _ in simulation.epochs] == sorted(e for e, _ in simulation.epochs)


def test_the_simulation_has_leaders_and_would_see_two_of_them():
    simulation = Simulation(random.Random(7), [1.0, 1.0, 1.0], 0.1)
    simulation.run(until=2000.0)
    assert len(simulation.epochs) > 10
    # Clocks that differ by more than the rule allows are the proof that it looks at the right thing.
    overlaps = 0
    for seed in range(60):
        simulation = Simulation(random.Random(seed), [0.3, 3.0], 0.5)
        simulation.run(until=400.0)
        periods = sorted(period for process in simulation.processes for period in process.intervals)
        overlaps += sum(last > first for (_, last), (first, _) in itertools.pairwise(periods))
    assert overlaps


# --- the elector


class Stored:
    """A lease in memory, behind a server with faults."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.fault: ClusterError | None = None
        self.hung = False
        self.writes = 0

    async def _ask(self) -> None:
        if self.hung:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault

    async def read(self) -> Lease | None:
        await self._ask()
        return self.lease

    async def write(self, lease: Lease) -> Lease:
        await self._ask()
        if lease.version != ("" if self.lease is None else self.lease.version):
            raise ClusterConflict("changed")
        self.writes += 1
        self.lease = lease._replace(version=str(self.writes), acquired="then")
        return self.lease


FAST = Times(lease=1.0, deadline=0.6, retry=0.05, request=0.2)
"""For those who lose it."""
PATIENT = Times(lease=60, deadline=40, retry=0.05, request=30)
"""For those who keep it, on a busy machine, too."""


class Ended:
    """Takes in why the process would have ended."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.when = 0.0
        self.happened = threading.Event()

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        self.when = time.monotonic()
        self.happened.set()


def elector(
    stored: Stored, name: str = "a", ended: Ended | None = None, times: Times = PATIENT
) -> Elector:
    return Elector(stored, name, times, end=ended or Ended(), clock=time.monotonic, floor=lambda: 7)


@pytest.mark.asyncio
async def test_a_leader_renews_and_what_is_given_up_is_taken_over_at_once():
    stored, stop = Stored(), asyncio.Event()
    first, second = elector(stored, "a"), elector(stored, "b")
    assert await first.acquire(stop)
    assert (first.epoch, first.leads, first.sure(5.0), first.sure(50.0)) == (7, True, True, False)
    keeping = asyncio.create_task(first.keep())
    waiting = asyncio.create_task(second.acquire(stop))
    await until(lambda: stored.writes > 20, "renewed many times")
    assert not waiting.done()
    assert second.can_lead()
    assert not second.leads
    keeping.cancel()
    await first.release()
    assert not first.sure(0.0)
    assert await waiting
    assert second.epoch == 8
    await second.release()


@pytest.mark.asyncio
async def test_a_lease_counts_from_before_the_request_that_wrote_it():
    clock = [100.0]

    class Slow(Stored):
        async def write(self, lease: Lease) -> Lease:
            clock[0] += 0.15
            return await super().write(lease)

    leader = Elector(Slow(), "a", FAST, end=Ended(), clock=lambda: clock[0], floor=lambda: 7)
    assert await leader.acquire(asyncio.Event())
    assert leader.sure(0.44)
    assert not leader.sure(0.46)
    await leader.release()


@pytest.mark.asyncio
async def test_one_that_is_told_to_end_while_it_waits_ends():
    stored, stop = Stored(), asyncio.Event()
    stored.lease = held("another")
    waiting = asyncio.create_task(elector(stored).acquire(stop))
    await asyncio.sleep(0)
    stop.set()
    assert not await waiting


@pytest.mark.asyncio
async def test_a_renewal_that_was_cut_off_keeps_nobody_from_giving_up():
    stored = Stored()
    leader = elector(stored)
    assert await leader.acquire(asyncio.Event())
    assert stored.lease is not None
    stored.lease = stored.lease._replace(version="written, and nobody waited for the answer")
    await leader.release()
    assert stored.lease.holder == ""
    assert not leader.leads


@pytest.mark.asyncio
async def test_a_lease_that_is_anothers_is_not_given_up():
    stored, ended = Stored(), Ended()
    leader = elector(stored, "a", ended)
    assert await leader.acquire(asyncio.Event())
    stored.lease = held("b", "99")
    await leader.release()
    assert stored.lease == held("b", "99")


@pytest.mark.asyncio
async def test_a_namespace_that_is_not_there_is_said_at_once():
    stored = Stored()
    stored.fault = LeaseHasNoPlace("create it")
    with pytest.raises(LeaseHasNoPlace):
        await elector(stored).acquire(asyncio.Event())


@pytest.mark.asyncio
@pytest.mark.parametrize("how", ["hung", "refused", "stolen", "deleted"])
async def test_a_leader_that_loses_its_lease_ends(how: str):
    stored, ended = Stored(), Ended()
    leader = elector(stored, "a", ended, PATIENT if how in ("stolen", "deleted") else FAST)
    assert await leader.acquire(asyncio.Event())
    keeping = asyncio.create_task(leader.keep())
    began = time.monotonic()
    match how:
        case "hung":
            stored.hung = True
        case "refused":
            stored.fault = ClusterUnavailable("refused")
        case "stolen":
            stored.lease = held("b", "99")
        case _:
            stored.lease = None
    await until(lambda: bool(ended.reasons), "ended")
    expected = {"stolen": "held by b", "deleted": "deleted"}.get(how, "not renewed for 0.6 s")
    assert expected in ended.reasons[0]
    assert not leader.sure(0.0)
    assert ended.when - began < 30
    keeping.cancel()


@pytest.mark.asyncio
async def test_a_renewal_whose_answer_was_lost_is_no_loss():
    stored, ended = Stored(), Ended()
    leader = elector(stored, "a", ended)
    assert await leader.acquire(asyncio.Event())
    assert stored.lease is not None
    stored.lease = stored.lease._replace(version="written, and the answer lost")
    keeping = asyncio.create_task(leader.keep())
    before = stored.writes
    await until(lambda: stored.writes > before + 3, "goes on")
    assert not ended.reasons
    keeping.cancel()
    await leader.release()


@pytest.mark.asyncio
async def test_the_watchdog_ends_a_process_whose_loop_is_blocked():
    ended = Ended()
    leader = elector(Stored(), "a", ended, FAST)
    assert await leader.acquire(asyncio.Event())
    # Nothing else runs in this loop until the thread has spoken.
    assert ended.happened.wait(60)
    assert "not renewed" in ended.reasons[0]


def test_an_operator_alone_is_always_sure():
    alone = Alone(7)
    assert (alone.epoch, alone.leads, alone.can_lead(), alone.sure(1e9)) == (7, True, True, True)
