"""Erasing: one session, or all that carry given labels, with a receipt."""

import asyncio
import hashlib
import time
from abc import ABC
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from holdfast.errors import ConfigurationError, HoldfastError, SessionBusy
from holdfast.fallback import Fallback
from holdfast.keys import label_digests
from holdfast.log import MessageLog
from holdfast.policies import PolicyFeed
from holdfast.store import MemoryStore, StalePolicy
from holdfast.telemetry import Call
from holdfast.values import Erased, MemoryAddress, Receipt, Terms

T = TypeVar("T")
_AT_ONCE = 16
_PASSES = 2


class Erasure(MessageLog, ABC):
    """Erase one session."""

    async def erase(self, *, force: bool = False) -> Receipt:
        """Remove all that is kept of the session: messages, ids, history, waiters, index entries.

        Turns and summaries that are under way write nothing afterwards: they get `LeaseLost`, or are
        dropped. Whatever others append later is a new conversation. Four round trips.

        For a minute one key remains, which says no more than that the session was erased: it keeps
        appends that the library repeats after a lost answer from putting a message back. They raise
        `AmbiguousWrite`. Still open: an append that was sent before and comes in only now, or that its
        caller repeats by itself, begins a new conversation with that message. Replicas follow within
        their lag: with `durability` they are waited for, and the receipt says whether they were in time.
        Backups, append-only files and snapshots of the server are beyond this call.

        Args:
            force: even while somebody holds a turn that the policy enforces.

        Raises:
            SessionBusy: somebody holds such a turn; nothing was removed.
            PolicyNotFound, StoreUnavailable, AccessDenied: call again to be sure.
        """
        place = self._place
        with place.naming(Call.ERASE), place.forgetting():
            erased = await self._agreed(lambda terms: place.store.erase(terms, force=force))
            place.epoch = place.seen = 0
        return receipt([(place.session_name, erased)])


class LabelledErasure:
    """Erases the sessions of a memory that carry given labels.

    Args:
        store: keeps the sessions.
        memory: whose.
        policies: the policy in force.
        fallback: keeps copies of what was read.
    """

    def __init__(
        self, store: MemoryStore, memory: MemoryAddress, policies: PolicyFeed, fallback: Fallback
    ) -> None:
        self._store = store
        self._memory = memory
        self._policies = policies
        self._fallback = fallback

    async def run(self, labels: Mapping[str, str], *, dry_run: bool, force: bool) -> Receipt:
        """Erase; see `Memory.erase`."""
        watch = self._policies.telemetry.begin(Call.ERASE)
        failure: BaseException | None = None
        try:
            return await self._run(labels, dry_run=dry_run, force=force)
        except BaseException as error:
            failure = error
            if isinstance(error, HoldfastError):
                error.memory = error.memory or str(self._memory)
            raise
        finally:
            if watch is not None:
                watch.end(failure)

    async def _run(self, labels: Mapping[str, str], *, dry_run: bool, force: bool) -> Receipt:
        digests = label_digests(labels)
        if not digests:
            raise ConfigurationError("name at least one label of the sessions to erase")
        await self._policies.current()

        async def work(key: str) -> Erased:
            return await (self._look(key) if dry_run else self._erase(key, digests, force=force))

        erased: list[tuple[str, Erased]] = []
        for _ in range(1 if dry_run else _PASSES):
            keys = await self._store.labelled(self._memory, digests)
            erased += await self._each(keys, work)
        return receipt(erased, dry_run=dry_run)

    async def _each(
        self, keys: Sequence[str], work: Callable[[str], Awaitable[Erased]]
    ) -> list[tuple[str, Erased]]:
        """Do something with each session; a turn that is in the way of one is reported after all."""
        done: list[tuple[str, Erased]] = []
        busy: SessionBusy | None = None
        for first in range(0, len(keys), _AT_ONCE):
            part = keys[first : first + _AT_ONCE]
            answers = await asyncio.gather(*map(work, part), return_exceptions=True)
            for key, answer in zip(part, answers, strict=True):
                if isinstance(answer, SessionBusy):
                    busy = busy or answer
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    done.append((f"{self._memory}/{key}", answer))
        if busy is not None:
            raise busy
        return done

    async def _look(self, key: str) -> Erased:
        found = await self._store.session(self._memory, key).status()
        return Erased(found.exists, found.epoch, found.last_seq, found.messages, found.bytes)

    async def _erase(self, key: str, labels: Sequence[str], *, force: bool) -> Erased:
        session = self._store.session(self._memory, key, labels)
        self._fallback.forget(key)
        erased = await self._agreed(lambda terms: session.erase(terms, force=force))
        self._fallback.forget(key)
        return erased

    async def _agreed(self, call: Callable[[Terms], Awaitable[T]]) -> T:
        while True:
            agreed = await self._policies.current()
            try:
                return await call(agreed.terms)
            except StalePolicy as stale:
                await self._policies.catch_up(stale.revision)


def receipt(erased: Iterable[tuple[str, Erased]], *, dry_run: bool = False) -> Receipt:
    """Make the receipt of an erasure, from sessions by their names among all; some may not exist."""
    erased = list(erased)
    facts = sorted(
        (name, one.epoch, one.last_seq, one.messages, one.bytes)
        for name, one in erased
        if one.existed
    )
    return Receipt(
        sessions=len({name for name, *_ in facts}),
        messages=sum(messages for *_, messages, _ in facts),
        bytes=sum(size for *_, size in facts),
        digest=hashlib.sha256(msgspec.json.encode(facts)).hexdigest(),
        completed_at=time.time_ns() // 1_000_000,
        dry_run=dry_run,
        durable=all(one.durable for _, one in erased),
    )
