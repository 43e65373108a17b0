"""The methods of a session and of a turn that flush, and that tell what has left and why."""

import re
from abc import ABC
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from holdfast.arguments import require_text, require_whole
from holdfast.errors import ConfigurationError
from holdfast.flush_steps import LIMIT, strategy_of
from holdfast.messages import id_key
from holdfast.place import Place
from holdfast.summaries import summary_text
from holdfast.telemetry import Call
from holdfast.transfer_lines import IMPORT, WITHHELD
from holdfast.values import (
    Batch,
    Departed,
    Flag,
    FlushResult,
    HistoryEntry,
    Snapshot,
    Stored,
    Summary,
)

_MEMBER = re.compile(r"(.+)#(0|[1-9]\d{0,2})", re.ASCII | re.DOTALL)
"""The id of one message of a batch: the batch's, and its place in it."""

_WORDS = {
    "pop": "was taken out by pop()",
    "clear": "was removed by clear()",
    "replace": "was removed by replace()",
    "TimeBased": "left a flush, being older than flushing.maxAge",
    "several": "left; by which rule is not known any more",
}

_AROUND_IMPORTS = {
    IMPORT: "had left before the session was imported, or was dropped since when the session was full: "
    "the export did not say",
    WITHHELD: "was left out when the session was imported, since the policy does not let it be stored",
}
_NO_FLUSH = frozenset({"pop", "clear", "replace", "several", *_AROUND_IMPORTS})
"""Rules of the history that say nothing of a flush."""


class Upkeep(ABC):
    """Flush, summaries, history."""

    _place: Place

    async def flush(self, strategy: str | None = None, *, dry_run: bool = False) -> FlushResult:
        """Take the session down to its target now, as its policy does by itself at the threshold.

        Writers go on meanwhile, and whatever they append stays. A summary that could not be written
        changes nothing. Two round trips, four and a model's answer with a summary.

        Args:
            strategy: instead of the policy's: `FIFO`, `LRU`, `TokenAwareLRU`, `HybridSummary` or
                `TimeBased`. A policy with `Disabled` flushes like `FIFO` when asked.
            dry_run: say what would leave, and change nothing.

        Raises:
            ConfigurationError: there is no such strategy.
            SessionBusy: somebody else flushes the session, or changes it faster than this can.
            SummaryFailed, PolicyNotFound, StoreUnavailable, AccessDenied: nothing was changed.
        """
        chosen = strategy_of(strategy)
        with self._place.naming(Call.FLUSH):
            self._guard()
            await self._place.agreed()
            return await self._place.flusher.flush(self._place, chosen, dry_run=dry_run)

    async def summaries(self) -> list[Summary]:
        """Return the summaries that stand for what left, oldest first. One round trip."""
        with self._place.naming(Call.SUMMARIES):
            self._guard()
            agreed = await self._place.agreed()
            window = await self._place.store.tail(agreed.terms, tokens=-1)
        return [_summary(record) for record in window.records if record.flags & Flag.SUMMARY]

    async def history(self) -> list[HistoryEntry]:
        """Return what left the session, when and by which rule; never what it said. Two round trips.

        What the hard limits dropped, one by one as the session went on, has no time.
        """
        with self._place.naming(Call.HISTORY):
            self._guard()
            await self._place.agreed()
            snapshot = await self._place.store.snapshot()
            departed = await self._place.store.departed()
        return _history(snapshot, departed)

    async def explain(self, *, id: str | None = None, seq: int | None = None) -> str:
        """Say in one sentence what became of a message. Up to four round trips.

        Args:
            id: that it was appended with; of several together `id#0`, `id#1` and so on. A session
                remembers when a batch began, not which of it were stored: the sentence says so of
                one that left.
            seq: its sequence number, instead.

        Raises:
            ConfigurationError: neither is given, or both, or one that is none.
        """
        require_explained(id, seq)
        with self._place.naming(Call.EXPLAIN):
            self._guard()
            await self._place.agreed()
            store = self._place.store
            snapshot = await store.snapshot()
            name = None
            if seq is None:
                assert id is not None
                found = await self._numbered(id, snapshot)
                if found is None:
                    return (
                        "No message with this id is known: it was never stored here, more ids came "
                        "after it than the session remembers, or it left and was one of a batch of "
                        "which not all was stored."
                    )
                seq, name = found
            departed = await store.departed()
        return _explain(seq, name or f"Message {seq}", snapshot, departed)

    async def _numbered(self, id: str, snapshot: Snapshot) -> tuple[int, str | None] | None:
        """Return the number of the message that has an id, and what to call it if that is a guess."""
        store = self._place.store
        seq = next((one.seq for one in snapshot.records if one.id == id), None)
        if seq is not None:
            return seq, None
        answer = await store.known(Batch((), id_key(id)))
        if answer is not None:
            return answer.seq, None
        # Only the id of the whole batch is remembered: its messages are counted from the first.
        member = _MEMBER.fullmatch(id)
        answer = await store.known(Batch((), id_key(member[1]))) if member is not None else None
        if member is None or answer is None:
            return None
        seq = answer.seq + int(member[2])
        others = (one.seq for one in snapshot.records if not one.flags & Flag.SUMMARY)
        if seq > snapshot.status.last_seq or seq in others:
            return None
        return seq, f"Message {seq}, which this id names if its batch was stored in whole,"

    def _guard(self) -> None:
        """Refuse a call that is known to come too late."""


def require_explained(id: object, seq: object) -> None:
    """Accept the arguments of `explain`.

    Raises:
        ConfigurationError: not exactly one is given, or it is no text or no sequence number.
    """
    if (id is None) == (seq is None):
        raise ConfigurationError("explain() takes an id or a seq")
    require_text(id=id)
    require_whole(seq=seq)


def last_flush(departed: Iterable[Departed]) -> int | None:
    """Return when a flush last took something out, as far as that is known."""
    return max((one.at for one in departed if one.rule not in _NO_FLUSH), default=None)


def _summary(stored: Stored) -> Summary:
    covers = stored.notes.covers if stored.notes is not None else None
    return Summary(
        seq=stored.seq,
        text=summary_text(stored.item),
        first=covers.first if covers else stored.seq,
        last=covers.last if covers else stored.seq,
        messages=covers.messages if covers else 0,
        covered_tokens=covers.tokens if covers else 0,
        tokens=stored.tokens,
        model=covers.model if covers else "",
        ts=stored.ts,
    )


def _history(snapshot: Snapshot, departed: Iterable[Departed]) -> list[HistoryEntry]:
    entries = [
        HistoryEntry(
            one.rule,
            one.first,
            one.last,
            one.messages,
            one.at or None,
            one.tokens if one.rule not in _AROUND_IMPORTS else None,
            one.summary or None,
        )
        for one in departed
    ]
    entries += [
        HistoryEntry(LIMIT, low, high, high - low + 1, None, None, None)
        for low, high in _dropped_by_limits(snapshot, departed)
    ]
    return sorted(entries, key=lambda entry: entry.first)


def _dropped_by_limits(snapshot: Snapshot, departed: Iterable[Departed]) -> list[tuple[int, int]]:
    """Runs of sequence numbers that neither live nor are in the history."""
    spans = [(one.seq, one.seq) for one in snapshot.records]
    for one in departed:
        spans += one.ranges or ((one.first, one.last),)
    runs: list[tuple[int, int]] = []
    following = 1
    for low, high in sorted(spans):
        if low > following:
            runs.append((following, low - 1))
        following = max(following, high + 1)
    if following <= snapshot.status.last_seq:
        runs.append((following, snapshot.status.last_seq))
    return runs


def _explain(seq: int, name: str, snapshot: Snapshot, departed: Sequence[Departed]) -> str:
    if not 1 <= seq <= snapshot.status.last_seq:
        return f"{name} was never stored in this session."
    found = next((one for one in snapshot.records if one.seq == seq), None)
    if found is not None:
        return f"{name} {_why_kept(found)}."
    exact = [at for at, one in enumerate(departed) if _names(one, seq)]
    outer = [
        at for at, one in enumerate(departed) if not one.ranges and one.first <= seq <= one.last
    ]
    entries = exact or outer
    if not entries:
        return f"{name} was dropped when the session was full, as one of the oldest."
    one, later = departed[entries[-1]], departed[entries[-1] + 1 :]
    if one.rule in _AROUND_IMPORTS:
        return f"{name} {_AROUND_IMPORTS[one.rule]}."
    others = _others(one.messages - 1)
    if not one.summary:
        return f"{name} {_how(one)} on {_when(one)}{others}."
    summary, end = _summary_now(one.summary, later)
    if end is None:
        return f"{name} left on {_when(one)}, and is part of the summary at {summary}{others}."
    return f"{name} went into a summary on {_when(one)}, which {_how(end)} on {_when(end)}."


def _names(one: Departed, seq: int) -> bool:
    return any(low <= seq <= high for low, high in one.ranges)


def _summary_now(summary: int, later: Iterable[Departed]) -> tuple[int, Departed | None]:
    """Follow a summary through those it was folded into, up to the last, and how that left."""
    for one in later:
        if _names(one, summary):
            if not one.summary:
                return summary, one
            summary = one.summary
    return summary, None


def _how(one: Departed) -> str:
    return _WORDS.get(one.rule) or f"left a flush by the rule {one.rule}"


def _when(one: Departed) -> str:
    return f"{datetime.fromtimestamp(one.at / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _others(count: int) -> str:
    if count < 1:
        return ""
    return f", together with {'one other' if count == 1 else f'{count} others'}"


def _why_kept(record: Stored) -> str:
    if record.flags & Flag.SUMMARY:
        covers = record.notes.covers if record.notes is not None else None
        what = f" of {covers.messages} messages" if covers else ""
        return f"is part of the summary{what} that stands in its place, which nothing drops"
    if record.flags & Flag.SYSTEM:
        return "is stored; it is a system message, which nothing drops"
    if record.flags & Flag.PINNED:
        return "is stored; it is pinned, or belongs to what is, so nothing drops it"
    return f"is stored and has {record.tokens} tokens; it leaves when the session needs the room"
