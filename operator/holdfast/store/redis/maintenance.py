"""The operator's hands in Redis or Valkey; see `holdfast.store.maintenance`."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Self

from holdfast.errors import UnknownKeys
from holdfast.keys import is_session_key
from holdfast.store.access import Access
from holdfast.store.addresses import Address, Login, Mode
from holdfast.store.maintenance import (
    Lasting,
    LayoutTooNew,
    Owner,
    Ownership,
    Replication,
    ServerInfo,
    Step,
    Superseded,
    Survey,
    Swept,
    Totals,
    Walk,
)
from holdfast.store.redis.access import RedisAccess
from holdfast.store.redis.carrier import Carrier, Command, Reply
from holdfast.store.redis.connecting import make_carrier
from holdfast.store.redis.deleting import (
    REMEMBERED,
    burial,
    bury_found,
    longest_lasting,
    retained_until,
    settle_buried,
)
from holdfast.store.redis.discovery import WithSentinels
from holdfast.store.redis.fleet import Fleet
from holdfast.store.redis.hunting import Hunt
from holdfast.store.redis.index import CHUNK, Index, pack_walk, read_walk
from holdfast.store.redis.layout import (
    LABELS,
    LAYOUT,
    MemoryKeys,
    SessionKeys,
    label_key_of,
    mark_key,
    memory_keys,
    pack_terms,
)
from holdfast.store.redis.migrating import Migration
from holdfast.store.redis.replication import ask_replication
from holdfast.store.redis.replies import (
    follower,
    text,
)
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import Script, script
from holdfast.store.redis.store import RedisStore
from holdfast.store.redis.surveying import Surveyor, Task
from holdfast.store.redis.sweeping import ABANDONED, Sweeper, check
from holdfast.store.redis.visiting import (
    CHANGED,
    COUNTED,
    LOOKED,
    Each,
    Visit,
    holdings,
    read_counted,
    read_lasting,
    read_rolled,
    visit_part,
)
from holdfast.values import MemoryAddress, Terms

_SAME: Reply = [b"SAME", 0]
_CONNECTIONS = 16
_LARGEST = 1 << 25
"""Bytes of an answer. Anybody may have us look at a server of theirs, and it must not fill our memory."""
_INSTANCE = re.compile("[0-9a-f]{16}")
_WORDS = {
    "OURS": Ownership.OURS,
    "MENDED": Ownership.MENDED,
    "TAKENOVER": Ownership.TAKEN_OVER,
    "OTHER": Ownership.OTHER,
    "UNMARKED": Ownership.UNMARKED,
    "FENCED": Ownership.FENCED,
}


class RedisMaintenance:
    """Marks, policies and walks in what is one server, or several that act as one.

    Args:
        carrier: brings commands to them.
        prefix: first part of every key, `spec.keyPrefix` of the MemoryBackend.
        patience: seconds a call is repeated while the server cannot serve.
        migration: as of `RedisStore`.
        access: the users of the same servers; None where nobody needs them.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        prefix: str = "mem",
        patience: float = 2.0,
        migration: Script | None = None,
        access: Access | None = None,
    ) -> None:
        self._carrier = carrier
        self._patience = patience
        self._prefix = prefix
        self._steps = migration or script("migrate")
        self._runner = Runner(carrier, patience=patience)
        self._migration = Migration(self._runner, self._steps)
        self._hunt = Hunt(carrier, prefix, patience=patience)
        self._fleet = Fleet(carrier, patience=patience)
        self._access = access

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
        login = Login(username, password)
        address = Address(Mode.STANDALONE, ((host, port),), login=login, database=database)
        return cls.over(address, prefix=prefix, timeout=timeout)

    @classmethod
    def over(
        cls,
        address: Address,
        *,
        prefix: str = "mem",
        timeout: float = 5.0,
        lost: Callable[[], None] | None = None,
    ) -> Self:
        """Make the hands with connections of their own to wherever the servers are. No I/O yet.

        Args:
            address: of one server, of sentinels, or of some nodes of a Cluster.
            prefix: first part of every key.
            timeout: seconds for a connection, for an exchange, and for repeating a call.
            lost: called when a server ends a connection: it may have restarted.
        """
        carrier = make_carrier(
            address, timeout=timeout, connections=_CONNECTIONS, largest=_LARGEST, lost=lost
        )
        access: Access = RedisAccess.of(address, carrier, prefix=prefix, timeout=timeout)
        if address.mode is Mode.SENTINEL and address.sentinel_login.password:
            access = WithSentinels(access, address, timeout=timeout)
        return cls(carrier, prefix=prefix, patience=timeout, access=access)

    @property
    def access(self) -> Access:
        """The users of the same servers; see `Maintenance.access`."""
        assert self._access is not None, "made over a carrier alone"
        return self._access

    async def server(self) -> ServerInfo:
        """Ask the servers what they are; see `Maintenance.server`."""
        return await self._fleet.info()

    async def load_scripts(self) -> None:
        """Make sure every server knows every script; see `Maintenance.load_scripts`."""
        await self._fleet.load_scripts()

    async def replication(self) -> Replication:
        """Ask how far replicas follow; see `Maintenance.replication`."""
        return await ask_replication(self._carrier, self._patience)

    async def instance(self) -> str | None:
        """Return the name of the server's data; see `Maintenance.instance`."""
        [found] = await self._runner.read([(b"HGET", mark_key(self._prefix), b"instance")])
        return None if found is None else _instance(found)

    async def mark(self, backend: str, instance: str) -> str:
        """Name the server's data; see `Maintenance.mark`. One round trip."""
        keys = [mark_key(self._prefix)]
        [found] = await self._runner.run(script("mark"), keys, [backend, instance], repeatable=True)
        return _instance(found)

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
        self,
        memory: MemoryAddress,
        terms: Terms,
        *,
        cursor: int,
        limit: int,
        grace: int,
        again: bool = False,
    ) -> Step:
        """Bring sessions under these terms; see `Maintenance.roll_out`.

        A round trip for every 100 places of the index, and one for every 10 sessions; with `again` one for
        every 50, and another one where there are some that are not.
        """
        rolled = script("roll_out")
        head, rest = (rolled.command, rolled.sha, 5), (pack_terms(terms), b"%d" % grace)

        def command(keys: SessionKeys) -> Command:
            return (*head, *keys[:5], *rest)

        done = partial(self._migration.each_unless, done=follower(terms), answer=_SAME)
        each, part = (done, COUNTED) if again else (None, CHANGED)
        visit = await self._visit(
            memory, cursor, limit, command, each=each, part=part, read=read_rolled
        )
        looked = [reply for word in ("DONE", "SAME") for _, reply in visit.answers.get(word, ())]
        return visit.step(
            changed=len(visit.entries("DONE")),
            unsatisfied=sum(reply[1] for reply in looked),
            dropped=await self._index(memory).forget(visit.entries("GONE"), idle=ABANDONED),
        )

    async def measure(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[Step, Totals]:
        """Add up counters; see `Maintenance.measure`. Five round trips for every 100 sessions."""
        visit = await self._visit(memory, cursor, limit, holdings, read=read_counted)
        counts = [reply[1] for _, reply in visit.answers.get("OK", ())]
        totals = (
            Totals(len(counts), *(sum(column) for column in zip(*counts, strict=True)))
            if counts
            else Totals(0, 0, 0, 0)
        )
        dropped = await self._index(memory).forget(visit.entries("GONE"), idle=ABANDONED)
        return visit.step(changed=dropped, dropped=dropped), totals

    async def names(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[int, Sequence[str]]:
        """Name sessions; see `Maintenance.names`. One round trip."""
        leg = await self._index(memory).leg(cursor, limit)
        names = (entry.name.decode("ascii", "replace") for entry in leg.entries)
        return leg.cursor, list(filter(is_session_key, names))

    async def search(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[int, Sequence[str]]:
        """Name sessions by the keys there are; see `Maintenance.search`.

        One round trip to each primary, and what the carrier needs to know which these are.
        """
        cursor, found = await self._hunt.step([memory], cursor, limit)
        return cursor, [session for _, session in found]

    async def noted_walk(self, memory: MemoryAddress) -> Walk | None:
        """Return the rollout noted last; see `Maintenance.noted_walk`. One round trip."""
        [noted] = await self._runner.read([(b"HGET", self._keys(memory).owner, b"walk")])
        return read_walk(text(noted))

    async def note_walk(self, memory: MemoryAddress, owner: Owner, walk: Walk | None) -> bool:
        """Note how far a rollout is; see `Maintenance.note_walk`. One round trip."""
        noted = "" if walk is None else pack_walk(walk)
        word, *_ = await self._own("note_walk", memory, [owner.uid, owner.epoch, noted])
        return word == "OK"

    async def sweep(
        self, memory: MemoryAddress, *, cursor: int, limit: int, ttl: int, mend: bool
    ) -> tuple[Step, Swept]:
        """Check expiries; see `Maintenance.sweep`.

        Five round trips for every 100 sessions, and two more for those that are not as they should be.
        """
        visit = await self._visit(memory, cursor, limit, check)
        return await Sweeper(self._runner, self._index(memory)).settle(visit, ttl=ttl, mend=mend)

    async def survey(
        self,
        served: Collection[MemoryAddress],
        elsewhere: Collection[MemoryAddress],
        *,
        cluster: str,
        expire: Collection[MemoryAddress],
        cursor: int,
        limit: int,
        mend: bool,
    ) -> Survey:
        """Look at keys whether or not an index knows them; see `Maintenance.survey`.

        Two round trips as a rule, and a few more for what is not as it should be.
        """
        task = Task(frozenset(served), frozenset(elsewhere), cluster, frozenset(expire), mend)
        surveyor = Surveyor(self._carrier, self._prefix, task, patience=self._patience)
        return await surveyor.step(cursor, limit)

    async def begin_deletion(self, memory: MemoryAddress, owner: Owner) -> int | None:
        """Refuse writers from now on; see `Maintenance.begin_deletion`. One round trip."""
        word, *rest = await self._own("begin_deletion", memory, [owner.uid, owner.epoch])
        _require_leader(word, memory)
        return int(rest[0]) if word == "OK" else None

    async def bury(self, memory: MemoryAddress, revision: int, *, cursor: int, limit: int) -> Step:
        """Replace sessions by tombstones; see `Maintenance.bury`.

        Thirteen round trips for every 100 sessions.
        """
        visit = await self._visit(memory, cursor, limit, burial(revision), part=CHANGED)
        return await settle_buried(visit, self._index(memory))

    async def bury_hidden(
        self, revisions: Mapping[MemoryAddress, int], *, cursor: int, limit: int
    ) -> Step:
        """Bury whatever the keys say that there is; see `Maintenance.bury_hidden`.

        A round trip more than `search`.
        """
        cursor, found = await self._hunt.step(revisions, cursor, limit)
        buried = await bury_found(self._runner, found, revisions, prefix=self._prefix)
        return Step(cursor, len(found), buried, 0, 0)

    async def end_deletion(self, memory: MemoryAddress, owner: Owner) -> bool:
        """Remove what is left of the memory; see `Maintenance.end_deletion`.

        One round trip, and one more for every 1,000 labels.
        """
        arguments = [owner.uid, owner.epoch, REMEMBERED]
        word = "MORE"
        while word == "MORE":
            word, *_ = await self._own("end_deletion", memory, arguments, labels=True)
        _require_leader(word, memory)
        return word == "OK"

    async def lasting(
        self, memory: MemoryAddress, *, cursor: int, limit: int
    ) -> tuple[Step, Lasting]:
        """Return how long sessions live; see `Maintenance.lasting`.

        Five round trips for every 100 sessions.
        """
        visit = await self._visit(memory, cursor, limit, holdings, read=read_lasting)
        return visit.step(changed=0), longest_lasting(visit)

    async def release(self, memory: MemoryAddress, owner: Owner, lasting: Lasting) -> None:
        """Leave the keys to their expiry; see `Maintenance.release`. Two round trips."""
        policy, marker = await retained_until(self._runner, lasting)
        arguments = [owner.uid, owner.epoch, policy, marker]
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
        *,
        each: Each | None = None,
        part: int = LOOKED,
        read: Callable[[Reply], Sequence[Any]] = list,
    ) -> Visit:
        each, index = each or self._migration.each, self._index(memory)
        return await visit_part(index, cursor, limit, command, each=each, part=part, read=read)


def _instance(found: bytes | str) -> str:
    if not _INSTANCE.fullmatch(name := text(found)):
        raise UnknownKeys("the mark of the server's data is none of ours")
    return name


def _require_leader(word: str, memory: MemoryAddress) -> None:
    if word == "FENCED":
        raise Superseded(
            "a newer leader of the operator deals with this memory", memory=str(memory)
        )
