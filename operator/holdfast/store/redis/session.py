"""One session in Redis: each operation is one script, or one transaction of reads."""

import time
from collections.abc import Collection, Sequence

import msgspec
from redis.exceptions import OutOfMemoryError

from holdfast.errors import StoreUnavailable
from holdfast.store.redis.carrier import Argument
from holdfast.store.redis.layout import (
    WAKE_SUFFIX,
    SessionKeys,
    pack_caller,
    pack_record,
    pack_terms,
)
from holdfast.store.redis.replies import (
    META_FIELDS,
    accept,
    milliseconds,
    read_status,
    records_in_order,
    text,
)
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import Script, script
from holdfast.values import (
    Appended,
    Batch,
    Caller,
    Changed,
    Granted,
    Queued,
    Refresh,
    Section,
    Status,
    Stored,
    Terms,
    Window,
)

_NOBODY = Caller()
_ALL_TOKENS = 2**53
_DAY = 86_400_000  # ms
_LONGEST_SLEEP = 2.5  # seconds; below the time-out that clients give their sockets
_ID = msgspec.json.Encoder()


class RedisSession:
    """A handle on one session; see `SessionStore`.

    Args:
        runner: runs scripts.
        keys: the session's keys.
        index: the memory's index of sessions.
        name: the session's name there.
    """

    def __init__(self, runner: Runner, keys: SessionKeys, index: bytes, name: str) -> None:
        self._runner = runner
        self._keys = keys
        self._state = keys[:5]
        self._index = index
        self._name = name
        self._indexed_at = float("-inf")
        self._terms: Terms | None = None
        self._packed = b""

    async def append(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Store a batch; see `SessionStore.append`. One round trip, two where the session expired."""
        records = [
            pack_record(record, b"null" if record.id is None else _ID.encode(record.id))
            for record in batch.records
        ]
        packed = self._pack(terms)
        due = self._index_due(terms)
        while True:
            head = f"{pack_caller(caller, create=due)}|{batch.key}|{batch.digest}"
            reply = await self._runner.run(
                script("append"),
                self._state,
                [head, packed, *records],
                repeatable=bool(batch.key and terms.max_ids),
                stores=True,
                before=self._note_in_index(terms) if due else None,
            )
            word = accept(reply, caller)
            if due:
                self._indexed_at = time.monotonic()
            if word != "NOSESSION":
                break
            due = True
        if word == "DUPLICATE":
            _, seq, length, tokens, epoch = reply
            return Appended(seq, True, tokens, length, 0, epoch, over=False, torn=False)
        _, seq, length, tokens, evicted, epoch, over, torn = reply
        return Appended(seq, False, tokens, length, evicted, epoch, bool(over), bool(torn))

    async def newest(self, terms: Terms, count: int) -> Sequence[Stored]:
        """Return the newest records, in append order. One round trip."""
        if terms.refresh & Refresh.READ:
            await self._touch(terms)
        try:
            log, pin = await self._runner.read_at_once(
                [(b"LRANGE", key, -count, -1) for key in (self._keys.log, self._keys.pin)]
            )
        except StoreUnavailable as error:
            return (await self._when_full(error, terms)).records[-count:]
        records, _ = records_in_order(log, pin)
        return records[-count:]

    async def pop(
        self,
        terms: Terms,
        caller: Caller,
        *,
        expected: int,
        opens: Collection[str],
        closes: Collection[str],
    ) -> Changed:
        """Take the newest record out; see `SessionStore.pop`. One round trip."""
        calls = [",".join(opens), ",".join(call.removeprefix("?") for call in closes)]
        return await self._change("pop", terms, caller, [expected, *calls], repeatable=False)

    async def clear(self, terms: Terms, caller: Caller, *, force: bool) -> Changed:
        """Remove all records; see `SessionStore.clear`. One round trip."""
        return await self._change("clear", terms, caller, [int(force)], repeatable=False)

    async def pin(self, terms: Terms, caller: Caller, *, seq: int, pinned: bool) -> Changed:
        """Pin or unpin a group; see `SessionStore.pin`. One round trip."""
        return await self._change("pin", terms, caller, [seq, int(pinned)], repeatable=True)

    async def everything(self, terms: Terms) -> Window:
        """Return all records, of one moment. One round trip."""
        commands: list[tuple[bytes | int, ...]] = [
            (b"HMGET", self._keys.meta, *META_FIELDS),
            (b"LRANGE", self._keys.log, 0, -1),
            (b"LRANGE", self._keys.pin, 0, -1),
            (b"TIME",),
        ]
        if terms.refresh & Refresh.READ:
            touch = script("touch")
            commands.append((touch.command, touch.sha, 5, *self._state, self._pack(terms)))
        try:
            fields, log, pin, clock, *_ = await self._runner.read_at_once(commands)
        except StoreUnavailable as error:
            return await self._when_full(error, terms)
        records, corrupt = records_in_order(log, pin)
        status = read_status(fields, now=milliseconds(clock))
        return Window(status, records, complete=True, corrupt=corrupt)

    async def tail(self, terms: Terms, *, tokens: int) -> Window:
        """Return the protected and the newest records; see `SessionStore.tail`. One round trip."""
        if terms.refresh & Refresh.READ:
            await self._runner.run(
                script("touch"), self._state, [self._pack(terms)], repeatable=True
            )
        fields, pin, log, complete, clock = await self._runner.run(
            script("tail"), self._state, [tokens], repeatable=True
        )
        records, corrupt = records_in_order(log, pin)
        status = read_status(fields, now=milliseconds(clock))
        return Window(status, records, complete=bool(complete), corrupt=corrupt)

    async def page(self, terms: Terms, *, after: int, limit: int) -> Section:
        """Return a page of records; see `SessionStore.page`. One round trip."""
        if terms.refresh & Refresh.READ:
            await self._touch(terms)
        log, pin, fields, clock, waiting, newest = await self._runner.run(
            script("page"), self._state, [after, limit], repeatable=True
        )
        records, _ = records_in_order(log, pin)
        status = read_status(fields, now=milliseconds(clock))
        return Section(status, records[:limit], frozenset(waiting), newest)

    async def status(self) -> Status:
        """Return the counters. One round trip."""
        fields, waiting, clock = await self._runner.read(
            [
                (b"HMGET", self._keys.meta, *META_FIELDS),
                (b"ZCARD", self._keys.queue),
                (b"TIME",),
            ]
        )
        return read_status(fields, now=milliseconds(clock), waiting=waiting)

    async def acquire(self, terms: Terms, token: str, holder: str) -> Granted | Queued:
        """Take the turn or a place in line; see `SessionStore.acquire`. One round trip."""
        due = self._index_due(terms)
        while True:
            reply = await self._runner.run(
                script("acquire"),
                self._keys,
                [token, self._pack(terms), holder, int(due)],
                repeatable=True,
                before=self._note_in_index(terms) if due else None,
            )
            word = text(reply[0])
            if word not in ("WAIT", "BUSY"):
                word = accept(reply, _NOBODY)
            if due:
                self._indexed_at = time.monotonic()
            if word != "NOSESSION":
                break
            due = True
        if word == "GRANTED":
            return Granted(fence=reply[1], epoch=reply[2], seen=reply[3])
        return Queued(reply[1] / 1000, text(reply[2]) or None, reply[3], queued=word == "WAIT")

    async def sleep(self, token: str, seconds: float) -> None:
        """Wait to be woken; see `SessionStore.sleep`. Holds one connection meanwhile."""
        key = self._keys.meta.removesuffix(b":meta") + WAKE_SUFFIX + token.encode()
        await self._runner.wait(key, max(0.001, min(seconds, _LONGEST_SLEEP)))

    async def renew(self, terms: Terms, token: str, epoch: int) -> int:
        """Lengthen the lease; see `SessionStore.renew`. One round trip."""
        reply = await self._runner.run(
            script("renew"), self._state, [token, self._pack(terms), epoch], repeatable=True
        )
        accept(reply, _NOBODY)
        return reply[1]

    async def release(self, terms: Terms, token: str) -> None:
        """End the lease or leave the line; see `SessionStore.release`. One round trip."""
        await self._runner.run(
            script("release"), self._keys, [token, self._pack(terms)], repeatable=True
        )

    async def _change(
        self,
        name: str,
        terms: Terms,
        caller: Caller,
        arguments: Sequence[int | str],
        *,
        repeatable: bool,
    ) -> Changed:
        head = pack_caller(caller, create=False)
        reply = await self._runner.run(
            script(name),
            self._state,
            [head, self._pack(terms), *arguments],
            repeatable=repeatable,
            stores=True,
        )
        accept(reply, caller)
        return Changed(records=reply[1], epoch=reply[2])

    async def _when_full(self, error: StoreUnavailable, terms: Terms) -> Window:
        """Read everything by a script: Redis out of memory refuses any transaction, reads too."""
        if not isinstance(error.__cause__, OutOfMemoryError):
            raise error
        return await self.tail(terms, tokens=_ALL_TOKENS)

    async def _touch(self, terms: Terms) -> None:
        await self._runner.run(script("touch"), self._state, [self._pack(terms)], repeatable=True)

    def _pack(self, terms: Terms) -> bytes:
        if terms is not self._terms:
            self._terms, self._packed = terms, pack_terms(terms)
        return self._packed

    def _note_in_index(self, terms: Terms) -> tuple[Script, list[bytes], list[Argument]]:
        """What runs in front of a call that may begin the session."""
        life = 2 * max(terms.ttl, terms.after_clear, terms.after_flush) + _DAY
        return script("index"), [self._index], [self._name, life]

    def _index_due(self, terms: Terms) -> bool:
        """Whether the index should hear of this session: before its first write, then now and then."""
        return time.monotonic() - self._indexed_at > max(60.0, terms.ttl / 20_000)
