"""What the operations on one session in Redis share."""

import logging
import struct
import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from holdfast.errors import HoldfastError
from holdfast.store.redis.carrier import Argument
from holdfast.store.redis.layout import (
    SessionKeys,
    index_keys_of,
    pack_caller,
    pack_id,
    pack_record,
    pack_terms,
)
from holdfast.store.redis.replies import accept, text
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import Script, script
from holdfast.values import Appended, Batch, Caller, Terms

_log = logging.getLogger("holdfast")

NOBODY = Caller()
_DAY = 86_400_000  # ms
_APPENDED = struct.Struct("<7d")


class Handle:
    """A session of a memory.

    Args:
        runner: runs scripts.
        keys: the session's keys.
        indexes: the key of the memory's index of sessions, and those that note its labels; see `index.lua`.
        name: the session's name there.
        labels: digests of the labels.
    """

    def __init__(
        self,
        runner: Runner,
        keys: SessionKeys,
        indexes: Sequence[bytes],
        name: str,
        labels: Sequence[str] = (),
    ) -> None:
        self._runner = runner
        self._keys = keys
        self._state = keys[:5]
        self._indexes = indexes
        self._name = name
        self._labels = labels
        self._labelled = not labels
        self._indexed_at = float("-inf")
        self._terms: Terms | None = None
        self._packed = b""
        # Of the last refusal: our clock before asking, the server's in ms, and the grant time.
        self._clocks: tuple[float, int, float] | None = None
        self._asked_twice: set[str] = set()  # tokens: the first asking may come in last

    async def _store(self, name: str, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Run a script that stores a batch, and begin the session where there is none."""
        records = [part for record in batch.records for part in pack_record(record)]
        packed, own_id = self._pack(terms), pack_id(batch.key)
        due = self._index_due(terms)
        create = due and not terms.max_sessions
        doubtful: list[bool] = []  # whether some call may have been carried out unheard
        while True:

            def arguments(*, create: bool = create, labelling: bool = due) -> Sequence[Argument]:
                labels = self._labels if labelling or not self._labelled else ()
                head = pack_caller(caller, create=create, again=bool(doubtful), labels=labels)
                return [packed, head, own_id, batch.digest, *records]

            reply, durable = await self._runner.run_confirmed(
                script(name),
                self._state,
                arguments(),
                repeatable=bool(batch.key and terms.max_ids),
                stores=True,
                before=self._note_in_index(terms) if due else None,
                repeating=lambda: doubtful.append(True),
                again=arguments,
            )
            word = accept(reply, caller)
            if due:
                self._indexed_at = time.monotonic()
            if word != "NOSESSION":
                break
            due, create = await self._admit(terms), True
        self._labelled = True
        if word == "DUPLICATE":
            _, seq, length, tokens, epoch = reply
            done = Appended(seq, True, tokens, length, 0, epoch, over=False, torn=False)
        else:
            seq, length, tokens, evicted, epoch, over, torn = map(int, _APPENDED.unpack(reply[1]))
            done = Appended(seq, False, tokens, length, evicted, epoch, bool(over), bool(torn))
        return done if durable else replace(done, durable=False, strict=self._runner.strict)

    def _pack(self, terms: Terms) -> bytes:
        if terms is not self._terms:
            self._terms, self._packed = terms, pack_terms(terms)
        return self._packed

    def _note_in_index(self, terms: Terms) -> tuple[Script, Sequence[bytes], list[Argument]]:
        """What runs in front of a call that may begin the session."""
        life = 2 * max(terms.ttl, terms.after_clear, terms.after_flush) + _DAY
        return script("index"), self._indexes, [self._name, life, terms.max_sessions]

    async def _admit(self, terms: Terms) -> bool:
        """Let a session begin; return whether the index still has to hear of it.

        Raises:
            QuotaExceeded: the memory has as many sessions as it may.
        """
        self._labelled = not self._labels
        if not terms.max_sessions:
            return True
        index, keys, arguments = self._note_in_index(terms)
        accept(await self._runner.run(index, keys, arguments, repeatable=True), NOBODY)
        self._indexed_at = time.monotonic()
        return False

    async def _note_reader(self, terms: Terms, touched: Sequence[Any]) -> None:
        """Keep a session that readers renew in the indexes, where `touch` says that it is time."""
        if text(touched[0]) != "DUE":
            return
        labels = [text(label) for label in touched[1:]]
        index, _, (name, life, _) = self._note_in_index(terms)
        keys = index_keys_of(self._indexes[0], labels)
        try:
            await self._runner.run(index, keys, [name, life, 0], repeatable=True)
        except HoldfastError as error:
            # What was asked for is done. There is time for three more before the indexes end.
            _log.debug("a session that is read was not noted: %s", error.code)

    def _index_due(self, terms: Terms) -> bool:
        """Whether the index should hear of this session: before its first write, then now and then."""
        return time.monotonic() - self._indexed_at > max(60.0, terms.ttl / 20_000)
