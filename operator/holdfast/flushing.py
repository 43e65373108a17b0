"""Flushes: carried out where an append crosses the threshold, or on demand; never with a lock held."""

import asyncio
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final, TypeVar

from holdfast.errors import HoldfastError, SessionBusy, StoreUnavailable
from holdfast.flush_privacy import Redacting, shown_of
from holdfast.flush_steps import (
    LIMIT,
    covers_of,
    is_plain,
    is_smaller,
    item_of,
    plan_nothing,
    plan_of,
    result_of,
    room_of,
    splice_of,
    would_trim,
)
from holdfast.formats import read_facts
from holdfast.messages import encode_item
from holdfast.place import Place
from holdfast.planning import (
    FlushPlan,
    Left,
    Limit,
    is_due,
    left_by,
    next_time_due,
)
from holdfast.policies import Agreement
from holdfast.policy import FlushingStrategy, Policy
from holdfast.store import StalePolicy
from holdfast.summaries import (
    Summarizer,
    SummarizerLike,
    checked,
    is_remote,
    request_of,
    summarizer_of,
)
from holdfast.telemetry import Call, Rule
from holdfast.values import (
    Flag,
    FlushResult,
    Notes,
    Prepared,
    Snapshot,
    Status,
    Stored,
)

_log = logging.getLogger("holdfast")
K = TypeVar("K")
V = TypeVar("V")

_AT_ONCE: Final = 8  # sessions that one client flushes at a time
_CLAIM: Final = (
    30_000  # ms for which a session is claimed at a time; a flusher that dies blocks no longer
)
_AGAIN: Final = 10.0  # seconds after which the claim is lengthened
_KNOWN: Final = 10_000  # sessions whose next flush is remembered
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 600.0  # seconds after a flush that failed, doubled each time
_TOLD: Final = {LIMIT: Rule.LIMIT.value}  # as observers are told of it


class _Recent(OrderedDict[K, V]):
    """The latest so many entries."""

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > _KNOWN:
            self.popitem(last=False)


class _Due:
    """What this process knows of when a session is to be flushed next."""

    __slots__ = ("failures", "left", "limit", "look", "not_before")

    def __init__(self) -> None:
        self.left: Left | None = None  # by the last flush, where it missed its target
        self.limit: Limit | None = None  # the policy's then: after an edit it says nothing
        self.look = 0.0  # monotonic time of the next look at the age of the records
        self.not_before = 0.0  # monotonic time
        self.failures = 0


class Flusher:
    """Flushes the sessions of one client.

    Args:
        summarizer: writes summaries, whatever a policy says.
    """

    def __init__(self, summarizer: SummarizerLike | None = None) -> None:
        self._given = summarizer
        self._due: _Recent[str, _Due] = _Recent()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._summarizers: _Recent[str, Summarizer] = _Recent()
        self._closing = False

    def appended(
        self,
        place: Place,
        agreed: Agreement,
        *,
        tokens: int,
        messages: int,
        came: Sequence[Prepared],
    ) -> None:
        """Start a flush in the background if one is due; costs next to nothing if none is.

        Args:
            place: the session.
            agreed: the policy the append went by.
            tokens: of the session now.
            messages: of the session now.
            came: what was appended; nothing where it was there already.
        """
        if not agreed.flushes:
            return
        name = place.session_name
        due = self._due.get(name)
        if agreed.policy.flushing.strategy is FlushingStrategy.TIME_BASED:
            wanted = due is None or time.monotonic() >= due.look
        else:
            left = due.left if due is not None and due.limit == agreed.limits else None
            if due is not None and left is not None:
                left = due.left = left.then(
                    tokens=tokens,
                    messages=messages,
                    came_tokens=sum(one.tokens for one in came),
                    came_messages=len(came),
                )
            wanted = is_due(agreed.limits, tokens=tokens, messages=messages, left=left)
        if not wanted or self._closing:
            return
        running = self._running.get(name)
        if running is not None and not running.done():
            return
        # One that has ended may be there until the loop's next turn.
        if sum(not task.done() for task in self._running.values()) >= _AT_ONCE:
            return
        if due is not None and time.monotonic() < due.not_before:
            return
        task = asyncio.create_task(self._in_background(place))
        self._running[name] = task
        task.add_done_callback(lambda done: self._ended(name, done))

    async def flush(
        self, place: Place, strategy: FlushingStrategy | None, *, dry_run: bool = False
    ) -> FlushResult:
        """Flush a session now.

        Args:
            place: the session.
            strategy: instead of the policy's.
            dry_run: say what would leave, and change nothing.

        Raises:
            SessionBusy: somebody else flushes it.
            SummaryFailed: nothing was changed.
        """
        while True:
            agreed = await place.agreed()
            try:
                if is_plain(agreed.policy, strategy):
                    done = await self._trim(place, agreed, dry_run=dry_run)
                else:
                    done = await self._planned(place, agreed, strategy, dry_run=dry_run)
                break
            except StalePolicy as stale:
                await place.policies.catch_up(stale.revision)
        if not dry_run:
            rules = {_TOLD.get(rule, rule): count for rule, count in done.rules.items()}
            place.telemetry.flushed(rules, summaries=int(done.summary is not None))
        return done

    async def aclose(self, seconds: float) -> None:
        """Start nothing more, and wait so long for what runs; what is cancelled then changes nothing."""
        self._closing = True
        if self._running:
            _, late = await asyncio.wait(list(self._running.values()), timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._running.get(name) is task:  # and not already the next one
            del self._running[name]
        error = None if task.cancelled() else task.exception()
        if error is not None:  # a summariser of somebody else, or a fault of ours
            _log.error("a flush ended with an error nobody expected: %s", type(error).__name__)

    async def _in_background(self, place: Place) -> None:
        due = self._due.get(place.session_name) or _Due()
        self._due[place.session_name] = due
        try:
            with place.naming(Call.FLUSH):
                await self.flush(place, None)
            due.failures = 0
        except SessionBusy:
            due.not_before = time.monotonic() + _FIRST_PAUSE
        except HoldfastError as error:
            due.failures += 1
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (due.failures - 1))
            due.not_before = time.monotonic() + pause
            _log.warning(
                "memory %s: a flush failed and changed nothing (%s: %s); tried again in %.0f s at the "
                "earliest",
                place.memory,
                error.code,
                error.message,
                pause,
            )

    async def _trim(self, place: Place, agreed: Agreement, *, dry_run: bool) -> FlushResult:
        """Drop the oldest groups, in one round trip: nobody needs to see them for that."""
        limit = agreed.limits
        tokens = limit.target_tokens if limit.max_tokens else 0
        messages = limit.target_messages if limit.max_messages else 0
        if dry_run:
            snapshot = await place.store.snapshot()
            before = snapshot.status
            terms = replace(agreed.terms, max_tokens=tokens, max_messages=messages)
            done = await asyncio.to_thread(would_trim, snapshot, terms)
        else:
            before = await place.store.status()
            done = await place.store.trim(agreed.terms, tokens=tokens, messages=messages)
            if done.repeated:
                done = done._replace(evicted=await _dropped_since(place, before, done.evicted))
            self._left(place, agreed, done.tokens, done.length, gave=done.evicted > 0)
        return FlushResult(
            strategy=FlushingStrategy.FIFO.value,
            dropped=done.evicted,
            summarised=0,
            summary=None,
            tokens_before=before.tokens,
            tokens=done.tokens,
            length=done.length,
            rules={FlushingStrategy.FIFO.value: done.evicted} if done.evicted else {},
            reached=limit.reached(done.tokens, done.length),
            dry_run=dry_run,
        )

    async def _planned(
        self, place: Place, agreed: Agreement, strategy: FlushingStrategy | None, *, dry_run: bool
    ) -> FlushResult:
        token = secrets.token_hex(8)
        # Before anything is looked at: what another flush summarised since would be summarised twice.
        if dry_run or not await place.store.claim_flush(token, _CLAIM):
            snapshot = await place.store.snapshot()
            if snapshot.status.exists and not dry_run:
                raise SessionBusy(
                    "somebody else flushes this session: look again when that is done",
                    holder=None,
                    remaining=_CLAIM / 1000,
                    place=0,
                )
            plan, _, _ = await self._plan(place, agreed, strategy, snapshot)
            return result_of(plan, snapshot, dry_run=dry_run)
        try:
            return await self._as_flusher(place, agreed, strategy, token)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(_give_up(place, token)))
            raise

    async def _as_flusher(
        self, place: Place, agreed: Agreement, strategy: FlushingStrategy | None, token: str
    ) -> FlushResult:
        """Carry a planned flush out; whoever calls gives the claim up if this raises."""
        snapshot = await place.store.snapshot()
        plan, records, frame = await self._plan(place, agreed, strategy, snapshot)
        if plan.empty:
            await _give_up(place, token)
            now = snapshot.status
            self._left(place, agreed, now.tokens, now.messages, gave=False)
            return result_of(plan, snapshot)
        summary = None
        if plan.summarise:
            async with _claimed(place, token):
                summary = await self._summary(place, agreed, records, room_of(plan, frame))
        done = await place.store.splice(
            agreed.terms, splice_of(plan, snapshot, token=token, summary=summary)
        )
        if not done.done:
            raise SessionBusy(
                "the session changed under the flush, which changed nothing: flush it again",
                holder=None,
                remaining=0.0,
                place=0,
            )
        self._left(place, agreed, done.tokens, done.length, gave=True)
        return result_of(plan, snapshot, done, agreed.limits)

    async def _plan(
        self,
        place: Place,
        agreed: Agreement,
        strategy: FlushingStrategy | None,
        snapshot: Snapshot,
    ) -> tuple[FlushPlan, list[Stored], int]:
        """Return what leaves, what of it is summarised, and what the summary has beside its text."""
        policy = agreed.policy
        plan = await asyncio.to_thread(plan_of, snapshot, policy, strategy, place.preparer.format)
        self._look(place, policy, snapshot)
        chosen = set(plan.summarise)
        records = [record for record in snapshot.records if record.seq in chosen]
        frame = await self._frame(place, agreed, records) if records else 0
        if records and not is_smaller(plan, records, frame):
            plan = plan_nothing(plan, snapshot)
        return plan, records, frame

    async def _frame(self, place: Place, agreed: Agreement, records: Sequence[Stored]) -> int:
        """Count what a summary of the records has beside its text."""
        item = item_of("", agreed.policy, records, covers_of(records, ""))
        return (await place.preparer.count(read_facts(item, "chat"), agreed.counter))[0]

    async def _summary(
        self, place: Place, agreed: Agreement, records: Sequence[Stored], room: int
    ) -> Prepared:
        """Have the summary written, and make a record of it.

        Args:
            place: the session.
            agreed: its policy.
            records: that it stands for.
            room: most tokens of its text.

        Raises:
            SummaryFailed: it is nothing that could be stored.
        """
        writer = self._summarizer(place, agreed.policy)
        remote, named = is_remote(writer), place.preparer.format
        request = await asyncio.to_thread(
            lambda: request_of(
                shown_of(records, agreed.redactor, named) if remote else records,
                max_tokens=room,
                counter=agreed.counter,
                remote=remote,
                format=named,
            )
        )
        with place.naming(Call.SUMMARIZE):
            text = await checked(Redacting(writer, agreed.redactor), request)
        covers = covers_of(records, writer.name)
        item = item_of(text, agreed.policy, records, covers)
        tokens, _ = await place.preparer.count(read_facts(item, "chat"), agreed.counter)
        return Prepared(
            encode_item(item),
            tokens,
            int(Flag.SUMMARY | Flag.PINNED),
            notes=Notes(covers=covers, privacy="confidential" if request.confidential else None),
        )

    def _summarizer(self, place: Place, policy: Policy) -> Summarizer:
        """The memory's summariser: the same one while its policy stays, since it may learn."""
        name = f"{place.memory}:{policy.sha256()}"
        found = self._summarizers.get(name)
        if found is None:
            found = self._summarizers[name] = summarizer_of(policy, self._given)
        return found

    def _left(
        self, place: Place, agreed: Agreement, tokens: int, messages: int, *, gave: bool
    ) -> None:
        """Remember what decides when the session is due again."""
        due = self._due.get(place.session_name) or _Due()
        due.limit = agreed.limits
        due.left = left_by(agreed.limits, tokens=tokens, messages=messages, gave=gave)
        self._due[place.session_name] = due

    def _look(self, place: Place, policy: Policy, snapshot: Snapshot) -> None:
        """Remember when the oldest message will be too old, where that makes it leave."""
        if policy.flushing.strategy is not FlushingStrategy.TIME_BASED:
            return
        at = next_time_due(snapshot.records, policy, format=place.preparer.format)
        pause = 1.0 if at is None else max(1.0, (at - snapshot.now) / 1000)
        due = self._due.get(place.session_name) or _Due()
        due.look = time.monotonic() + pause
        self._due[place.session_name] = due


@asynccontextmanager
async def _claimed(place: Place, token: str) -> AsyncGenerator[None]:
    """Stay the session's flusher while a model writes."""

    async def lengthen() -> None:
        while True:
            await asyncio.sleep(_AGAIN)
            try:
                await place.store.claim_flush(token, _CLAIM)
            except HoldfastError:
                continue  # the splice will find out

    task = asyncio.create_task(lengthen())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _dropped_since(place: Place, before: Status, known: int) -> int:
    """Return what a trim dropped that was sent again: the lost answer knew, the last one may not."""
    try:
        now = await place.store.status()
    except StoreUnavailable:
        return known  # the trim itself is done, and must not be denied
    return max(known, now.dropped - before.dropped if now.epoch == before.epoch else 0)


async def _give_up(place: Place, token: str) -> None:
    try:
        await place.store.claim_flush(token, 0)
    except HoldfastError:
        return  # it ends by itself
