"""The methods of a session and of a turn that read what is stored."""

from abc import ABC
from collections.abc import Collection, Sequence
from typing import TypeVar

from holdfast.arguments import is_whole, require_whole
from holdfast.copies import Question
from holdfast.errors import AccessDenied, BudgetTooSmall, ConfigurationError, StoreUnavailable
from holdfast.fallback import MESSAGES, PAGE, Answer, Ask, Form
from holdfast.place import Place
from holdfast.planning import fit_budget, is_due, order_for_model, presentable
from holdfast.policies import Agreement
from holdfast.telemetry import Call, Counted
from holdfast.upkeep import last_flush
from holdfast.values import (
    Flag,
    Health,
    Messages,
    Page,
    Record,
    Section,
    Status,
    Stored,
    Window,
)

T = TypeVar("T")
MAX_PAGE = 1000


class Reading(ABC):
    """Read, pages, counters, health."""

    _place: Place

    async def read(
        self, *, limit: int | None = None, max_tokens: int | None = None, after: int | None = None
    ) -> Messages:
        """Return messages as they were appended, oldest first.

        Without `limit` that is what a model accepts: no tool result without its call, no call that
        still waits for its result unless it is the newest or this turn's own. System messages come
        first once the oldest part has left. With `limit` it is exactly what is stored.

        Args:
            limit: the newest so many.
            max_tokens: the newest whole groups that fit, together with the protected messages.
            after: only those with a higher sequence number.

        Raises:
            ConfigurationError: both `limit` and `max_tokens`, or one that is no whole number, 0..2^31.
            BudgetTooSmall: the protected messages and the newest group do not fit.
            StoreUnavailable: no answer; a session of which the policy says so (`failureMode`) answers with
                a copy of what it read last, or with nothing, and `stale` is set.
            PolicyNotFound, AccessDenied, LeaseLost.
        """
        require_read(limit, max_tokens, after)

        async def ask(agreed: Agreement) -> Answer[Messages]:
            status = None
            if limit is not None:
                records = await self._read_newest(agreed, limit)
                await self._used(records)
            elif max_tokens is not None:
                records, status = await self._read_budget(agreed, max_tokens)
                await self._used(records)
            else:
                records, status = await self._read_all(agreed)
            chosen = Messages(record.item for record in records if record.seq > (after or 0))
            if status is None:
                return Answer(chosen, None, empty=not records and limit != 0)
            return Answer(chosen, status.epoch, empty=not status.messages)

        with self._place.naming(Call.READ):
            self._guard()
            return await self._answer(("read", limit, max_tokens, after), ask, MESSAGES)

    async def read_page(
        self, *, after: int | None = None, limit: int = 100, used: bool = True
    ) -> Page:
        """Return a part of exactly what is stored, oldest first.

        Args:
            after: the page before's `next`.
            limit: 1..1,000.
            used: False only looks through it: where the policy keeps what is used, this is no use, and
                no copy is kept for when the store does not answer, nor is one given.

        Raises:
            ConfigurationError: `limit` or `after` is no such number.
            What `read` raises of the store and the turn.
        """
        require_page(after, limit)

        async def ask(agreed: Agreement) -> Answer[Page]:
            section = await self._place.store.page(agreed.terms, after=after or 0, limit=limit)
            self._check_window(section.status)
            self._note_corrupt(section.corrupt)
            if used:
                await self._used(section.records)
            status = section.status
            return Answer(self._page(section), status.epoch, empty=not status.messages)

        with self._place.naming(Call.READ_PAGE):
            self._guard()
            if not used:
                return (await ask(await self._place.agreed())).value
            return await self._answer(("read_page", limit, None, after), ask, PAGE)

    def _page(self, section: Section) -> Page:
        records = section.records
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
            next=section.next,
            omitted=omitted,
        )

    async def length(self) -> int:
        """Return the number of messages."""
        return (await self._status(Call.LENGTH)).messages

    async def token_count(self) -> int:
        """Return the tokens of all messages, counted when they were appended."""
        return (await self._status(Call.TOKEN_COUNT)).tokens

    async def health(self) -> Health:
        """Return the state of the session. Two round trips."""
        with self._place.naming(Call.HEALTH):
            self._guard()
            agreed = await self._place.agreed()
            status = await self._place.store.status()
            departed = await self._place.store.departed() if status.exists else ()
        warnings: list[str] = []
        if self._place.corrupt:
            warnings.append(
                f"{self._place.corrupt} records could not be read: something else writes to the session"
            )
        if status.exists and agreed.terms.max_tokens and status.tokens > agreed.terms.max_tokens:
            warnings.append("over maxTokens: protected messages or open tool calls leave no choice")
        warnings += self._place.policies.ledger.warnings()
        warnings += self._place.fallback.warnings()
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
            redacted=self._place.preparer.redacted,
            withheld=self._place.preparer.withheld,
            strategy=agreed.policy.flushing.strategy.value,
            last_flush=last_flush(departed),
            flush_due=is_due(agreed.limits, tokens=status.tokens, messages=status.messages),
        )

    async def status(self) -> Status:
        """Return the store's counters of the session."""
        return await self._status(Call.STATUS)

    def _guard(self) -> None:
        """Refuse a call that is known to come too late."""

    def _check_window(self, status: Status) -> None:
        """Refuse what was read, if it must not be used."""

    def _own(self) -> Collection[int]:
        """Records whose groups this handle sees even while a tool call waits: its turn's own."""
        return frozenset()

    def _holds(self, status: Status) -> bool:  # noqa: ARG002 - a session holds no turn
        """Whether the turn that is held now is this handle's own."""
        return False

    async def _status(self, call: Call) -> Status:
        with self._place.naming(call):
            self._guard()
            await self._place.agreed()
            return await self._place.store.status()

    async def _used(self, records: Sequence[Stored]) -> None:
        """Note what was read, where the policy keeps what is used; one round trip more.

        Reading everything says nothing about what is needed, so that is not noted.
        """
        agreed = await self._place.agreed()
        if not agreed.keeps_used or not records:
            return
        groups = {record.group for record in records if not record.protected}
        try:
            await self._place.store.touch(agreed.terms, sorted(groups))
        except (AccessDenied, StoreUnavailable):
            return  # whoever may only read leaves no trace; and what was read was read

    async def _answer(self, question: Question, ask: Ask[T], form: Form[T]) -> T:  # noqa: ARG002 - a session's
        """Answer a read, as the store does: a turn that cannot reach it may be somebody else's by now."""
        return (await ask(await self._place.agreed())).value

    async def _read_newest(self, agreed: Agreement, limit: int) -> Sequence[Stored]:
        if limit == 0:
            return []
        newest = await self._place.store.newest(agreed.terms, limit)
        self._note_corrupt(newest.corrupt)
        return newest

    async def _read_all(self, agreed: Agreement) -> tuple[Sequence[Stored], Status]:
        window = await self._place.store.everything(agreed.terms)
        records = self._presentable(window)
        return order_for_model(records, oldest_left=window.status.dropped > 0), window.status

    async def _read_budget(self, agreed: Agreement, budget: int) -> tuple[Sequence[Stored], Status]:
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
        left = fit.cut or window.status.dropped > 0
        return order_for_model(fit.records, oldest_left=left), window.status

    def _presentable(self, window: Window) -> list[Stored]:
        self._check_window(window.status)
        self._note_corrupt(window.corrupt)
        elsewhere = window.status.lease is not None and not self._holds(window.status)
        return presentable(window.records, own=self._own(), turn_elsewhere=elsewhere)

    def _note_corrupt(self, records: int) -> None:
        self._place.corrupt += records
        self._place.telemetry.count(Counted.CORRUPT, records)


def require_read(limit: object, max_tokens: object, after: object) -> None:
    """Accept the arguments of `read`.

    Raises:
        ConfigurationError: one is no whole number in its range, or two exclude each other.
    """
    require_whole(limit=limit, max_tokens=max_tokens, after=after)
    if limit is not None and max_tokens is not None:
        raise ConfigurationError("give limit or max_tokens, not both")


def require_page(after: object, limit: object) -> None:
    """Accept the arguments of `read_page`.

    Raises:
        ConfigurationError: one is no whole number in its range.
    """
    require_whole(after=after)
    if not is_whole(limit, 1, MAX_PAGE):
        raise ConfigurationError(f"limit is a whole number, 1..{MAX_PAGE}")


def _record(stored: Stored) -> Record:
    return Record(
        seq=stored.seq,
        ts=stored.ts,
        tokens=stored.tokens,
        group=stored.group,
        id=stored.id,
        pinned=stored.protected,
        item=stored.item,
        privacy=stored.notes.privacy if stored.notes is not None else None,
    )
