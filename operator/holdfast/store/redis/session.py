"""One session in Redis: each operation is one script, or one transaction of reads."""

import re
import time
from collections.abc import Collection, Sequence
from typing import Any

from redis.exceptions import OutOfMemoryError

from holdfast.errors import StoreUnavailable
from holdfast.store.redis.carrier import Command
from holdfast.store.redis.cuts import newest_of, part_of
from holdfast.store.redis.handle import NOBODY
from holdfast.store.redis.layout import WAKE_SUFFIX, pack_caller, pack_id, pack_splice
from holdfast.store.redis.remembered import read_id, read_ids
from holdfast.store.redis.replies import (
    META_FIELDS,
    accept,
    milliseconds,
    pairs_of,
    read_history,
    read_snapshot,
    read_status,
    records_in_order,
    text,
)
from holdfast.store.redis.rewrites import Rewrites
from holdfast.store.redis.script import script
from holdfast.store.refusals import conflict, unconfirmed_turn
from holdfast.values import (
    Appended,
    Archive,
    Batch,
    Caller,
    Changed,
    Departed,
    Granted,
    Newest,
    Queued,
    Refresh,
    Section,
    Snapshot,
    Splice,
    Spliced,
    Status,
    Terms,
    Trimmed,
    Window,
)

_ALL_TOKENS = 2**53
_SPLICES = 5  # more than a session changes under a plan: each removes some of it
_LONGEST_SLEEP = 2.5  # seconds; below the time-out that clients give their sockets
_GRANTED = re.compile(r"(\d+)\|(\d+)\|(\d+)\|(\d+)")  # fence, epoch, last seq, end of the lease


class RedisSession(Rewrites):
    """A handle on one session; see `SessionStore`."""

    async def append(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Store a batch; see `SessionStore.append`. One round trip, two where the session expired.

        Three where a session begins that a quota counts: nothing may be written before the index,
        which is in another slot, has let it in.
        """
        return await self._store("append", terms, batch, caller)

    async def known(self, batch: Batch) -> Appended | None:
        """Answer a batch whose id is known; see `SessionStore.known`. One round trip."""
        own_id = pack_id(batch.key)
        entries, fields, clock = await self._runner.read(
            [
                (b"HMGET", self._keys.ids, own_id[:1], own_id[:2]),
                (b"HMGET", self._keys.meta, *META_FIELDS),
                (b"TIME",),
            ]
        )
        status = read_status(fields, now=milliseconds(clock))
        found = read_id(entries, fields, own_id[2:])
        if found is None:
            return None
        seq, digest = found
        if digest and batch.digest and digest != batch.digest:
            raise conflict(seq)
        return Appended(
            seq, True, status.tokens, status.messages, 0, status.epoch, over=False, torn=False
        )

    async def newest(self, terms: Terms, count: int) -> Newest:
        """Return the newest records, in append order. One round trip, more where some cannot be read."""
        if terms.refresh & Refresh.READ:
            await self._touch(terms)
        asked = count
        while True:
            try:
                log, pin = await self._runner.read_at_once(
                    [(b"LRANGE", key, -asked, -1) for key in (self._keys.log, self._keys.pin)]
                )
            except StoreUnavailable as error:
                window = await self._when_full(error, terms)
                return Newest(window.records[-count:], window.corrupt)
            found = newest_of(log, pin, asked=asked, count=count)
            if found is not None:
                return found
            asked *= 2

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
        try:
            window, _ = await self._all(terms, [])
        except StoreUnavailable as error:
            return await self._when_full(error, terms)
        return window

    async def archive(self, terms: Terms) -> Archive:
        """Return all that an export holds; see `SessionStore.archive`. One round trip."""
        commands: list[Command] = [
            (b"HMGET", self._keys.meta, *META_FIELDS),
            (b"HGETALL", self._keys.ids),
            (b"LRANGE", self._keys.hist, 0, -1),
        ]
        try:
            window, replies = await self._all(terms, commands)
        except StoreUnavailable as error:
            window = await self._when_full(error, terms)
            replies = await self._runner.read(commands)
        fields, held, entries = replies
        return Archive(window, read_ids(pairs_of(held), fields), read_history(entries))

    async def _all(self, terms: Terms, more: Sequence[Command]) -> tuple[Window, list[Any]]:
        """Return all records, and the replies to more commands, of one moment."""
        commands: list[Command] = [
            (b"HMGET", self._keys.meta, *META_FIELDS),
            (b"LRANGE", self._keys.log, 0, -1),
            (b"LRANGE", self._keys.pin, 0, -1),
            (b"TIME",),
            *more,
        ]
        if terms.refresh & Refresh.READ:
            touch = script("touch")
            commands.append((touch.command, touch.sha, 5, *self._state, self._pack(terms)))
        fields, log, pin, clock, *others = await self._runner.read_at_once(commands)
        records, corrupt = records_in_order(log, pin)
        status = read_status(fields, now=milliseconds(clock))
        for reply in others[len(more) :]:
            await self._note_reader(terms, reply)
        return Window(status, records, complete=True, corrupt=corrupt), others[: len(more)]

    async def tail(self, terms: Terms, *, tokens: int) -> Window:
        """Return the protected and the newest records; see `SessionStore.tail`. One round trip."""
        if terms.refresh & Refresh.READ:
            await self._touch(terms)
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
            script("page"), self._state, [after, limit + 1], repeatable=True
        )
        part = part_of(log, pin, limit=limit)
        status = read_status(fields, now=milliseconds(clock))
        return Section(status, part.records, frozenset(waiting), newest, part.next, part.corrupt)

    async def claim_flush(self, token: str, milliseconds: int) -> bool:
        """Be the session's flusher; see `SessionStore.claim_flush`. One round trip."""
        reply = await self._runner.run(
            script("flusher"), self._state, [token, milliseconds], repeatable=True
        )
        return accept(reply, NOBODY) == "OK" and bool(reply[1])

    async def snapshot(self) -> Snapshot:
        """Return all records as they are stored; see `SessionStore.snapshot`. One round trip."""
        fields, log, pin, clock, *_ = await self._runner.read(
            [
                (b"HGETALL", self._keys.meta),
                (b"LRANGE", self._keys.log, 0, -1),
                (b"LRANGE", self._keys.pin, 0, -1),
                (b"TIME",),
            ]
        )
        return read_snapshot(pairs_of(fields), log, pin, now=milliseconds(clock))

    async def trim(self, terms: Terms, *, tokens: int, messages: int) -> Trimmed:
        """Drop the oldest groups; see `SessionStore.trim`. One round trip."""
        lost: list[None] = []
        reply = await self._runner.run(
            script("trim"),
            self._state,
            [self._pack(terms), tokens, messages],
            repeatable=True,
            repeating=lambda: lost.append(None),
        )
        if accept(reply, NOBODY) == "GONE":
            return Trimmed(0, 0, 0)
        return Trimmed(*reply[1:], repeated=bool(lost))

    async def splice(self, terms: Terms, splice: Splice) -> Spliced:
        """Take planned records out; see `SessionStore.splice`. A round trip for each change meanwhile."""
        there = {seq for seq, _ in splice.records}
        for _ in range(_SPLICES):
            arguments = pack_splice(splice, there)
            reply = await self._runner.run(
                script("splice"), self._state, [self._pack(terms), *arguments], repeatable=True
            )
            word = accept(reply, NOBODY)
            if word == "OK":
                return Spliced(True, *reply[1:])
            if word != "CHANGED" or there == (present := there & set(reply[1])):
                break
            there = present
        return Spliced(done=False)

    async def departed(self) -> tuple[Departed, ...]:
        """Return the history; see `SessionStore.departed`. One round trip."""
        [entries] = await self._runner.read([(b"LRANGE", self._keys.hist, 0, -1)])
        return read_history(entries)

    async def touch(self, terms: Terms, groups: Collection[int]) -> None:
        """Note an access; see `SessionStore.touch`. One round trip."""
        await self._touch(terms, ",".join(map(str, groups)))

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

    async def acquire(
        self, terms: Terms, token: str, holder: str, *, interrupt: bool = False
    ) -> Granted | Queued:
        """Take the turn or a place in line; see `SessionStore.acquire`. Round trips as of `append`."""
        due = self._index_due(terms)
        create = due and not terms.max_sessions
        while True:
            asked = time.monotonic()
            reply, durable = await self._runner.run_confirmed(
                script("acquire"),
                [*self._keys, self._wake_key(token)],
                [self._pack(terms), token, holder, int(create), int(interrupt)],
                repeatable=True,
                before=self._note_in_index(terms) if due else None,
                repeating=lambda: self._asked_twice.add(token),
            )
            word = text(reply[0])
            if word not in ("WAIT", "BUSY"):
                word = accept(reply, NOBODY)
            if due:
                self._indexed_at = time.monotonic()
            if word != "NOSESSION":
                break
            due, create = await self._admit(terms), True
        if word == "GRANTED" and not durable:
            await self.release(terms, token)
            raise unconfirmed_turn()
        if word == "GRANTED":
            _, fence, epoch, seen = reply
            return Granted(fence, epoch, seen, until=asked + terms.lease / 1000)
        self._clocks = asked, reply[4], terms.grant / 1000
        return Queued(reply[1] / 1000, text(reply[2]) or None, reply[3], queued=word == "WAIT")

    async def sleep(self, token: str, seconds: float) -> Granted | None:
        """Wait for the turn; see `SessionStore.sleep`. Holds one connection meanwhile."""
        seconds = max(0.001, min(seconds, _LONGEST_SLEEP))
        granted = _GRANTED.fullmatch(text(await self._runner.wait(self._wake_key(token), seconds)))
        if granted is None or self._clocks is None:
            return None
        fence, epoch, seen, until = map(int, granted.groups())
        # The server's clock stood at `there` some time after ours stood at `here`, so what it calls
        # `until` comes no sooner than this. Ours goes on while the process is stopped.
        here, there, grant = self._clocks
        now = time.monotonic()
        # Nor can it be further away than the grant time, even if another server answers by now.
        end = min(here + (until - there) / 1000, now + grant)
        return Granted(fence, epoch, seen, until=end) if end > now else None

    async def renew(self, terms: Terms, token: str, epoch: int, holder: str = "") -> int:
        """Lengthen the lease; see `SessionStore.renew`. One round trip."""
        arguments = [self._pack(terms), token, epoch, holder]
        reply = await self._runner.run(script("renew"), self._state, arguments, repeatable=True)
        accept(reply, NOBODY)
        return reply[1]

    async def release(self, terms: Terms, token: str, *, doubt: bool = False) -> None:
        """End the lease or leave the line; see `SessionStore.release`. One round trip."""
        doubt = doubt or token in self._asked_twice
        arguments = [self._pack(terms), token, int(doubt)]
        keys = [*self._keys, self._wake_key(token)]
        await self._runner.run(script("release"), keys, arguments, repeatable=True)
        self._asked_twice.discard(token)

    def _wake_key(self, token: str) -> bytes:
        return self._keys.meta.removesuffix(b":meta") + WAKE_SUFFIX + token.encode()

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
            [self._pack(terms), head, *arguments],
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

    async def _touch(self, terms: Terms, groups: str = "") -> None:
        arguments = [self._pack(terms), groups]
        reply = await self._runner.run(script("touch"), self._state, arguments, repeatable=True)
        await self._note_reader(terms, reply)
