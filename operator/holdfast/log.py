"""What a session and a turn have in common: the data methods."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

from holdfast.errors import AcknowledgedLost, BudgetTooSmall, LeaseLost
from holdfast.formats import JSON
from holdfast.messages import calls_of
from holdfast.place import Place
from holdfast.planning import fit_budget, order_for_model, presentable
from holdfast.store import StalePolicy
from holdfast.store.refusals import corrupt_record
from holdfast.values import (
    Appended,
    AppendResult,
    Caller,
    Flag,
    Health,
    Page,
    Record,
    Status,
    Stored,
    Terms,
    Window,
)

T = TypeVar("T")
MAX_PAGE = 1000
_MOST = 2**31  # more than any session holds
_ATTEMPTS = 20  # of a pop at one message that is the newest again and again, and yet is not


class MessageLog(ABC):
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
    ) -> AppendResult:
        """Store one message.

        Args:
            message: any JSON value; usually a message of the framework in use.
            id: makes a retry harmless: an id that is known stores nothing and returns the first
                result. 1..512 characters.
            role: instead of the one the message names.
            pin: never evict it, nor what belongs to it.
            group: seq of an earlier record that it belongs to, where the message does not say so.

        Raises:
            MessageInvalid, MessageTooLarge, BudgetExceeded: nothing was sent.
            IdempotencyConflict, SessionBusy, LeaseLost, AcknowledgedLost, PolicyNotFound,
            StoreUnavailable, AccessDenied: nothing was written.
            AmbiguousWrite: the connection broke before the answer, and no id was given or the server
                stayed away. With an id the call may simply be repeated.
        """
        return await self._append([message], id, role, group, pin=pin)

    async def append_many(
        self,
        messages: Sequence[JSON],
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        group: int | None = None,
    ) -> AppendResult:
        """Store messages together or not at all, with nothing between them.

        Args:
            messages: at most 1,000 and 8 MiB of JSON; none at all does nothing.
            id: of the whole call; the records carry `id#0`, `id#1`, ...
            role: of all of them, instead of the one each names.
            pin: never evict them.
            group: seq of an earlier record that they belong to.

        Raises:
            What `append` raises.
        """
        if not messages:
            status = await self.status()
            return AppendResult(
                seq=status.last_seq + 1,
                count=0,
                duplicate=False,
                tokens=status.tokens,
                length=status.messages,
                evicted=0,
            )
        return await self._append(messages, id, role, group, pin=pin)

    async def read(
        self, *, limit: int | None = None, max_tokens: int | None = None, after: int | None = None
    ) -> list[Any]:
        """Return messages as they were appended, oldest first.

        Without `limit` that is what a model accepts: no tool result without its call, no call that
        still waits for its result unless it is the newest or this turn's own. System messages come
        first once the oldest part has left. With `limit` it is exactly what is stored.

        Args:
            limit: the newest so many.
            max_tokens: the newest whole groups that fit, together with the protected messages.
            after: only those with a higher sequence number.

        Raises:
            ValueError: both `limit` and `max_tokens`, or one below 0.
            BudgetTooSmall: the protected messages and the newest group do not fit.
            PolicyNotFound, StoreUnavailable, AccessDenied, LeaseLost.
        """
        if limit is not None and max_tokens is not None:
            raise ValueError("give limit or max_tokens, not both")
        if (limit is not None and limit < 0) or (max_tokens is not None and max_tokens < 0):
            raise ValueError("limit and max_tokens are at least 0")
        with self._place.naming():
            self._guard()
            if limit is not None:
                records = await self._read_newest(limit)
            elif max_tokens is not None:
                records = await self._read_budget(max_tokens)
            else:
                records = await self._read_all()
        if after is not None:
            records = [record for record in records if record.seq > after]
        return [record.item for record in records]

    async def read_page(self, *, after: int | None = None, limit: int = 100) -> Page:
        """Return a part of exactly what is stored, oldest first.

        Args:
            after: the page before's `next`.
            limit: 1..1,000.
        """
        if not 0 < limit <= MAX_PAGE:
            raise ValueError(f"limit is 1..{MAX_PAGE}")
        with self._place.naming():
            self._guard()
            agreed = await self._place.agreed()
            section = await self._place.store.page(agreed.terms, after=after or 0, limit=limit + 1)
            self._check_window(section.status)
        records = section.records[:limit]
        waiting = section.waiting - {
            record.group for record in records if record.seq in self._own()
        }
        if section.status.lease is None or self._holds(section.status):
            waiting -= {section.newest}
        omitted = sum(
            1 for record in records if record.flags & Flag.ORPHAN or record.group in waiting
        )
        return Page(
            records=tuple(_record(stored) for stored in records),
            total=section.status.messages,
            next=records[-1].seq if len(section.records) > limit else None,
            omitted=omitted,
        )

    async def pop(self) -> Any | None:
        """Take the newest message out and return it; None when there is none. Two round trips.

        A tool result that is taken out leaves its call unanswered again.
        """
        place = self._place
        with place.naming():
            self._guard()
            agreed = await place.agreed()
            attempts: Counter[int] = Counter()
            while True:
                newest = await place.store.newest(agreed.terms, 1)
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

    async def length(self) -> int:
        """Return the number of messages."""
        return (await self.status()).messages

    async def token_count(self) -> int:
        """Return the tokens of all messages, counted when they were appended."""
        return (await self.status()).tokens

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

        with self._place.naming():
            return await self._agreed(wipe)

    async def pin(self, seq: int, pinned: bool = True) -> None:
        """Never evict a message and what belongs to it, or allow it again.

        Args:
            seq: sequence number of any message of the group.
            pinned: False undoes it; system messages stay protected.

        Raises:
            RecordNotFound: the session holds no such message.
        """

        async def change(terms: Terms) -> None:
            await self._place.store.pin(terms, self._caller(), seq=seq, pinned=pinned)

        with self._place.naming():
            await self._agreed(change)

    async def health(self) -> Health:
        """Return the state of the session."""
        with self._place.naming():
            self._guard()
            agreed = await self._place.agreed()
            status = await self._place.store.status()
        warnings: list[str] = []
        if self._place.corrupt:
            warnings.append(
                f"{self._place.corrupt} records could not be read: something else writes to the session"
            )
        if status.exists and agreed.terms.max_tokens and status.tokens > agreed.terms.max_tokens:
            warnings.append("over maxTokens: protected messages or open tool calls leave no choice")
        return Health(
            tokens=status.tokens,
            messages=status.messages,
            pinned=status.pinned,
            bytes=status.bytes,
            version=status.version,
            expires_at=status.expires_at if status.exists else None,
            expiry_rule=status.expiry_rule if status.exists else None,
            revision=status.revision,
            revision_behind=max(0, agreed.terms.revision - status.revision) if status.exists else 0,
            managed=agreed.managed,
            lease=status.lease,
            waiting=status.waiting,
            dropped=status.dropped,
            unrecognised=self._place.preparer.unrecognised,
            warnings=tuple(warnings),
        )

    async def status(self) -> Status:
        """Return the store's counters of the session."""
        with self._place.naming():
            self._guard()
            await self._place.agreed()
            return await self._place.store.status()

    @abstractmethod
    def _caller(self) -> Caller:
        """Return what is sent along with a write; raises `LeaseLost` where that is known."""

    def _guard(self) -> None:
        """Refuse a call that is known to come too late."""

    def _check_window(self, status: Status) -> None:
        """Refuse what was read, if it must not be used."""

    def _cleared(self, epoch: int) -> None:
        """The session was cleared by this handle."""

    def _wrote(self, seqs: Iterable[int]) -> None:
        """This handle wrote these records."""

    def _own(self) -> Collection[int]:
        """Records whose groups this handle sees even while a tool call waits: its turn's own."""
        return frozenset()

    def _lease_gone(self) -> None:
        """The store said that the lease is lost."""

    def _holds(self, status: Status) -> bool:  # noqa: ARG002 - a session holds no turn
        """Whether the turn that is held now is this handle's own."""
        return False

    async def _append(
        self,
        messages: Sequence[JSON],
        id: str | None,
        role: str | None,
        group: int | None,
        *,
        pin: bool,
    ) -> AppendResult:
        place = self._place
        with place.naming():
            while True:
                agreed = await place.agreed()
                batch = await place.preparer.prepare(
                    messages,
                    counter=agreed.counter,
                    max_bytes=agreed.max_message_size,
                    terms=agreed.terms,
                    id=id,
                    role=role,
                    pin=pin,
                    group=group,
                )
                try:
                    done = await place.store.append(agreed.terms, batch, self._caller())
                except StalePolicy as stale:
                    await place.policies.catch_up(stale.revision)
                    continue
                except LeaseLost:
                    self._lease_gone()
                    raise
                except AcknowledgedLost as lost:
                    place.seen = lost.first - 1
                    raise
                break
        if not done.duplicate:
            place.note(done.epoch, done.seq + len(batch.records) - 1)
        # A duplicate too: it may be this very call, repeated after a lost reply.
        self._wrote(range(done.seq, done.seq + len(batch.records)))
        return _result(done, len(batch.records))

    async def _agreed(self, call: Callable[[Terms], Awaitable[T]]) -> T:
        """Call with the terms in force, again where the session has seen newer ones."""
        while True:
            agreed = await self._place.agreed()
            try:
                return await call(agreed.terms)
            except StalePolicy as stale:
                await self._place.policies.catch_up(stale.revision)
            except LeaseLost:
                self._lease_gone()
                raise
            except AcknowledgedLost as lost:
                self._place.seen = lost.first - 1
                raise

    async def _read_newest(self, limit: int) -> Sequence[Stored]:
        agreed = await self._place.agreed()
        if limit == 0:
            return []
        limit = min(limit, _MOST)
        return await self._place.store.newest(agreed.terms, limit)

    async def _read_all(self) -> Sequence[Stored]:
        agreed = await self._place.agreed()
        window = await self._place.store.everything(agreed.terms)
        return order_for_model(self._presentable(window), oldest_left=window.status.dropped > 0)

    async def _read_budget(self, budget: int) -> Sequence[Stored]:
        agreed = await self._place.agreed()
        reach = budget
        while True:
            window = await self._place.store.tail(agreed.terms, tokens=reach)
            fit = fit_budget(self._presentable(window), budget, complete=window.complete)
            if not fit.starved:
                break
            # What is hidden takes room in the window, and a group may reach far back.
            reach = 2 * reach + 1
        if fit.needed > budget:
            raise BudgetTooSmall(
                f"max_tokens is {budget}, but the protected messages and the newest group have "
                f"{fit.needed} tokens: raise it or unpin some",
                needed=fit.needed,
            )
        return order_for_model(fit.records, oldest_left=fit.cut or window.status.dropped > 0)

    def _presentable(self, window: Window) -> list[Stored]:
        self._check_window(window.status)
        self._place.corrupt += window.corrupt
        elsewhere = window.status.lease is not None and not self._holds(window.status)
        return presentable(window.records, own=self._own(), turn_elsewhere=elsewhere)


def _record(stored: Stored) -> Record:
    return Record(
        seq=stored.seq,
        ts=stored.ts,
        tokens=stored.tokens,
        group=stored.group,
        id=stored.id,
        pinned=stored.protected,
        item=stored.item,
    )


def _result(done: Appended, count: int) -> AppendResult:
    warnings: list[str] = []
    if done.over:
        warnings.append("over the limit until open tool calls are answered")
    if done.torn:
        warnings.append(
            "records of this session had vanished from the store, and the counters were rebuilt: use the "
            "maxmemory policy noeviction"
        )
    return AppendResult(
        seq=done.seq,
        count=count,
        duplicate=done.duplicate,
        tokens=done.tokens,
        length=done.length,
        evicted=done.evicted,
        warnings=tuple(warnings),
    )
