"""One session in Redis: what takes the place of all of it."""

import secrets

from holdfast.store.redis.handle import NOBODY, Handle
from holdfast.store.redis.layout import index_keys_of, pack_caller, pack_part
from holdfast.store.redis.replies import accept, text
from holdfast.store.redis.script import script
from holdfast.store.refusals import import_overtaken
from holdfast.values import Appended, Batch, Caller, Erased, Part, Terms

_REPEATING = 60_000
"""Milliseconds for which repetitions are refused after an erasure: several times a call's patience."""
_LOOKS = 3


class Rewrites(Handle):
    """Replace, erase and import."""

    async def replace(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Store a batch instead of all records; see `SessionStore.replace`. Round trips as of `append`."""
        return await self._store("replace", terms, batch, caller)

    async def erase(self, terms: Terms, *, force: bool = False) -> Erased:
        """Remove every key; see `SessionStore.erase`. Four round trips."""
        # A writer that begins the session anew notes it in the index before: then its entry stays.
        [score] = await self._runner.read([(b"ZSCORE", self._indexes[0], self._name)])
        erased, labels = Erased(existed=False), set(self._labels)
        lists = [key for key in self._keys if key != self._keys.meta]
        for _ in range(_LOOKS):
            reply, durable = await self._runner.run_confirmed(
                script("erase"),
                self._keys,
                [self._pack(terms), _REPEATING, int(force), secrets.token_hex(4)],
                repeatable=True,
            )
            accept(reply, NOBODY)
            existed, epoch, last_seq, messages, size = map(int, text(reply[1]).split("|"))
            if existed and not erased.existed:
                erased = Erased(True, epoch, last_seq, messages, size)
            erased = erased._replace(durable=durable)
            labels |= set(filter(None, text(reply[2]).split(",")))
            again, left = await self._runner.read(
                [(b"HEXISTS", self._keys.meta, b"k"), (b"EXISTS", *lists)]
            )
            if again or not left:  # nothing, or a conversation that began meanwhile
                break
        self._indexed_at, self._labelled = float("-inf"), not self._labels
        await self._unlist(terms, "" if score is None else f"{float(score):.0f}", labels)
        return erased

    async def _unlist(self, terms: Terms, seen: str, labels: set[str]) -> None:
        """Drop the session's entries; they come back where it began again meanwhile."""
        keys = index_keys_of(self._indexes[0], sorted(labels))
        await self._runner.run(script("unlist"), keys, [self._name, seen], repeatable=True)
        [there] = await self._runner.read([(b"HEXISTS", self._keys.meta, b"k")])
        if there:
            note, _, arguments = self._note_in_index(terms)
            await self._runner.run(note, keys, [*arguments[:2], 0], repeatable=True)

    async def import_part(self, terms: Terms, part: Part) -> tuple[int, int]:
        """Store a part of an export; see `SessionStore.import_part`. Two round trips, the first time."""
        if not part.messages:
            index, keys, arguments = self._note_in_index(terms)
            accept(await self._runner.run(index, keys, arguments, repeatable=True), NOBODY)
        head = pack_caller(Caller(), create=True, labels=self._labels)
        reply = await self._runner.run(
            script("import"),
            self._state,
            [self._pack(terms), head, *pack_part(part)],
            repeatable=False,
            stores=True,
        )
        if accept(reply, NOBODY) == "CHANGED":
            raise import_overtaken()
        return reply[1], reply[2]
