"""Asking the sessions of a memory one by one, as its index leads to them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from holdfast.store.redis.carrier import Command, Reply
from holdfast.store.redis.index import CHUNK, Entry, Index
from holdfast.store.redis.layout import SessionKeys, memory_keys
from holdfast.store.redis.migrating import Migration
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.sweeping import Visit, answered
from holdfast.values import MemoryAddress

_SAME: Final[Reply] = [b"SAME", 0]


class Visitor:
    """Runs a command for each session of a part of a walk.

    Args:
        runner: runs scripts.
        migration: brings sessions of an older layout along.
        prefix: first part of every key.
    """

    def __init__(self, runner: Runner, migration: Migration, prefix: str) -> None:
        self._runner = runner
        self._migration = migration
        self._prefix = prefix

    async def visit(
        self,
        memory: MemoryAddress,
        cursor: int,
        limit: int,
        command: Callable[[SessionKeys], Command],
        *,
        read: Callable[[Reply], Sequence[Any]] = list,
        done: Callable[[Reply], bool] | None = None,
    ) -> Visit:
        """Ask the sessions of a part of the walk; see `Migration.each_unless` for `done`.

        Ends after `limit` places of the index were looked at, so that a step is bounded also where
        most of them are empty.
        """
        index = Index(self._runner, memory, memory_keys(memory, self._prefix), self._prefix)
        answers: dict[str, list[tuple[Entry, Reply]]] = {}
        looked, restarted = 0, False
        while True:
            count = max(1, min(CHUNK, limit - looked))
            leg = await index.leg(cursor, count)
            if leg.restarted:
                restarted = True
                answers.clear()
            for first in range(0, len(leg.entries), CHUNK):
                part = leg.entries[first : first + CHUNK]
                keys = [index.keys_of(entry) for entry in part]
                found = [one for one in keys if one]
                each = (
                    partial(self._migration.each_unless, done=done, answer=_SAME)
                    if done
                    else self._migration.each
                )
                replies = iter(await each(found, command))
                for entry, one in zip(part, keys, strict=True):
                    word, reply = answered(next(replies), read) if one else ("GONE", None)
                    answers.setdefault(word, []).append((entry, reply))
            cursor, looked = leg.cursor, looked + count
            if cursor == 0 or looked >= limit:
                return Visit(cursor, leg.total, answers, restarted)
