"""Both stores do what the model says, whatever is asked of them in whatever order."""

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace

from holdfast.errors import HoldfastError
from holdfast.messages import id_key
from holdfast.store import SessionStore, lease_token
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.redis import RedisStore
from holdfast.values import (
    Batch,
    Caller,
    Flag,
    Granted,
    MemoryAddress,
    Prepared,
    Refresh,
    Splice,
    Terms,
)
from tests.harness.servers import Server
from tests.verify.model import Left, Model, New, Refused

pytestmark = [pytest.mark.redis, pytest.mark.slow]

HOUR = 3_600_000
TOKENS = tuple(lease_token(HOUR if number < 3 else 0) for number in range(4))
"""Of three that wait in line, and one that does not."""
FLUSHERS = ("f1", "f2")
NOBODY, HOLDER = "", "holder"
callers = st.sampled_from([NOBODY] * 4 + [HOLDER] * 4 + list(TOKENS))
ids = st.sampled_from(["", "", "a", "b", "c", "d"])
messages = st.builds(
    New,
    body=st.sampled_from(['"x"', '{"role":"user","content":"y"}', "[1,2]"]),
    tokens=st.integers(1, 9),
    flags=st.sampled_from([0, 0, 0, 0, int(Flag.SYSTEM), int(Flag.PINNED), int(Flag.INEXACT)]),
    group=st.sampled_from([0, 0, 0, 0, 1, 2, 4]),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to leave: decided in an epoch, and whether a summary takes its place."""

    epoch: int
    seqs: tuple[int, ...]
    summarise: bool


@dataclass(slots=True)
class Side:
    """A store, and what callers were told by it."""

    handle: SessionStore
    epochs: dict[str, int] = field(default_factory=dict[str, int])
    fence: int = 0
    plans: dict[str, tuple[int, list[tuple[int, bytes]]]] = field(
        default_factory=dict[str, tuple[int, list[tuple[int, bytes]]]]
    )

    def caller(self, token: str) -> Caller:
        return Caller(token, self.epochs.get(token, 0), 0) if token else Caller()


class Machine(RuleBasedStateMachine):
    """Asks both stores and the model the same."""

    server: Server

    @initialize(
        limits=st.sampled_from([(0, 0), (30, 0), (0, 6), (40, 8)]),
        refuse=st.sampled_from([False, False, False, True]),
        enforced=st.booleans(),
    )
    def begin(self, limits: tuple[int, int], *, refuse: bool, enforced: bool) -> None:
        self.runner = asyncio.Runner()
        self.store = RedisStore.from_url(self.server.url)
        memory = MemoryAddress(f"machine-{uuid.uuid4().hex[:12]}", "support")
        in_memory = InMemoryStore(clock=lambda: time.time_ns() // 1000)
        self.sides = [Side(store.session(memory, "any")) for store in (in_memory, self.store)]
        self.model = Model(*limits, refuse=refuse, enforced=enforced)
        self.plans: dict[str, Plan] = {}
        self.terms = Terms(
            revision=0,
            max_tokens=limits[0],
            max_messages=limits[1],
            refuse=refuse,
            ttl=HOUR,
            after_clear=0,
            after_flush=0,
            max_lifetime=0,
            refresh=Refresh.WRITE,
            lease=HOUR,
            grant=HOUR,
            enforced=enforced,
            max_ids=64,
        )

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.run(self.store.aclose())
            self.runner.close()

    def ask(
        self, expected: Callable[[], Any], ask: Callable[[Side], Awaitable[Any]]
    ) -> list[Any] | None:
        """Compare what the model and both stores say; return it unless they refuse."""
        try:
            said: Any = expected()
        except Refused as refused:
            said = refused.code
        answers: list[Any] = []
        for side in self.sides:
            answer = self.runner.run(_answer(ask(side)))
            assert answer == said, f"{type(side.handle).__name__} says {answer}, not {said}"
            answers.append(answer)
        return None if isinstance(said, str) else answers

    def who(self, caller: str) -> str:
        """The token of a caller: of whoever holds the turn, where it is not named."""
        return self.model.holder if caller == HOLDER else caller

    @rule(new=st.lists(messages, min_size=1, max_size=3), caller=callers, key=ids)
    def append(self, new: list[New], caller: str, key: str) -> None:
        self.append_as(self.who(caller), new, key)

    @rule(new=st.lists(messages, min_size=1, max_size=6))
    def append_as_the_holder(self, new: list[New]) -> None:
        self.append_as(self.model.holder, new, "")

    @rule(tokens=st.lists(st.integers(1, 9), min_size=1, max_size=6))
    def append_plain_ones(self, tokens: list[int]) -> None:
        self.append_as(self.model.holder, [New('"plain"', one) for one in tokens], "")

    def append_as(self, token: str, new: list[New], key: str) -> None:
        model = self.model
        batch = [
            New(one.body, one.tokens, one.flags, max(0, model.following + at - one.group))
            if one.group
            else one
            for at, one in enumerate(new)
        ]
        digest = 1 + sum(map(hash_of, batch)) % 1000 if key else 0
        prepared = tuple(
            _prepared(one, f"{key}#{at}" if key else None) for at, one in enumerate(batch)
        )

        async def ask(side: Side) -> tuple[int, bool, int]:
            sent = Batch(prepared, id_key(key) if key else "", digest)
            done = await side.handle.append(self.terms, sent, side.caller(token))
            return done.seq, done.duplicate, done.evicted

        self.ask(lambda: model.append(batch, token, key, digest), ask)

    @rule(caller=callers)
    def pop(self, caller: str) -> None:
        token = self.who(caller)
        newest = self.model.records[-1].seq if self.model.records else 1

        async def ask(side: Side) -> int:
            caller = side.caller(token)
            done = await side.handle.pop(self.terms, caller, expected=newest, opens=(), closes=())
            return done.records

        self.ask(lambda: self.model.pop(token), ask)

    @rule(caller=callers, place=st.integers(0, 9), pinned=st.booleans())
    def pin(self, caller: str, place: int, *, pinned: bool) -> None:
        token = self.who(caller)
        records = self.model.records
        seq = records[place % len(records)].seq if records and place else 10_000

        async def ask(side: Side) -> int:
            caller = side.caller(token)
            return (await side.handle.pin(self.terms, caller, seq=seq, pinned=pinned)).records

        self.ask(lambda: self.model.pin(seq, token, pinned=pinned), ask)

    @rule(caller=callers, force=st.booleans())
    def clear(self, caller: str, *, force: bool) -> None:
        token = self.who(caller)

        async def ask(side: Side) -> int:
            done = await side.handle.clear(self.terms, side.caller(token), force=force)
            if token and done.epoch:
                side.epochs[token] = done.epoch
            return done.records

        if self.ask(lambda: self.model.clear(token, force=force), ask) and token:
            self.model.known_epoch[token] = self.model.epochs

    @rule(caller=callers, by=st.integers(1, 9))
    def regressed(self, caller: str, by: int) -> None:
        """A caller remembers more than there is."""
        token = self.who(caller)
        status = [self.runner.run(side.handle.status()) for side in self.sides]
        if not self.model.exists or (self.model.enforced and self.model.holder):
            return

        def expected() -> None:
            self.model.check(token)
            raise Refused("AcknowledgedLost")

        async def ask(side: Side) -> None:
            epoch = status[self.sides.index(side)].epoch
            told = replace(side.caller(token), seen=self.model.following - 1 + by)
            caller = told if token else replace(told, epoch=epoch)
            await side.handle.append(self.terms, Batch((Prepared(b'"late"', 1),)), caller)

        self.ask(expected, ask)

    @rule(token=st.sampled_from(TOKENS))
    def acquire(self, token: str) -> None:
        async def ask(side: Side) -> int:
            answer = await side.handle.acquire(self.terms, token, "holder")
            if not isinstance(answer, Granted):
                return answer.place
            side.epochs[token] = answer.epoch
            assert answer.seen == self.model.following - 1
            assert answer.fence >= side.fence
            side.fence = answer.fence
            return -1

        self.ask(lambda: self.model.acquire(token, waits=not token.endswith("-0")), ask)

    @rule(token=st.sampled_from(TOKENS))
    def renew(self, token: str) -> None:
        async def ask(side: Side) -> None:
            await side.handle.renew(self.terms, token, side.epochs.get(token, 0))

        self.ask(lambda: self.model.renew(token), ask)

    @rule(token=st.sampled_from(TOKENS))
    def release(self, token: str) -> None:
        """Give the turn back; whoever gets it is told with all it has to know."""
        before = self.model.holder

        async def ask(side: Side) -> None:
            await side.handle.release(self.terms, token)
            after = self.model.holder
            if after and after != before:
                granted = await side.handle.sleep(after, 5.0)
                assert granted is not None, "the next in line was not woken"
                side.epochs[after] = granted.epoch
                assert granted.fence > side.fence
                side.fence = granted.fence

        self.ask(lambda: self.model.release(token), ask)

    @rule(tokens=st.sampled_from([0, 5, 15]), messages=st.sampled_from([0, 1, 3]))
    def trim(self, tokens: int, messages: int) -> None:
        async def ask(side: Side) -> int:
            return (await side.handle.trim(self.terms, tokens=tokens, messages=messages)).evicted

        self.ask(lambda: self.model.trim(tokens, messages), ask)

    @rule(
        flusher=st.sampled_from(FLUSHERS),
        share=st.integers(1, 4),
        skip=st.integers(0, 2),
        summarise=st.booleans(),
    )
    def plan(self, flusher: str, share: int, skip: int, *, summarise: bool) -> None:
        """Decide what is to leave, from what is there now; it is carried out by and by."""
        free = {
            one.group: None
            for one in self.model.records
            if (one.summary and summarise) or not (one.protected or one.summary)
        }
        chosen = set(list(free)[skip : skip + share])
        seqs = tuple(one.seq for one in self.model.records if one.group in chosen)
        if not seqs:
            return
        self.plans[flusher] = Plan(self.model.epochs, seqs, summarise)
        for side in self.sides:
            snapshot = self.runner.run(side.handle.snapshot())
            stored = zip(snapshot.records, snapshot.encoded, strict=True)
            planned = [(one.seq, encoded) for one, encoded in stored if one.seq in seqs]
            side.plans[flusher] = snapshot.status.epoch, planned

        async def ask(side: Side) -> bool:
            return await side.handle.claim_flush(flusher, HOUR)

        self.ask(lambda: self.model.claim(flusher), ask)

    @precondition(lambda self: self.plans)
    @rule(which=st.integers(0, 1))
    def splice(self, which: int) -> None:
        """Carry a plan out, after whatever happened since."""
        flusher = list(self.plans)[which % len(self.plans)]
        plan = self.plans.pop(flusher)
        flags = int(Flag.SUMMARY | Flag.PINNED)
        summary = New('"summary"', 2, flags) if plan.summarise else None
        rules = [(seq, "HybridSummary" if summary else "LRU") for seq in plan.seqs]

        async def ask(side: Side) -> tuple[bool, int]:
            own_epoch, planned = side.plans.pop(flusher)
            made = None if summary is None else _prepared(summary, None)
            splice = Splice(flusher, own_epoch, rules, planned, made)
            done = await side.handle.splice(self.terms, splice)
            return done.done, done.summary

        self.ask(lambda: self.model.splice(plan.seqs, plan.epoch, flusher, summary), ask)

    @invariant()
    def the_same_is_stored(self) -> None:
        if not hasattr(self, "model"):
            return
        model = self.model
        expected = (
            [(one.seq, one.tokens, one.flags, one.group) for one in model.records],
            (model.exists, len(model.records), model.tokens, model.version, model.dropped),
            sum(one.protected for one in model.records),
            model.following - 1 if model.exists else 0,
            model.holder,
            len(model.line),
        )
        sizes: list[int] = []
        for side in self.sides:
            state, size, past = self.runner.run(_state(side.handle, self.terms))
            name = type(side.handle).__name__
            assert state == expected, f"{name} holds {state}, not {expected}"
            assert past == model.past, f"{name} remembers {past}, not {model.past}"
            sizes.append(size)
        assert sizes[0] == sizes[1], "the stores count bytes differently"


async def _answer(asked: Awaitable[Any]) -> Any:
    """Wait for an answer, or return the code of the error."""
    try:
        return await asked
    except HoldfastError as error:
        return error.code


def hash_of(new: New) -> int:
    """A number that tells messages apart, the same in every process."""
    return sum(new.body.encode()) + 31 * new.tokens


def _prepared(new: New, id: str | None) -> Prepared:
    return Prepared(new.body.encode(), new.tokens, new.flags, new.group, id=id)


async def _state(handle: SessionStore, terms: Terms) -> tuple[Any, int, Sequence[Left]]:
    window, status = await handle.everything(terms), await handle.status()
    past = [
        Left(one.rule, _seqs(one.ranges), one.tokens, one.summary)
        for one in await handle.departed()
    ]
    state = (
        [(one.seq, one.tokens, one.flags, one.group) for one in window.records],
        (status.exists, status.messages, status.tokens, status.version, status.dropped),
        status.pinned,
        status.last_seq,
        status.lease_token,
        status.waiting,
    )
    return state, status.bytes, past


def _seqs(ranges: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    return tuple(seq for low, high in ranges for seq in range(low, high + 1))


def test_both_stores_are_as_the_model(valkey_server: Server) -> None:
    class Bound(Machine):
        server = valkey_server

    run_state_machine_as_test(
        Bound,
        settings=settings(
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
