"""Quotas: what all sessions of a memory together may hold, as far as one client can know.

The operator measures a memory now and then. A client adds what it wrote since, and refuses what would
lead above a hard bound before anything is sent. What other clients wrote since it cannot see: between
two measurements each of them may fill the rest. Nothing is credited before the next measurement.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import msgspec

from holdfast.errors import AmbiguousWrite, HoldfastError, QuotaExceeded
from holdfast.policy import Policy
from holdfast.store import SessionStore
from holdfast.store.refusals import quota_exceeded
from holdfast.values import Appended, Batch, Caller, MemoryAddress, Part, Prepared, Terms, Usage

_log = logging.getLogger("holdfast")

MEASURED_EVERY = 300.0
"""Seconds between two measurements of a memory by the operator."""
STALE = 3 * MEASURED_EVERY
"""Seconds after which a measurement says nothing any more: nobody measures, and nobody tidies the index."""
_GRAIN = 0.25  # seconds whose writes are remembered as one
_INTEGERS = 58  # bytes at most of a record's five integers and of what stands between its parts
_NULL = 4


class Standing(StrEnum):
    """Whether the quotas of a memory can be judged, and why not."""

    NONE = "None"
    JUDGED = "Judged"
    UNMEASURED = "Unmeasured"
    STALE = "Stale"
    STANDALONE = "Standalone"


_UNJUDGED = {
    Standing.UNMEASURED: (
        "the quotas cannot be judged in full yet: the operator has not measured this memory"
    ),
    Standing.STALE: (
        f"the quotas cannot be judged: the last measurement is older than {STALE / 60:.0f} minutes. "
        "Check that the operator runs"
    ),
    Standing.STANDALONE: (
        "the quotas cannot be judged: no operator measures this memory. Leave `quotas` out of the "
        "policy, or let an operator manage it"
    ),
}
_LOGGED = {Standing.STALE, Standing.STANDALONE}  # the first measurement follows a policy in seconds


class Amount(NamedTuple):
    """What is stored, or would be."""

    sessions: int = 0
    bytes: int = 0
    tokens: int = 0

    def plus(self, other: "Amount", sign: int = 1) -> "Amount":
        """Return the sum; with -1 the difference."""
        return Amount(*(mine + sign * yours for mine, yours in zip(self, other, strict=True)))


@dataclass(slots=True)
class _Taking:
    """What a call that is under way will have stored."""

    stored: Amount


class _Written(NamedTuple):
    """What was written between two moments that are close to each other."""

    first: float
    last: float
    amount: Amount


class Level(NamedTuple):
    """How far one quota is used.

    Attributes:
        quota: `sessions`, `bytes` or `tokens`.
        used: measured, and added by this client since.
        soft: above it people are told; None: no such bound.
        hard: above it writes are refused; None: no such bound.
    """

    quota: str
    used: int
    soft: int | None
    hard: int | None


def amount_of(batch: Batch) -> Amount:
    """Return what a batch adds: never less than it takes in the store, at most 40 bytes a record more."""
    return Amount(
        bytes=sum(_size(record) for record in batch.records),
        tokens=sum(record.tokens for record in batch.records),
    )


class Ledger:
    """What this client knows of what a memory holds.

    Args:
        memory: whose.
        clock: monotonic seconds.
    """

    def __init__(
        self, memory: MemoryAddress, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._memory = memory
        self._clock = clock
        self._standing = Standing.NONE
        self._bounds: tuple[tuple[str, int | None, int | None], ...] = ()
        self._policy: Policy | None = None
        self._measured: Usage | None = None
        self._written: deque[_Written] = deque()
        self._since = Amount()
        self._under_way = Amount()

    def observe(
        self, policy: Policy, usage: Usage | None, *, managed: bool, asked: float
    ) -> Standing:
        """Take note of the policy in force and of the last measurement.

        Args:
            policy: whose quotas hold.
            usage: None where nothing was measured.
            managed: an operator wrote the policy.
            asked: the clock before the store was asked for both.
        """
        if policy is not self._policy:
            self._policy, self._bounds = policy, _bounds(policy)
        if usage is not None and (self._measured is None or usage.at != self._measured.at):
            self._forget(asked - usage.age / 1000)
        self._measured = usage
        standing = self._judge(usage, managed=managed)
        if standing is not self._standing and standing in _LOGGED:
            _log.warning("memory %s: %s", self._memory, _UNJUDGED[standing])
        self._standing = standing
        return standing

    @property
    def max_sessions(self) -> int:
        """How many sessions the store lets begin; 0: any number.

        The index counts by itself, so that no measurement is needed; but somebody has to tidy it.
        """
        if self._standing not in (Standing.JUDGED, Standing.UNMEASURED):
            return 0
        return next((hard or 0 for quota, _, hard in self._bounds if quota == "sessions"), 0)

    @property
    def levels(self) -> tuple[Level, ...]:
        """How far each quota is used; nothing where they cannot be judged."""
        if self._standing is not Standing.JUDGED or self._measured is None:
            return ()
        used = Amount(self._measured.sessions, self._measured.bytes, self._measured.tokens)
        used = used.plus(self._since).plus(self._under_way)
        return tuple(
            Level(quota, getattr(used, quota), soft, hard) for quota, soft, hard in self._bounds
        )

    def exceeded(self) -> list[str]:
        """Say which bounds are reached: a hard one, or else a soft one."""
        return [sentence for sentence in map(_exceeded, self.levels) if sentence is not None]

    def warnings(self) -> list[str]:
        """Say which bounds are reached, or why nobody knows."""
        unjudged = _UNJUDGED.get(self._standing)
        return [unjudged] if unjudged is not None else self.exceeded()

    async def append(
        self,
        store: SessionStore,
        terms: Terms,
        batch: Batch,
        caller: Caller,
        *,
        replace: bool = False,
    ) -> Appended:
        """Append or replace within the quotas; see `SessionStore.append`.

        A batch that is over them is still answered where its id is known: it was stored before, and
        its caller only repeats it. That takes one round trip.

        Raises:
            QuotaExceeded: nothing was written.
        """
        write = store.replace if replace else store.append
        if self._standing in (Standing.NONE, Standing.STANDALONE):
            return await write(terms, batch, caller)
        amount = amount_of(batch)
        refusal = self._refusal(amount)
        if refusal is not None:
            known = await store.known(batch) if batch.key else None
            if known is None:
                raise refusal
            return known
        with self._taking(amount) as taking:
            done = await write(terms, batch, caller)
            begun = int(done.seq == 1)
            taking.stored = Amount() if done.duplicate else amount._replace(sessions=begun)
        return done

    async def import_part(self, store: SessionStore, terms: Terms, part: Part) -> tuple[int, int]:
        """Import within the quotas; see `SessionStore.import_part`.

        Raises:
            QuotaExceeded: nothing of this part was written.
        """
        if self._standing in (Standing.NONE, Standing.STANDALONE):
            return await store.import_part(terms, part)
        amount = Amount(
            bytes=sum(len(record.encoded()) for record in part.records),
            tokens=sum(record.tokens for record in part.records),
        )
        if (refusal := self._refusal(amount)) is not None:
            raise refusal
        with self._taking(amount) as taking:
            done = await store.import_part(terms, part)
            taking.stored = amount._replace(sessions=int(not part.messages))
        return done

    @contextmanager
    def _taking(self, amount: Amount) -> Generator["_Taking"]:
        """Take room before anything is sent: other tasks of this process must not take the same.

        What failed for certain gives it back. What is in doubt, or was cancelled, counts as stored.
        """
        taking = _Taking(amount)
        self._under_way = self._under_way.plus(amount)
        try:
            yield taking
        except HoldfastError as error:
            if not isinstance(error, AmbiguousWrite):
                taking.stored = Amount()
            raise
        finally:
            self._under_way = self._under_way.plus(amount, -1)
            self._note(taking.stored)

    def _judge(self, usage: Usage | None, *, managed: bool) -> Standing:
        if not self._bounds:
            return Standing.NONE
        if not managed:
            return Standing.STANDALONE
        if usage is None:
            return Standing.UNMEASURED
        return Standing.STALE if usage.age > STALE * 1000 else Standing.JUDGED

    def _refusal(self, amount: Amount) -> QuotaExceeded | None:
        for level in self.levels:
            adds = getattr(amount, level.quota)
            # Sessions are counted where they begin: in the store.
            if level.quota == "sessions" or level.hard is None or not adds:
                continue
            if level.used + adds > level.hard:
                return quota_exceeded(level.quota, level.used, adds, level.hard)
        return None

    def _note(self, amount: Amount) -> None:
        """Remember what was written, and when: the next measurement has some of it."""
        if not any(amount):
            return
        first = now = self._clock()
        self._since = self._since.plus(amount)
        if self._written and now - self._written[-1].first < _GRAIN:
            last = self._written.pop()
            first, amount = last.first, last.amount.plus(amount)
        self._written.append(_Written(first, now, amount))
        self._forget(now - STALE)

    def _forget(self, before: float) -> None:
        """Drop what a measurement of that time has in it; in doubt it is rather counted twice."""
        while self._written and self._written[0].last < before:
            self._since = self._since.plus(self._written.popleft().amount, -1)


def _bounds(policy: Policy) -> tuple[tuple[str, int | None, int | None], ...]:
    quotas = policy.quotas
    if quotas is None:
        return ()
    found: list[tuple[str, int | None, int | None]] = []
    if quotas.sessions is not None:
        found.append(("sessions", quotas.sessions.soft, quotas.sessions.hard))
    if quotas.bytes is not None:
        soft, hard = quotas.bytes.soft, quotas.bytes.hard
        found.append(("bytes", soft.bytes if soft else None, hard.bytes if hard else None))
    if quotas.tokens is not None:
        found.append(("tokens", quotas.tokens.soft, quotas.tokens.hard))
    return tuple(found)


def _exceeded(level: Level) -> str | None:
    name, held = f"quotas.{level.quota}", f"the memory holds about {level.used} {level.quota}"
    refused = "no session begins" if level.quota == "sessions" else "writes are refused"
    remedy = "clear sessions, let them expire sooner, or raise the quota"
    if level.hard is not None and level.used >= level.hard:
        return f"{held}, and {level.hard} are allowed ({name}.hard), so {refused}: {remedy}"
    if level.soft is None or level.used <= level.soft:
        return None
    later = f"; above {level.hard} {refused}" if level.hard is not None else ""
    return f"{held}, more than {level.soft} ({name}.soft){later}: {remedy}"


def _size(record: Prepared) -> int:
    name = _NULL if record.id is None else len(msgspec.json.encode(record.id))
    notes = 0 if record.notes is None else len(msgspec.json.encode(record.notes)) + 1
    return len(record.body) + name + notes + _INTEGERS
