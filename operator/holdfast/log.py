"""What a session and a turn have in common: the data methods."""

import logging
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from holdfast.arguments import require_messages, require_whole
from holdfast.errors import (
    AcknowledgedLost,
    LeaseLost,
)
from holdfast.formats import JSON
from holdfast.messages import Draft, calls_of, require_share
from holdfast.place import Place
from holdfast.reading import Reading
from holdfast.rewriting import Rewriting
from holdfast.store import SessionVanished, StalePolicy
from holdfast.store.refusals import corrupt_record, not_durable
from holdfast.telemetry import Call
from holdfast.upkeep import Upkeep
from holdfast.values import (
    Appended,
    AppendResult,
    Caller,
    Privacy,
    Terms,
)

_log = logging.getLogger("holdfast")

T = TypeVar("T")
_ATTEMPTS = 20  # of a pop at one message that is the newest again and again, and yet is not


class MessageLog(Reading, Upkeep, Rewriting, ABC):
    """Messages of one session, in order. A `Session` is one, and so is a `Turn`.

    Every call is atomic, and one round trip unless it says otherwise.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    async def append(
        self,
        message: JSON,
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        group: int | None = None,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Store one message.

        Args:
            message: any JSON value; usually a message of the framework in use.
            id: makes a retry harmless: an id that is known stores nothing and returns the first
                result. 1..512 characters.
            role: instead of the one the message names.
            pin: never evict it, nor what belongs to it.
            group: seq of an earlier record that it belongs to, where the message does not say so.
            share: name of a share of the policy's `tokenAllocation.userDefined` that it counts in.
            privacy: what may not be stored of it, beside what the policy says.

        Raises:
            MessageInvalid, MessageTooLarge, BudgetExceeded, ConfigurationError: nothing was sent.
            IdempotencyConflict, SessionBusy, LeaseLost, AcknowledgedLost, QuotaExceeded,
            PolicyNotFound, StoreUnavailable, AccessDenied: nothing was written.
            AmbiguousWrite: the connection broke before the answer, and no id was given or the server
                stayed away. With an id the call may simply be repeated.
        """
        with self._place.naming(Call.APPEND):
            return await self._append([message], id, role, group, share, privacy, pin=pin)

    async def append_many(
        self,
        messages: Sequence[JSON],
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        group: int | None = None,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Store messages together or not at all, with nothing between them.

        Args:
            messages: at most 1,000 and 8 MiB of JSON; none at all does nothing.
            id: of the whole call; the records carry `id#0`, `id#1`, ...
            role: of all of them, instead of the one each names.
            pin: never evict them.
            group: seq of an earlier record that they belong to.
            share: name of a share of the policy's `tokenAllocation.userDefined` that they count in.
            privacy: what may not be stored of any of them, beside what the policy says.

        Raises:
            What `append` raises.
        """
        require_messages(messages)
        if not messages:
            status = await self._status(Call.APPEND_MANY)
            return AppendResult(
                seq=status.last_seq + 1,
                count=0,
                duplicate=False,
                tokens=status.tokens,
                length=status.messages,
                evicted=0,
            )
        with self._place.naming(Call.APPEND_MANY):
            return await self._append(messages, id, role, group, share, privacy, pin=pin)

    async def pop(self) -> Any | None:
        """Take the newest message out and return it; None when there is none. Two round trips.

        A tool result that is taken out leaves its call unanswered again.

        Raises:
            CorruptRecord: the newest one cannot be read; nothing was taken out.
            What `append` raises of the session and the turn.
        """
        place = self._place
        with place.naming(Call.POP), place.forgetting():
            self._guard()
            agreed = await place.agreed()
            attempts: Counter[int] = Counter()
            while True:
                newest = await place.store.newest(agreed.terms, 1)
                if not newest and newest.corrupt:
                    raise corrupt_record()
                if not newest:
                    return None
                attempts[newest[0].seq] += 1
                if attempts[newest[0].seq] > _ATTEMPTS:
                    raise corrupt_record()  # a newer one that cannot be read stands in the way
                opens, closes = calls_of(place.preparer.facts(newest[0].item))

                async def take(
                    terms: Terms,
                    expected: int = newest[0].seq,
                    opens: Collection[str] = opens,
                    closes: Collection[str] = closes,
                ) -> int:
                    done = await place.store.pop(
                        terms, self._caller(), expected=expected, opens=opens, closes=closes
                    )
                    return done.records

                if await self._agreed(take):
                    return newest[0].item

    async def clear(self, *, force: bool = False) -> int:
        """Remove all messages and return how many; ids stay known. Ends the turn of anybody else.

        Args:
            force: even while somebody else holds a turn that the policy enforces.
        """

        async def wipe(terms: Terms) -> int:
            done = await self._place.store.clear(terms, self._caller(), force=force)
            if done.epoch:
                self._place.note(done.epoch, 0)
                self._cleared(done.epoch)
            return done.records

        with self._place.naming(Call.CLEAR), self._place.forgetting():
            return await self._agreed(wipe)

    async def pin(self, seq: int, pinned: bool = True) -> None:
        """Never evict a message and what belongs to it, or allow it again.

        Args:
            seq: sequence number of any message of the group.
            pinned: False undoes it; system messages stay protected.

        Raises:
            ConfigurationError: `seq` is no whole number, 0..2^31.
            RecordNotFound: the session holds no such message.
        """
        require_whole(seq=seq)

        async def change(terms: Terms) -> None:
            await self._place.store.pin(terms, self._caller(), seq=seq, pinned=pinned)

        with self._place.naming(Call.PIN):
            await self._agreed(change)

    @abstractmethod
    def _caller(self) -> Caller:
        """Return what is sent along with a write; raises `LeaseLost` where that is known."""

    def _cleared(self, epoch: int) -> None:
        """The session was cleared by this handle."""

    def _wrote(self, seqs: Iterable[int]) -> None:
        """This handle wrote these records."""

    def _lease_gone(self, error: LeaseLost) -> None:
        """The store said that the lease is lost."""

    async def _append(  # noqa: PLR0917 - the options of both appends, passed on as they came
        self,
        messages: Sequence[JSON],
        id: str | None,
        role: str | None,
        group: int | None,
        share: str | None,
        privacy: Privacy | None,
        *,
        pin: bool,
        replace: bool = False,
    ) -> AppendResult:
        place = self._place
        while True:
            agreed = await place.agreed()
            require_share(agreed.policy, share)
            draft = await place.preparer.prepare(
                messages,
                counter=agreed.counter,
                max_bytes=agreed.max_message_size,
                terms=agreed.terms,
                id=id,
                role=role,
                pin=pin,
                group=group,
                share=share,
                redactor=agreed.redactor,
                privacy=privacy,
                critical=agreed.critical,
            )
            batch = draft.batch
            if not batch.records and not replace:
                return await self._withheld(draft)
            sent = time.monotonic()
            try:
                done = await place.policies.ledger.append(
                    place.store, agreed.terms, batch, self._caller(), replace=replace
                )
            except StalePolicy as stale:
                await place.policies.catch_up(stale.revision)
                continue
            except SessionVanished:
                await place.account()
                continue
            except LeaseLost as error:
                self._lease_gone(error)
                raise
            except AcknowledgedLost as lost:
                place.seen = lost.first - 1
                raise
            break
        place.telemetry.appended(done, batch)
        if not done.duplicate:
            if replace:
                self._cleared(done.epoch)
            place.acknowledged(done.epoch, done.seq + len(batch.records) - 1, agreed, sent=sent)
            self._note(draft)
        place.flusher.appended(
            place,
            agreed,
            tokens=done.tokens,
            messages=done.length,
            came=() if done.duplicate else batch.records,
        )
        # A duplicate too: it may be this very call, repeated after a lost reply.
        self._wrote(range(done.seq, done.seq + len(batch.records)))
        if done.strict and not done.durable:
            raise not_durable(done.seq)
        return _result(done, draft, place.policies.ledger.exceeded())

    async def _withheld(self, draft: Draft) -> AppendResult:
        """Answer an append of which nothing may be stored."""
        self._caller()
        status = await self._place.store.status()
        self._note(draft)
        return AppendResult(
            seq=0,
            count=0,
            duplicate=False,
            tokens=status.tokens,
            length=status.messages,
            evicted=0,
            warnings=draft.warnings,
            redacted=draft.redacted,
            withheld=draft.withheld,
        )

    def _note(self, draft: Draft) -> None:
        if not (draft.redacted or draft.withheld):
            return
        self._place.preparer.note(draft)
        self._place.telemetry.screened(draft.redacted, draft.withheld)
        if draft.withheld:
            _log.info(
                "memory %s: the content of %d messages was not stored",
                self._place.memory,
                draft.withheld,
            )

    async def _agreed(self, call: Callable[[Terms], Awaitable[T]]) -> T:
        """Call with the terms in force, again where the session has seen newer ones."""
        while True:
            agreed = await self._place.agreed()
            try:
                return await call(agreed.terms)
            except StalePolicy as stale:
                await self._place.policies.catch_up(stale.revision)
            except SessionVanished:
                await self._place.account()
            except LeaseLost as error:
                self._lease_gone(error)
                raise
            except AcknowledgedLost as lost:
                self._place.seen = lost.first - 1
                raise


def _result(done: Appended, draft: Draft, warnings: list[str]) -> AppendResult:
    warnings += draft.warnings
    if done.over:
        warnings.append("over the limit until open tool calls are answered")
    if done.torn:
        warnings.append(
            "records of this session had vanished from the store, and the counters were rebuilt: use the "
            "maxmemory policy noeviction"
        )
    return AppendResult(
        seq=done.seq,
        count=len(draft.batch.records),
        duplicate=done.duplicate,
        tokens=done.tokens,
        length=done.length,
        evicted=done.evicted,
        warnings=tuple(warnings),
        redacted=draft.redacted,
        withheld=draft.withheld,
        durable=done.durable,
    )
