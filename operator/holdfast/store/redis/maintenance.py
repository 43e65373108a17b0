"""The operator's hands in one Redis or Valkey server; see `holdfast.store.maintenance`."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.errors import CorruptRecord, ServerTooOld, StoreUnavailable, UnknownKeys
from holdfast.keys import is_session_key
from holdfast.store.maintenance import (
    LayoutTooNew,
    Owner,
    Ownership,
    ServerInfo,
    Step,
    Superseded,
    Totals,
)
from holdfast.store.redis.carrier import Carrier, Command, PoolCarrier, Reply
from holdfast.store.redis.index import CHUNK, Entry, Index
from holdfast.store.redis.layout import (
    LABELS,
    LAYOUT,
    MemoryKeys,
    SessionKeys,
    label_key_of,
    memory_keys,
    pack_terms,
)
from holdfast.store.redis.migrating import Migration
from holdfast.store.redis.replies import (
    META_FIELDS,
    milliseconds,
    read_expiry,
    read_status,
    text,
)
from holdfast.store.redis.runner import Runner, evalsha
from holdfast.store.redis.script import Script, all_scripts, script
from holdfast.store.redis.store import RedisStore
from holdfast.values import MemoryAddress, Terms

_OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
_ABANDONED = 600_000
"""Milliseconds after which an index entry without a session is dropped: a writer notes it first."""
_TOMBSTONE = 60_000
"""Life of a tombstone in milliseconds: above the age at which a writer asks for the policy again."""
_REMEMBERED = 86_400_000
"""Milliseconds for which marker, epoch and revision outlive a memory."""
_RETAINED = 3_600_000
"""Milliseconds that a retained policy lives at least."""
_CONNECTIONS = 16
_VERSION = r"\d{1,6}(\.\d{1,6}){0,3}([-.+][-.+\w]{1,24})?"
_MODE = "standalone|sentinel|cluster"
_FACTS = {
    "server_name": r"[-\w ]{1,32}",
    "redis_version": _VERSION,
    "valkey_version": _VERSION,
    "redis_mode": _MODE,
    "server_mode": _MODE,
    "used_memory": r"\d{1,18}",
    "maxmemory": r"\d{1,18}",
    "maxmemory_policy": "[-a-z]{1,32}",
}
"""What is read of INFO, and the form it has."""
_WORDS = {
    "OURS": Ownership.OURS,
    "TAKENOVER": Ownership.TAKEN_OVER,
    "OTHER": Ownership.OTHER,
    "UNMARKED": Ownership.UNMARKED,
    "FENCED": Ownership.FENCED,
}


class _Visit(NamedTuple):
    """Entries of the index with what their sessions answered, by the first word of it."""

    cursor: int
    total: int
    answers: dict[str, list[tuple[Entry, Reply]]]

    def entries(self, *words: str) -> list[Entry]:
        return [entry for word in words for entry, _ in self.answers.get(word, ())]

    def step(self, *, changed: int, unsatisfied: int = 0, dropped: int = 0) -> Step:
        broken = len(self.entries("BROKEN", "LAYOUT"))
        return Step(
            cursor=self.cursor,
            seen=sum(map(len, self.answers.values())),
            changed=changed,
            unsatisfied=unsatisfied + broken,
            total=max(0, self.total - dropped),
            broken=broken,
        )


class RedisMaintenance:
    """Marks, policies and walks in one server.

    Args:
        carrier: brings commands to the server.
        prefix: first part of every key, `spec.keyPrefix` of the MemoryBackend.
        patience: seconds a call is repeated while the server cannot serve.
        migration: as of `RedisStore`.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        prefix: str = "mem",
        patience: float = 2.0,
        migration: Script | None = None,
    ) -> None:
        self._carrier = carrier
        self._prefix = prefix
        self._patience = patience
        self._steps = migration or script("migrate")
        self._runner = Runner(carrier, patience=patience)
        self._migration = Migration(self._runner, self._steps)

    @classmethod
    def connect(
        cls,
        host: str,
        port: int = 6379,
        *,
        database: int = 0,
        username: str | None = None,
        password: str | None = None,
        prefix: str = "mem",
        timeout: float = 5.0,
    ) -> Self:
        """Make the hands with a client of their own. No I/O yet.

        Args:
            host: name or address of the server.
            port: 1..65535.
            database: its number.
            username: None for the server's default user.
            password: None for a server without one.
            prefix: first part of every key.
            timeout: seconds for a connection, for an exchange, and for repeating a call.
        """
        pool = ConnectionPool(
            host=host,
            port=port,
            db=database,
            username=username,
            password=password,
            retry=Retry(NoBackoff(), 0),
            retry_on_error=[],
            socket_connect_timeout=timeout,
            socket_timeout=None,
            max_connections=_CONNECTIONS,
        )
        carrier = PoolCarrier(pool, owned=True, timeout=timeout)
        return cls(carrier, prefix=prefix, patience=timeout)

    async def server(self) -> ServerInfo:
        """Ask the server what it is; see `Maintenance.server`."""
        sections = await self._runner.read([(b"INFO", b"server"), (b"INFO", b"memory")])
        says = _facts(sections)
        product = "valkey" if says.get("server_name") == "valkey" else "redis"
        version = says.get(f"{product}_version", "0")
        if _numbers(version) < _OLDEST[product]:
            raise ServerTooOld(
                f"the server is {product} {version}: holdfast needs Redis 7.0 or Valkey 7.2 at least"
            )
        return ServerInfo(
            product=product,
            version=version,
            mode=says.get("redis_mode") or says.get("server_mode") or "standalone",
            used_memory=int(says.get("used_memory", 0)),
            max_memory=int(says.get("maxmemory", 0)),
            eviction_policy=says.get("maxmemory_policy", ""),
        )

    async def load_scripts(self) -> None:
        """Make sure the server knows every script; see `Maintenance.load_scripts`."""
        scripts = all_scripts()
        [known] = await self._runner.read([(b"SCRIPT", b"EXISTS", *(one.sha for one in scripts))])
        missing = [one for one, there in zip(scripts, known, strict=True) if not there]
        if missing:
            await self._runner.read([(b"SCRIPT", b"LOAD", one.body) for one in missing])

    async def claim(self, memory: MemoryAddress, owner: Owner, *, adopt: bool = False) -> Ownership:
        """Mark the memory's keys as ours; see `Maintenance.claim`. One round trip as a rule."""
        arguments = [*owner[:5], owner.epoch, int(adopt)]
        word, *_ = await self._own("claim", memory, arguments)
        if word == "UNMARKED":
            # Perhaps only the names of sessions that ended long ago stand in the way.
            step, _ = await self.measure(memory, cursor=0, limit=CHUNK)
            if step.total == 0:
                word, *_ = await self._own("claim", memory, arguments)
        return _WORDS[word]

    async def put_policy(
        self, memory: MemoryAddress, owner: Owner, document: str, sha256: str, *, before: int = 0
    ) -> int | None:
        """Write the policy document; see `Maintenance.put_policy`. One round trip."""
        arguments = [owner.uid, owner.epoch, sha256, document, before]
        word, *rest = await self._own("put_policy", memory, arguments)
        return int(rest[0]) if word == "OK" else None

    async def put_usage(self, memory: MemoryAddress, owner: Owner, totals: Totals) -> None:
        """Write what was measured; see `Maintenance.put_usage`. One round trip."""
        await self._own("put_usage", memory, [owner.uid, owner.epoch, *totals])

    async def roll_out(
        self, memory: MemoryAddress, terms: Terms, *, cursor: int, limit: int, grace: int
    ) -> Step:
        """Bring sessions under these terms; see `Maintenance.roll_out`.

        Two round trips for every 100 sessions.
        """
        packed = pack_terms(terms)

        def command(keys: SessionKeys) -> Command:
            return evalsha(script("roll_out"), keys[:5], [packed, grace])

        visit = await self._visit(memory, cursor, limit, command)
        looked = [reply for word in ("DONE", "SAME") for _, reply in visit.answers.get(word, ())]
        return visit.step(
            changed=len(visit.entries("DONE")),
            unsatisfied=sum(reply[1] for reply in looked),
            dropped=await self._index(memory).forget(visit.entries("GONE"), idle=_ABANDONED),
        )

    async def measure(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[Step, Totals]:
        """Add up counters; see `Maintenance.measure`. Two round trips for every 100 sessions."""

        def command(keys: SessionKeys) -> Command:
            return (b"HMGET", keys.meta, *META_FIELDS)

        visit = await self._visit(memory, cursor, limit, command, read=_counted)
        counts = [reply[1] for _, reply in visit.answers.get("OK", ())]
        totals = (
            Totals(len(counts), *(sum(column) for column in zip(*counts, strict=True)))
            if counts
            else Totals(0, 0, 0, 0)
        )
        dropped = await self._index(memory).forget(visit.entries("GONE"), idle=_ABANDONED)
        return visit.step(changed=dropped, dropped=dropped), totals

    async def names(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[int, Sequence[str]]:
        """Name sessions; see `Maintenance.names`. One round trip."""
        leg = await self._index(memory).leg(cursor, limit)
        names = (entry.name.decode("ascii", "replace") for entry in leg.entries)
        return leg.cursor, list(filter(is_session_key, names))

    async def begin_deletion(self, memory: MemoryAddress, owner: Owner) -> int | None:
        """Refuse writers from now on; see `Maintenance.begin_deletion`. One round trip."""
        word, *rest = await self._own("begin_deletion", memory, [owner.uid, owner.epoch])
        _require_leader(word, memory)
        return int(rest[0]) if word == "OK" else None

    async def bury(self, memory: MemoryAddress, revision: int, *, cursor: int, limit: int) -> Step:
        """Replace sessions by tombstones; see `Maintenance.bury`.

        Four round trips for every 100 sessions.
        """

        def command(keys: SessionKeys) -> Command:
            return evalsha(script("bury"), keys, [revision, _TOMBSTONE])

        visit = await self._visit(memory, cursor, limit, command)
        index = self._index(memory)
        dropped = await index.forget(visit.entries("DONE", "SAME"), idle=0)
        dropped += await index.forget(visit.entries("GONE"), idle=_ABANDONED)
        return visit.step(changed=len(visit.entries("DONE")), dropped=dropped)

    async def end_deletion(self, memory: MemoryAddress, owner: Owner) -> bool:
        """Remove what is left of the memory; see `Maintenance.end_deletion`.

        One round trip, and one more for every 1,000 labels.
        """
        arguments = [owner.uid, owner.epoch, _REMEMBERED]
        word = "MORE"
        while word == "MORE":
            word, *_ = await self._own("end_deletion", memory, arguments, labels=True)
        _require_leader(word, memory)
        return word == "OK"

    async def release(self, memory: MemoryAddress, owner: Owner) -> None:
        """Leave the keys to their expiry; see `Maintenance.release`.

        Two round trips for every 100 sessions.
        """
        [clock] = await self._runner.read([(b"TIME",)])
        now = milliseconds(clock)
        longest, idle, cursor = now + _RETAINED, _REMEMBERED, 0

        def command(keys: SessionKeys) -> Command:
            return (b"HGET", keys.meta, b"s")

        while True:
            visit = await self._visit(memory, cursor, 100 * CHUNK, command, read=_lasting)
            for _, (_, expires_at, touched) in visit.answers.get("OK", ()):
                longest, idle = max(longest, expires_at), max(idle, expires_at - touched)
            cursor = visit.cursor
            if cursor == 0:
                break
        # Until the policy ends a writer may renew a session once more.
        arguments = [owner.uid, owner.epoch, longest, longest + idle + _TOMBSTONE]
        await self._own("retain", memory, arguments)

    def store(self) -> RedisStore:
        """Return the sessions as the library has them; see `Maintenance.store`."""
        return RedisStore(
            self._carrier,
            prefix=self._prefix,
            patience=self._patience,
            migration=self._steps,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._carrier.aclose()

    def _index(self, memory: MemoryAddress) -> Index:
        return Index(self._runner, memory, self._keys(memory), self._prefix)

    def _keys(self, memory: MemoryAddress) -> MemoryKeys:
        return memory_keys(memory, self._prefix)

    async def _own(
        self,
        name: str,
        memory: MemoryAddress,
        arguments: Sequence[str | int],
        *,
        labels: bool = False,
    ) -> list[Any]:
        """Run a script over the memory's own keys and return its answer, a word first."""
        keys: list[bytes] = [*self._keys(memory)]
        if labels:
            keys.append(label_key_of(self._keys(memory).sessions, LABELS))
        reply = await self._runner.run(script(name), keys, arguments, repeatable=True)
        word = text(reply[0])
        if word == "LAYOUT":
            raise LayoutTooNew(
                f"the keys have layout {reply[1]}, this version knows {LAYOUT}: upgrade the operator",
                memory=str(memory),
            )
        return [word, *reply[1:]]

    async def _visit(
        self,
        memory: MemoryAddress,
        cursor: int,
        limit: int,
        command: Callable[[SessionKeys], Command],
        read: Callable[[Reply], Sequence[Any]] = list,
    ) -> _Visit:
        """Run a command for each session of a part of the walk.

        Ends after `limit` places of the index were looked at, so that a step is bounded also where
        most of them are empty.
        """
        index = self._index(memory)
        answers: dict[str, list[tuple[Entry, Reply]]] = {}
        looked = 0
        while True:
            count = max(1, min(CHUNK, limit - looked))
            leg = await index.leg(cursor, count)
            for first in range(0, len(leg.entries), CHUNK):
                part = leg.entries[first : first + CHUNK]
                keys = [index.keys_of(entry) for entry in part]
                found = [one for one in keys if one]
                replies = iter(await self._migration.each(found, command))
                for entry, one in zip(part, keys, strict=True):
                    word, reply = _answer(next(replies), read) if one else ("GONE", None)
                    answers.setdefault(word, []).append((entry, reply))
            cursor, looked = leg.cursor, looked + count
            if cursor == 0 or looked >= limit:
                return _Visit(cursor, leg.total, answers)


def _require_leader(word: str, memory: MemoryAddress) -> None:
    if word == "FENCED":
        raise Superseded(
            "a newer leader of the operator deals with this memory", memory=str(memory)
        )


def _answer(reply: Reply, read: Callable[[Reply], Sequence[Any]]) -> tuple[str, Reply]:
    if isinstance(reply, Exception):
        return "BROKEN", reply
    try:
        answer = read(reply)
    except (ValueError, CorruptRecord, UnknownKeys) as error:
        return "BROKEN", error
    return text(answer[0]), answer


def _counted(fields: Reply) -> Sequence[Any]:
    status = read_status(fields, now=0)
    if not status.exists or status.expiry_rule == "buried":
        return ["GONE"]
    return ["OK", (status.messages, status.tokens, status.bytes)]


def _lasting(slow: Reply) -> Sequence[Any]:
    return ["GONE"] if slow is None else ["OK", *read_expiry(slow)]


def _facts(sections: Sequence[Reply]) -> dict[str, str]:
    """Read what a server says of itself, as far as it matters.

    Raises:
        StoreUnavailable: no Redis says such a thing. It is not quoted: who knows what answered.
    """
    lines = b"\n".join(one for one in sections if isinstance(one, bytes)).splitlines()
    facts: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode(errors="replace").partition(":")
        form = _FACTS.get(name)
        if form is not None:
            if not re.fullmatch(form, value):
                raise _no_server()
            facts[name] = value
    if "redis_version" not in facts:
        raise _no_server()
    return facts


def _no_server() -> StoreUnavailable:
    return StoreUnavailable(
        "what answers is neither a Redis nor a Valkey server: check the address"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
