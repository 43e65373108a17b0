"""The policy a memory works under: found once, followed afterwards, never guessed."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from holdfast.errors import HoldfastError, PolicyNotFound, StoreUnavailable
from holdfast.models import known_model
from holdfast.planning.limits import Limit, limits_of
from holdfast.planning.priorities import NEVER_EVICTED
from holdfast.policy import (
    EvictionPolicy,
    FlushingStrategy,
    LockingMode,
    OnFull,
    Policy,
    RefreshOn,
    Tokenizer,
)
from holdfast.privacy import Redactor
from holdfast.quotas import Ledger
from holdfast.store import MemoryStore
from holdfast.telemetry import Telemetry
from holdfast.tokens import TokenCounter, counter, estimating
from holdfast.values import MemoryAddress, PolicyDocument, Refresh, Terms

_log = logging.getLogger("holdfast")

GRANT = 2000
"""Milliseconds a lease that was handed over waits for its new holder."""
FOLLOW = 2.0
"""Seconds after which a policy is asked for again, in the background."""
TRUST = 4.0
"""Seconds after which a call waits for the answer, so that a process that slept writes nothing old.

Less than what an operator waits before it walks through the sessions (5 s): a session that is begun
under the old policy is there by then.
"""
FOLLOWING = 60.0
"""Seconds after its last use in which a memory still follows, so that calls between need not wait."""
STANDALONE = 30.0
"""Seconds between looks for an operator, where the policy was given as an argument."""
_CATCH_UP = 5.0
_MARKED = 50.0
"""Seconds in which an erasure is surely still marked in the store, which keeps the mark for a minute."""
_BY_USE = (FlushingStrategy.LRU, FlushingStrategy.TOKEN_AWARE_LRU)


@dataclass(frozen=True, slots=True)
class Agreement:
    """A policy, and what follows from it.

    Attributes:
        policy: as declared.
        terms: the numbers that the store enforces.
        counter: counts tokens.
        max_message_size: bytes of JSON.
        managed: an operator wrote it.
        warnings: what in the policy does not go together.
        redactor: takes out of messages what must not be stored.
        critical: kinds and roles of messages that are never evicted.
        limits: hard limits, thresholds and targets of a session.
        flushes: sessions are flushed at their threshold.
        keeps_used: what is read stays longer, so reading is noted.
        lasting: seconds after an append in which a session cannot end without a mark of that; 0: it may.
    """

    policy: Policy
    terms: Terms
    counter: TokenCounter
    max_message_size: int
    managed: bool
    warnings: tuple[str, ...]
    redactor: Redactor
    critical: frozenset[str]
    limits: Limit
    flushes: bool
    keeps_used: bool
    lasting: float


def terms_of(policy: Policy, revision: int) -> Terms:
    """Return the numbers of a policy that a store enforces."""
    retention, locking = policy.retention, policy.locking
    refresh = Refresh(0)
    if RefreshOn.WRITE in retention.refresh_on:
        refresh |= Refresh.WRITE
    if RefreshOn.READ in retention.refresh_on:
        refresh |= Refresh.READ
    return Terms(
        revision=revision,
        max_tokens=policy.max_tokens or 0,
        max_messages=policy.max_messages or 0,
        refuse=policy.on_full is OnFull.REFUSE,
        ttl=retention.ttl.milliseconds,
        after_clear=retention.after_clear.milliseconds if retention.after_clear else 0,
        after_flush=retention.after_flush.milliseconds if retention.after_flush else 0,
        max_lifetime=retention.max_lifetime.milliseconds if retention.max_lifetime else 0,
        refresh=refresh,
        lease=locking.lease_ttl.milliseconds,
        grant=GRANT,
        enforced=locking.mode is LockingMode.ENFORCED,
        max_ids=policy.idempotency.max_remembered_ids,
    )


def agreement(policy: Policy, revision: int, own: TokenCounter | None = None) -> Agreement:
    """Make an agreement.

    Args:
        policy: as declared.
        revision: of the operator's document; 0 is a policy that was given as an argument.
        own: counts tokens instead of the policy's tokenizer.
    """
    counts, warnings = (own, ()) if own is not None else _counter(policy)
    terms = terms_of(policy, revision)
    return Agreement(
        policy=policy,
        terms=terms,
        counter=counts,
        max_message_size=policy.limits.max_message_size.bytes,
        managed=revision > 0,
        warnings=warnings,
        redactor=Redactor(policy.privacy),
        critical=_critical(policy),
        limits=limits_of(policy),
        flushes=policy.flushing.strategy is not FlushingStrategy.DISABLED,
        keeps_used=policy.flushing.strategy in _BY_USE
        or policy.eviction.policy is EvictionPolicy.LRU,
        lasting=_lasting(terms),
    )


def _lasting(terms: Terms) -> float:
    """Return the seconds after an append in which a session ends only by an erasure that left its mark."""
    if terms.max_lifetime or not terms.refresh & Refresh.WRITE:
        return 0.0
    shortest = min(filter(None, (terms.ttl, terms.after_clear, terms.after_flush)))
    return min(shortest / 1000, _MARKED)


def _critical(policy: Policy) -> frozenset[str]:
    """Return the kinds and roles of the blocks of priority 0."""
    eviction = policy.eviction
    if eviction.policy is not EvictionPolicy.PRIORITY:
        return frozenset()
    blocks = (block for block in eviction.priority_blocks if block.priority == NEVER_EVICTED)
    return frozenset(kind for block in blocks for kind in block.content_types)


def _counter(policy: Policy) -> tuple[TokenCounter, tuple[str, ...]]:
    """Return the policy's counter, and what is to be said of it.

    A tokenizer that is known not to be the model's own still counts, and calls nothing exact. The
    policy cannot tell its default from a choice, so the model's name does not choose for it.
    """
    name, tokenizer = policy.model.name, policy.model.tokenizer
    counts = counter(tokenizer.value)
    model = known_model(name) if name is not None else None
    if model is None or model.encoding == tokenizer or tokenizer is Tokenizer.APPROXIMATE:
        return counts, ()
    if model.encoding is None:
        return estimating(counts), ()
    warning = (
        f"model.name {name!r} counts with {model.encoding}, model.tokenizer is {tokenizer}: token "
        "counts are estimates until the policy says the same"
    )
    return estimating(counts), (warning,)


class PolicyFeed:
    """Follows the policy of one memory.

    The operator's document wins over an argument. It is fetched before the first call, asked for again
    in the background while the memory is in use, and at once when it may be old or when a session turns
    out to have seen a newer one.

    Args:
        store: where the document is.
        memory: whose.
        given: the policy that holds where no operator wrote one.
        counter: counts tokens, whatever a policy says.
        clock: monotonic seconds.
        telemetry: is told of each reading; None tells nobody.

    Attributes:
        ledger: what is known of what the memory holds, for its quotas.
        telemetry: tells observers what happens in the memory.
    """

    def __init__(
        self,
        store: MemoryStore,
        memory: MemoryAddress,
        given: Policy | None,
        *,
        counter: TokenCounter | None = None,
        clock: Callable[[], float] = time.monotonic,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.ledger = Ledger(memory, clock=clock)
        self.telemetry = telemetry or Telemetry(memory=memory)
        self._store = store
        self._memory = memory
        self._counter = counter
        self._given = agreement(given, 0, counter) if given is not None else None
        self._clock = clock
        self._current: Agreement | None = None
        self._asked = float("-inf")
        self._refresh: asyncio.Task[None] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._used = float("-inf")
        self._differed = False
        self._warned = False

    @property
    def given(self) -> Policy | None:
        """The policy that was given as an argument."""
        return self._given.policy if self._given else None

    @property
    def last(self) -> Agreement | None:
        """The agreement that was found last, however long ago; None before the first one."""
        return self._current

    async def current(self) -> Agreement:
        """Return the agreement in force; no round trip unless it is new or was not used for long.

        Raises:
            PolicyNotFound: there is none, or the memory is being deleted.
        """
        self._used = self._clock()
        age = self._used - self._asked
        managed = self._current is not None and self._current.managed
        if self._current is None or age > (TRUST if managed else STANDALONE):
            await self._fetch()
        elif managed and age > FOLLOW and (self._refresh is None or self._refresh.done()):
            self._refresh = asyncio.create_task(self._fetch_quietly())
        assert self._current is not None
        if self._current.managed and (self._follower is None or self._follower.done()):
            self._follower = asyncio.create_task(self._follow())
        return self._current

    async def refresh(self) -> None:
        """Ask for the policy now. One round trip, so that it also tells whether the store answers.

        Raises:
            PolicyNotFound: there is none, or the memory is being deleted.
            StoreUnavailable, AccessDenied: no answer.
        """
        await self._fetch()

    async def catch_up(self, revision: int) -> None:
        """Fetch until the policy is at least of that revision.

        Raises:
            PolicyNotFound: the session was managed by an operator whose policy is gone.
            StoreUnavailable: the document stays older than what the session has seen.
        """
        deadline = self._clock() + _CATCH_UP
        pause = 0.01
        while True:
            await self._fetch()
            if self._current is not None and self._current.terms.revision >= revision:
                return
            if self._current is not None and not self._current.managed:
                raise self._not_found(
                    "the session was written under an operator's policy, and that policy is gone: "
                    "apply the MemoryResource again, or clear the session's keys"
                )
            if self._clock() + pause > deadline:
                raise StoreUnavailable(
                    "the policy in the store stays older than what the session has seen",
                    memory=str(self._memory),
                )
            await asyncio.sleep(pause)
            pause *= 2

    async def aclose(self) -> None:
        """Stop following."""
        tasks = [task for task in (self._refresh, self._follower) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self) -> None:
        """Keep the copy fresh between calls, for a while: most calls come seconds after the last."""
        while self._clock() - self._used < FOLLOWING:
            await asyncio.sleep(FOLLOW)
            await self._fetch_quietly()

    async def _fetch_quietly(self) -> None:
        try:
            await self._fetch()
        except PolicyNotFound:
            self._asked = float("-inf")  # the next call asks again, and its caller sees the error
        except HoldfastError as error:
            # The copy at hand stays good until TRUST ends; then the caller sees the error.
            _log.debug("policy of memory %s not refreshed: %s", self._memory, error.code)

    async def _fetch(self) -> None:
        asked = self._clock()
        document = await self._store.policy(self._memory)
        if asked < self._asked:
            return  # somebody who asked later was answered sooner
        self._current = self._measured(self._read(document), document, asked)
        self._asked = asked
        self.telemetry.agreed(self._current.terms.revision, self.ledger.levels)
        if self._current.warnings and not self._warned:
            self._warned = True
            for warning in self._current.warnings:
                _log.warning("memory %s: %s", self._memory, warning)

    def _read(self, document: PolicyDocument | None) -> Agreement:
        current = self._current
        if document is None:
            if current is not None and current.managed:
                raise self._not_found("the policy of this memory was removed")
            if self._given is None:
                raise self._not_found(
                    "no policy: no operator wrote one for this memory, and none was given. Apply a "
                    "MemoryResource, or pass `policy=` to connect()"
                )
            return self._given
        if not document.active:
            raise self._not_found("the memory is being deleted")
        if current is not None and current.terms.revision == document.revision:
            return current
        found = agreement(Policy.from_document(document.document), document.revision, self._counter)
        given = self._given
        if given is not None and not self._differed:
            self._differed = given.policy.sha256() != found.policy.sha256()
            if self._differed:
                _log.warning(
                    "memory %s: the operator's policy (revision %d) is in force, and differs from the "
                    "one given as an argument",
                    self._memory,
                    document.revision,
                )
        return found

    def _measured(
        self, found: Agreement, document: PolicyDocument | None, asked: float
    ) -> Agreement:
        """Return the agreement with the number of sessions that the store may let begin."""
        usage = document.usage if document is not None else None
        self.ledger.observe(found.policy, usage, managed=found.managed, asked=asked)
        most = self.ledger.max_sessions
        if most == found.terms.max_sessions:
            return found
        return replace(found, terms=replace(found.terms, max_sessions=most))

    def _not_found(self, sentence: str) -> PolicyNotFound:
        return PolicyNotFound(sentence, memory=str(self._memory))
