"""Export and import: a session as lines of JSON, the same lines again from where they were put."""

import asyncio
from abc import ABC
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass, field

import msgspec

from holdfast.errors import BudgetExceeded, ImportRefused, MessageInvalid
from holdfast.formats import Facts
from holdfast.log import MessageLog
from holdfast.messages import MAX_BYTES, MAX_ITEMS, Preparer, calls_of, encode_item, id_key
from holdfast.policies import Agreement
from holdfast.store.refusals import corrupt_record, import_redacted_otherwise
from holdfast.telemetry import Call
from holdfast.transfer_lines import (
    WITHHELD,
    Header,
    Line,
    header_line,
    read_header,
    read_record,
    record_line,
    refused,
)
from holdfast.values import (
    PROTECTED,
    Departed,
    ImportResult,
    Lines,
    Notes,
    Part,
    Remembered,
    Status,
    Stored,
    Terms,
)

_LONG = 16 * 1024  # characters of a line that is read off the event loop


class Transfer(MessageLog, ABC):
    """Export and import."""

    async def export(self, *, name: bool = False) -> AsyncIterator[str]:
        """Give the session as lines of JSON, without line ends: a header, then each record.

        All lines are of one moment, taken with the first: one round trip. A session that does not exist
        gives a header alone. The header has the history, and what is remembered of ids: digests of the
        latest, and 20 bits of a digest of what came under each, also of what has left since.

        Args:
            name: the header says the session's key.

        Raises:
            CorruptRecord: a record cannot be read, so the export would lack it.
            PolicyNotFound, StoreUnavailable, AccessDenied.
        """
        place = self._place
        with place.naming(Call.EXPORT):
            self._guard()
            agreed = await place.agreed()
            window, ids, history = await place.store.archive(agreed.terms)
            if window.corrupt:
                raise corrupt_record()
        session = place.session_name.rpartition("/")[2] if name else None
        yield header_line(window.status, ids, history, memory=str(place.memory), session=session)
        for one in window.records:
            yield record_line(one)

    async def import_(self, lines: Lines) -> ImportResult:
        """Take in what `export` gave: the session then exports the same lines.

        Sequence numbers, times, groups, protection, ids, tokens and history are kept as they are, and tool
        calls that wait still do. The policy's privacy applies as to what is appended: where it replaces
        something, a record differs from its line, and the result counts it. The lifetime begins anew.

        Retries are answered as they were where the export is from: those of messages that have left too,
        as many as the policy remembers; what an emptied session knew itself is forgotten. Where the policy
        redacts or withholds anything, a retry is not compared with what came first, since digests may be
        of what may not be stored here. Exports of earlier versions have neither: of them, the ids of the
        records are known, whatever the content, and what has left is said to have left before.

        Written in parts of at most 1,000 records and 8 MiB, one round trip each, ids and history with the
        first. An import that stopped goes on when it is called again with the same lines, unless the
        session was changed since. Others see the parts; take care that nobody appends meanwhile, or the
        rest is refused.

        Args:
            lines: of an export, one by one; blank ones are left out.

        Raises:
            ImportRefused: with the number of the line that is no part of an export, or that the session
                holds otherwise; or the policy's privacy was changed meanwhile. Nothing of this part was
                written.
            BudgetExceeded: the export is larger than the policy lets a session be: nothing was written,
                since the next append would drop what is too much.
            SessionBusy: somebody holds a turn that the policy enforces.
            QuotaExceeded, PolicyNotFound, StoreUnavailable, AccessDenied: this part was not written.
            AmbiguousWrite: perhaps it was: call again.
        """
        place = self._place
        with place.naming(Call.IMPORT), place.forgetting():
            self._guard()
            agreed = await place.agreed()
            window, _, history = await place.store.archive(agreed.terms)
            if window.corrupt:
                raise corrupt_record()
            if (
                window.status.revision > agreed.terms.revision
            ):  # what it redacts holds for all lines
                await place.policies.catch_up(window.status.revision)
                agreed = await place.agreed()
            present = deque(one.encoded() for one in window.records)
            work = _Import(agreed, window.status, present, history)
            async for number, line in _numbered(lines):
                if work.header is None:
                    if len(line) > _LONG:
                        await asyncio.to_thread(work.begin, number, line)
                    else:
                        work.begin(number, line)
                    continue
                if len(line) > _LONG:
                    await asyncio.to_thread(work.take, number, line, self._place.preparer)
                else:
                    work.take(number, line, self._place.preparer)
                if work.is_full:
                    await self._send(work)
            work.end()
            if work.records or work.left_out or not (work.sent or window.status.messages):
                await self._send(work)
        return work.result()

    async def _send(self, work: "_Import") -> None:
        part = work.part()
        ledger, store = self._place.policies.ledger, self._place.store

        async def send(terms: Terms) -> tuple[int, int]:
            if (await self._place.agreed()).policy.privacy != work.agreed.policy.privacy:
                raise import_redacted_otherwise()
            return await ledger.import_part(store, terms, part)

        work.written(*await self._agreed(send))
        self._place.epoch, self._place.seen = work.epoch, part.last_seq


@dataclass(slots=True)
class _Import:
    """An import under way."""

    agreed: Agreement
    status: Status
    present: deque[bytes]
    past: Sequence[Departed]
    header: Header | None = None
    records: list[Stored] = field(default_factory=list[Stored])
    size: int = 0
    sent: int = 0
    epoch: int = 0
    messages: int = 0
    tokens: int = 0
    redacted: int = 0
    withheld: int = 0
    left: int = 0
    resumed: int = 0
    ids: list[Remembered] = field(default_factory=list[Remembered])
    left_out: list[int] = field(default_factory=list[int])
    noted: int = 0
    history: list[Departed] = field(default_factory=list[Departed])
    waiting: dict[str, int] = field(default_factory=dict[str, int])
    opened: dict[str, int] = field(default_factory=dict[str, int])
    answered: set[str] = field(default_factory=set[str])
    protected: dict[int, bool] = field(default_factory=dict[int, bool])
    last: Stored | None = None

    def begin(self, number: int, line: str) -> None:
        """Read the header, and look whether this session can take what follows."""
        header = self.header = read_header(number, line)
        _require_room(self.agreed.terms, header.messages, header.tokens)
        status = self.status
        if status.messages and (status.last_seq, status.dropped) != (
            header.last_seq,
            header.dropped,
        ):
            raise refused(number, "is of another export than what the session holds")
        self.epoch = status.epoch
        if header.ids is not None and not status.messages:
            compared = self.agreed.redactor.screening(None) is None
            self.ids += header.remembered(compared=compared)
        if status.messages:
            own = [
                one for one in self.past if one.rule == WITHHELD and one not in header.departed()
            ]
            self.noted = max((one.last for one in own), default=0)
        else:
            self.history += header.departed()

    def take(self, number: int, line: str, reader: Preparer) -> None:
        """Read a record."""
        record = self._screened(self._read(number, line), reader)
        if record is None:
            return
        self.messages += 1
        self.tokens += record.tokens
        _require_room(self.agreed.terms, self.messages, self.tokens)
        encoded = record.encoded()
        if self.present:
            if self.present.popleft() != encoded:
                raise refused(number, "is not what the session holds in this place")
            self.resumed += 1
            return
        self.records.append(record)
        self.size += len(encoded)
        if record.id is not None:
            self._guess(record.id, record.seq)

    @property
    def is_full(self) -> bool:
        """Whether the part is as large as one may be."""
        largest = self.agreed.max_message_size + 64 * 1024
        return len(self.records) >= MAX_ITEMS or self.size + largest > MAX_BYTES

    def end(self) -> None:
        """The lines have ended."""
        if self.header is None:
            raise refused(1, "is missing: an export has a header at least")
        if self.present:
            raise ImportRefused("the session holds more messages than the export: choose another")

    def part(self) -> Part:
        """Return what is to be written next."""
        assert self.header is not None
        messages = self.messages - len(self.records)
        if self.left_out:
            self.history.append(Departed.of(0, WITHHELD, self.left_out, 0))
        return Part(
            tuple(self.records),
            tuple(self.ids),
            {call: group for call, group in self.opened.items() if call in self.waiting},
            tuple(self.answered),
            self.epoch,
            self.status.version + self.sent,
            messages,
            self.header.last_seq,
            self.header.dropped,
            tuple(self.history),
            anew=self.header.ids is not None and not messages,
        )

    def written(self, epoch: int, version: int) -> None:
        """The part is written."""
        self.epoch = epoch
        self.sent = version - self.status.version
        self.size = 0
        for done in (
            self.records,
            self.ids,
            self.history,
            self.left_out,
            self.opened,
            self.answered,
        ):
            done.clear()

    def result(self) -> ImportResult:
        """Say what became of it."""
        assert self.header is not None
        return ImportResult(
            records=self.messages,
            seq=self.header.last_seq,
            complete=self.messages + self.left >= self.header.messages,
            redacted=self.redacted,
            withheld=self.withheld,
            resumed=self.resumed,
        )

    def _read(self, number: int, line: str) -> Line:
        assert self.header is not None
        found = read_record(number, line)
        try:
            body = encode_item(found.item)
        except MessageInvalid as error:
            raise refused(number, f"holds no message: {error.message}") from None
        if len(body) > self.agreed.max_message_size:
            limit = self.agreed.max_message_size
            raise refused(
                number, f"has {len(body)} bytes of JSON, limits.maxMessageSize is {limit}"
            )
        before = self.last.seq if self.last is not None else 0
        if not before < found.seq <= self.header.last_seq:
            raise refused(number, "has a sequence number out of order, or above the header's")
        safe = bool(found.flags & PROTECTED)
        if found.group > found.seq or self.protected.setdefault(found.group, safe) != safe:
            raise refused(number, "does not belong to its group")
        return found

    def _screened(self, line: Line, reader: Preparer) -> Stored | None:
        """Return what may be stored of a line, and note its tool calls."""
        facts = reader.facts(line.item)
        item, notes, stored = line.item, line.notes, True
        screening = self.agreed.redactor.screening(None)
        if screening is not None:
            done = screening.screen(item, facts)
            item, stored = done.item, done.stored
            self.redacted += done.places
            self.withheld += done.withheld
            if done.places:
                old = notes or Notes()
                notes = msgspec.structs.replace(old, redacted=old.redacted + done.places)
        record = Stored(
            line.tokens, line.flags, line.seq, line.ts, line.group, line.id, item, notes
        )
        before, self.last = self.last, record
        if not stored:
            self.left += 1
            if line.seq > self.noted:
                self.left_out.append(line.seq)
            return None
        self._note_calls(facts, line.group)
        if before is not None and _is_batch(before, record):
            assert before.id is not None
            self._guess(before.id.removesuffix("#0"), before.seq)
        return record

    def _guess(self, id: str, seq: int) -> None:
        """Note an id, unless the export says itself which are known."""
        assert self.header is not None
        if self.header.ids is None:
            self.ids.append(Remembered.of(id_key(id), seq))

    def _note_calls(self, facts: Facts, group: int) -> None:
        opens, closes = calls_of(facts)
        for call in closes:
            name = call.removeprefix("?")
            if self.waiting.pop(name, None) is not None:
                self.answered.add(name)
        for call in opens:
            self.waiting[call] = self.opened[call] = group
            self.answered.discard(call)


def _is_batch(first: Stored, second: Stored) -> bool:
    """Whether these are the first two records of one append under one id."""
    if first.id is None or second.seq != first.seq + 1 or not first.id.endswith("#0"):
        return False
    return second.id == first.id.removesuffix("#0") + "#1"


def _require_room(terms: Terms, messages: int, tokens: int) -> None:
    if (terms.max_tokens and tokens > terms.max_tokens) or (
        terms.max_messages and messages > terms.max_messages
    ):
        raise BudgetExceeded(
            f"the export has {messages} messages and {tokens} tokens, more than a session of this memory "
            "may have: raise the limits for the import"
        )


async def _numbered(lines: Lines) -> AsyncIterator[tuple[int, str]]:
    """Number the lines from 1, and leave blank ones out."""
    number = 0
    async for line in each_line(lines):
        number += 1
        if line.strip():
            yield number, line


async def each_line(lines: Lines) -> AsyncIterator[str]:
    """Give lines one by one, however they are given."""
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            yield line
    else:
        for line in lines:
            yield line
