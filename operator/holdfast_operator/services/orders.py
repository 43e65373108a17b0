"""What a MemoryErasure names: which sessions, and what is done with each."""

from collections.abc import Sequence
from typing import Final

from holdfast.keys import (
    label_digests,
    session_key,
    template_fields,
    template_key,
    template_pattern,
)
from holdfast.store import MemoryStore
from holdfast.values import Erased, Terms
from holdfast_operator.resources import MemoryErasure
from holdfast_operator.services.targets import Target

SEARCHED: Final = 1000
"""Entries of the index that are looked at in one round trip."""


class Order:
    """What an erasure names, on its server.

    Args:
        erasure: the object.
        template: the memory's key template.
        target: where the memory is.
        store: its sessions.
        terms: of the policy in force.
    """

    def __init__(
        self,
        erasure: MemoryErasure,
        template: str | None,
        target: Target,
        store: MemoryStore,
        terms: Terms,
    ) -> None:
        self.erasure = erasure
        self.memory = target.memory
        self._hands = target.hands
        self._template = template
        self._store = store
        self._terms = terms
        self._fields = {item.name: item.value for item in erasure.spec.fields}
        self._labels = label_digests(self._fields)

    async def search(self, cursor: int) -> tuple[int, Sequence[str]]:
        """Return keys of sessions that are meant, and where the search goes on; 0 at its end.

        The index of all sessions is walked, not that of a label: labels are noted by writes alone, and
        a session may be read for years.
        """
        if self.erasure.spec.session is not None:
            return 0, [session_key(self.erasure.spec.session)]
        assert self._template is not None, "only a memory with a template has fields"
        if set(template_fields(self._template)) == set(self._fields):
            return 0, [template_key(self._template, self._fields)]
        cursor, names = await self._hands.names(self.memory, cursor=cursor, limit=SEARCHED)
        wanted = template_pattern(self._template, self._fields)
        return cursor, [name for name in names if wanted.fullmatch(name)]

    async def look(self, key: str) -> Erased:
        """Return what an erasure would find in a session."""
        found = await self._store.session(self.memory, key).status()
        return Erased(found.exists, found.epoch, found.last_seq, found.messages, found.bytes)

    async def erase(self, key: str) -> Erased:
        """Erase a session, whoever holds its turn."""
        session = self._store.session(self.memory, key, self._labels)
        return await session.erase(self._terms, force=True)
