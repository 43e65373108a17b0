"""Walking over all keys under a prefix: what no index leads to is found only so.

SCAN, bounded by its COUNT, on one primary after the other. It promises about keys what ZSCAN does about
entries: whatever is there from the walk's beginning to its end comes at least once. A server that does
not answer is left out, and slots that move meanwhile may be missed: the next walk finds what is there.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from holdfast.errors import StoreUnavailable
from holdfast.store.maintenance import Orphan, Survey
from holdfast.store.redis.carrier import Carrier, Command, Reply
from holdfast.store.redis.index import LONGEST, Entry, Index
from holdfast.store.redis.layout import SessionKeys, memory_keys, session_keys
from holdfast.store.redis.replies import raise_for, text
from holdfast.store.redis.runner import Runner, evalsha
from holdfast.store.redis.script import script
from holdfast.store.redis.sweeping import ABANDONED, check, run_expire
from holdfast.values import MemoryAddress

_STATE = frozenset({b"meta", b"log", b"pin", b"ids", b"hist"})
_NAME = rb"[a-z0-9][-.a-z0-9]{0,62}"
_SOON = 3_600_000
"""Milliseconds: an orphan that ends by then is not worth a word."""
_MOST_NODES = 1 << 12
_DAY, _WEEK = 86_400_000, 7 * 86_400_000


class Task(NamedTuple):
    """What a survey is to do; see `Maintenance.survey`."""

    served: frozenset[MemoryAddress]
    elsewhere: frozenset[MemoryAddress]
    cluster: str
    expire: frozenset[MemoryAddress]
    mend: bool


class _Batch(NamedTuple):
    """Keys of one step, sorted by whose they are."""

    sessions: dict[
        tuple[MemoryAddress, bytes], list[bytes]
    ]  # their keys, of memories that are served
    passing: list[bytes]  # their waiters and wake-ups, which live for a moment
    others: dict[MemoryAddress, list[tuple[bytes, bytes, bytes]]]  # key, session, what it is


class Surveyor:
    """Looks at keys under one prefix.

    Args:
        carrier: knows the servers.
        patience: seconds a call is repeated while one cannot serve.
        prefix: first part of every key.
        task: what to do with what is found.
    """

    def __init__(self, carrier: Carrier, prefix: str, task: Task, *, patience: float) -> None:
        self._carrier = carrier
        self._patience = patience
        self._runner = Runner(carrier, patience=patience)
        self._prefix = prefix
        self._task = task
        own = re.escape(prefix.encode())
        self._form = re.compile(
            rb"%b:\{(%b)/(%b)(?:/([-A-Za-z0-9_.:%%]+))?\}:(.+)" % (own, _NAME, _NAME), re.DOTALL
        )

    async def step(self, cursor: int, limit: int) -> Survey:
        """Look at about `limit` keys; see `Maintenance.survey`."""
        at, cursor = cursor % _MOST_NODES, cursor // _MOST_NODES
        nodes = await self._carrier.nodes()
        if at >= len(nodes):  # there were more when the walk began
            return Survey(0, 0, 0, 0, {})
        cursor, keys = await self._scan(nodes[at], cursor, limit, alone=len(nodes) == 1)
        at += cursor == 0
        following = cursor * _MOST_NODES + at if at < len(nodes) else 0
        batch = self._sorted(keys)
        relisted, repaired = await self._relist(batch)
        if self._task.mend:
            repaired += await self._bound(batch.passing, ABANDONED)
        orphans, ended = await self._orphans(batch)
        return Survey(following, len(keys), relisted, repaired + ended, orphans)

    async def _scan(
        self, node: Carrier, cursor: int, limit: int, *, alone: bool
    ) -> tuple[int, list[bytes]]:
        """Return the next keys of a server; none of one that is no primary, or does not answer."""
        runner = Runner(node, patience=self._patience)
        command = evalsha(script("scan"), [], [cursor, f"{self._prefix}:{{*", limit, LONGEST])
        commands: list[Command] = [command] if alone else [command, (b"ROLE",)]
        try:
            found, *roles = await runner.ask(commands)
        except StoreUnavailable:
            if alone:
                raise
            return 0, []
        if isinstance(found, Exception):
            raise_for(found)
        for role in roles:
            # Where ROLE is denied, a replica is looked at as well: what it has is found twice.
            if not isinstance(role, Exception) and role[0] != b"master":
                return 0, []
        return int(found[0]), found[1]

    def _sorted(self, keys: Sequence[bytes]) -> _Batch:
        batch = _Batch(defaultdict(list), [], defaultdict(list))
        for key in keys:
            parts = self._form.fullmatch(key)
            if parts is None:
                continue  # no memory can have it
            memory = MemoryAddress(text(parts[1]), text(parts[2]))
            session, what = parts[3] or b"", parts[4]
            if memory in self._task.served:
                if session and what in _STATE:
                    batch.sessions[memory, session].append(key)
                elif session:
                    batch.passing.append(key)
            elif memory not in self._task.elsewhere:
                batch.others[memory].append((key, session, what))
        return batch

    async def _relist(self, batch: _Batch) -> tuple[int, int]:
        """Put sessions back that their index does not know; return how many, and keys set right."""
        named = list(batch.sessions)
        scores = await self._runner.each(
            [(b"ZSCORE", memory_keys(memory, self._prefix).sessions, one) for memory, one in named]
        )
        lost = [pair for pair, score in zip(named, scores, strict=True) if score is None]
        looks = await self._runner.each([check(self._keys(*pair)) for pair in lost])
        alive = [pair for pair, look in zip(lost, looks, strict=True) if _is_session(look)]
        others = [pair for pair in lost if pair not in set(alive)]
        if not self._task.mend:  # a session is found with its meta, and a key on its own
            found = sum(self._keys(*pair).meta in batch.sessions[pair] for pair in alive)
            keys = [key for pair in others for key in batch.sessions[pair]]
            lives = await self._runner.each([(b"PTTL", key) for key in keys])
            return found, sum(life == -1 for life in lives)
        repaired = await run_expire(self._runner, [self._keys(*pair) for pair in others], _DAY)
        relisted = 0
        for memory in {memory for memory, _ in alive}:
            entries = [Entry(one, b"0") for where, one in alive if where == memory]
            index = Index(self._runner, memory, memory_keys(memory, self._prefix), self._prefix)
            relisted += await index.restore(entries)
        return relisted, repaired

    async def _orphans(self, batch: _Batch) -> tuple[dict[MemoryAddress, Orphan], int]:
        """Count the keys of memories that nothing stands for; return also how many got an expiry."""
        memories = list(batch.others)
        owners = await self._runner.each(
            [
                (b"HMGET", memory_keys(memory, self._prefix).owner, b"cluster", b"uid")
                for memory in memories
            ]
        )
        found: dict[MemoryAddress, Orphan] = {}
        repaired = 0
        for memory, owner in zip(memories, owners, strict=True):
            cluster, uid = (None, None) if isinstance(owner, Exception) else owner
            ours = text(cluster) == self._task.cluster
            if cluster is not None and not ours:
                continue  # another cluster looks after it
            # The marker that a deleted memory leaves for a day is no orphan.
            keys = [one for one in batch.others[memory] if uid is not None or one[2] != b"owner"]
            lives = await self._runner.each([(b"PTTL", key) for key, *_ in keys])
            pairs = list(zip(keys, lives, strict=True))
            immortal = [key for (key, session, _), life in pairs if session and life == -1]
            lasting = sum(_stays(session, life) for (_, session, _), life in pairs)
            if lasting:
                found[memory] = Orphan(lasting, len(immortal), ours)
            if ours and self._task.mend and memory in self._task.expire:
                repaired += await self._bound(immortal, _WEEK)
        return found, repaired

    async def _bound(self, keys: Sequence[bytes], life: int) -> int:
        """Give keys an expiry that have none; return how many had none."""
        replies = await self._runner.each([(b"PEXPIRE", key, life, b"NX") for key in keys])
        return sum(reply == 1 for reply in replies)

    def _keys(self, memory: MemoryAddress, session: bytes) -> SessionKeys:
        return session_keys(memory, session.decode("ascii"), self._prefix)


def _stays(session: bytes, life: int) -> bool:
    """Whether a key of an orphan is worth a word.

    A memory that was let go leaves keys of its own until its last session has ended. With an expiry they
    end by themselves, and the sessions speak for themselves.
    """
    return life == -1 or (life > _SOON and session != b"")


def _is_session(look: Reply) -> bool:
    """Whether a check found a session, be its expiry right or not; a tombstone is none."""
    if isinstance(look, Exception):
        return False
    return look[0] == b"OK" or (look[0] == b"WRONG" and len(look) == 3)
