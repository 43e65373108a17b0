"""What a MemoryErasure names: which sessions, and what is done with each."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from holdfast.errors import CorruptRecord, UnknownKeys
from holdfast.keys import (
    label_digests,
    session_key,
    template_fields,
    template_key,
    template_pattern,
)
from holdfast.store import MemoryStore, StalePolicy
from holdfast.values import Erased, Terms
from holdfast_operator.resources import MemoryErasure
from holdfast_operator.services.pacing import Pace
from holdfast_operator.services.targets import Target

Search: TypeAlias = Callable[[int], Awaitable[tuple[int, Sequence[str]]]]
"""Gives keys of sessions that are meant, and where it goes on; 0 at its end."""

SEARCHED: Final = 1000
"""Entries of the index that are looked at in one round trip."""
_COST: Final = 0.02
"""Of looking at one key beside changing a session: some 400 nanoseconds of the server's time."""

MOST_COUNTED: Final = 2**53
"""As of the script that erases: more than any session has, which only somebody else can have written."""


class Order:
    """What an erasure names, on its server.

    Args:
        erasure: the object.
        template: the memory's key template.
        target: where the memory is.
        store: its sessions.
        terms: of the policy in force.
        pace: of walks over all keys of the server.
    """

    def __init__(
        self,
        erasure: MemoryErasure,
        template: str | None,
        target: Target,
        store: MemoryStore,
        terms: Terms,
        *,
        pace: Pace,
    ) -> None:
        self.erasure = erasure
        self.memory = target.memory
        self.hands = target.hands
        self._template = template
        self._store = store
        self._terms = terms
        self._pace = pace
        self._fields = {item.name: item.value for item in erasure.spec.fields}
        self._labels = label_digests(self._fields)

    def searches(self, *, again: bool = False) -> tuple[Search, ...]:
        """Return what finds the sessions that are meant: each to be gone through, one after the other.

        The index of all sessions is walked, not that of a label: labels are noted by writes alone, and
        a session may be read for years. Then all keys: whoever may write may edit the index.

        Args:
            again: all keys were looked at already; what began since is in the index.
        """
        template = self._template
        if template is None or set(template_fields(template)) == set(self._fields):
            return (self._the_only_one,)
        return (self._by_index,) if again else (self._by_index, self._by_keys)

    async def _the_only_one(self, _: int) -> tuple[int, Sequence[str]]:
        if self.erasure.spec.session is not None:
            return 0, [session_key(self.erasure.spec.session)]
        assert self._template is not None, "only a memory with a template has fields"
        return 0, [template_key(self._template, self._fields)]

    async def _by_index(self, cursor: int) -> tuple[int, Sequence[str]]:
        cursor, names = await self.hands.names(self.memory, cursor=cursor, limit=SEARCHED)
        return cursor, self._meant(names)

    async def _by_keys(self, cursor: int) -> tuple[int, Sequence[str]]:
        cursor, names = await self._pace.call(
            lambda limit: self.hands.search(self.memory, cursor=cursor, limit=limit), cost=_COST
        )
        return cursor, self._meant(names)

    def _meant(self, names: Sequence[str]) -> list[str]:
        assert self._template is not None, "nothing else is searched for"
        wanted = template_pattern(self._template, self._fields)
        return [name for name in names if wanted.fullmatch(name)]

    async def look(self, key: str) -> Erased:
        """Return what an erasure would find in a session."""
        try:
            found = await self._store.session(self.memory, key).status()
        except (CorruptRecord, UnknownKeys):
            return Erased(existed=False)  # it is erased, and not counted
        counts = (found.epoch, found.last_seq, found.messages, found.bytes)
        if not all(0 <= one <= MOST_COUNTED for one in counts):
            return Erased(existed=False)
        return Erased(found.exists, *counts)

    async def erase(self, key: str) -> Erased:
        """Erase a session, whoever holds its turn.

        Raises:
            StalePolicy: the policy changed meanwhile.
            HoldfastError: of the server.
        """
        session = self._store.session(self.memory, key, self._labels)
        try:
            return await session.erase(self._terms, force=True)
        except StalePolicy:
            there = await self._store.policy(self.memory)
            if there is None or not there.active or there.revision > self._terms.revision:
                raise
            # Nobody gave out the revision that the session says: a tenant wrote it, or a server lost the
            # policy's. Neither keeps what is to be erased.
            return await session.erase(replace(self._terms, revision=MOST_COUNTED), force=True)
