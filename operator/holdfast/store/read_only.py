"""A store of which nothing may be changed: refused here, before anything is sent."""
# ruff: noqa: ARG002 - the protocol names what is refused here

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NoReturn

from holdfast.errors import AccessDenied
from holdfast.store.protocol import MemoryStore, SessionStore
from holdfast.values import (
    Appended,
    Archive,
    Batch,
    Caller,
    Departed,
    MemoryAddress,
    Newest,
    Part,
    PolicyDocument,
    Refresh,
    Section,
    Snapshot,
    Splice,
    Status,
    Terms,
    Window,
)


class ReadOnlyStore:
    """Passes on what reads. Reading renews no expiry: who may not write keeps nothing alive.

    Args:
        store: keeps the sessions.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def session(
        self,
        memory: MemoryAddress,
        key: str,
        labels: Collection[str] = (),
    ) -> SessionStore:
        """Return a handle on a session; see `MemoryStore.session`."""
        return _ReadOnlySession(self._store.session(memory, key))

    async def labelled(self, memory: MemoryAddress, labels: Collection[str]) -> Sequence[str]:
        """Return sessions by labels; see `MemoryStore.labelled`."""
        return await self._store.labelled(memory, labels)

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        """Return the operator's document; see `MemoryStore.policy`."""
        return await self._store.policy(memory)

    async def aclose(self) -> None:
        """Close nothing: the store is somebody else's."""


class _ReadOnlySession:
    """A session of which nothing may be changed; see `SessionStore`."""

    def __init__(self, session: SessionStore) -> None:
        self._session = session

    async def known(self, batch: Batch) -> Appended | None:
        return await self._session.known(batch)

    async def newest(self, terms: Terms, count: int) -> Newest:
        return await self._session.newest(_without_renewal(terms), count)

    async def everything(self, terms: Terms) -> Window:
        return await self._session.everything(_without_renewal(terms))

    async def archive(self, terms: Terms) -> Archive:
        return await self._session.archive(_without_renewal(terms))

    async def tail(self, terms: Terms, *, tokens: int) -> Window:
        return await self._session.tail(_without_renewal(terms), tokens=tokens)

    async def page(self, terms: Terms, *, after: int, limit: int) -> Section:
        return await self._session.page(_without_renewal(terms), after=after, limit=limit)

    async def snapshot(self) -> Snapshot:
        return await self._session.snapshot()

    async def departed(self) -> tuple[Departed, ...]:
        return await self._session.departed()

    async def status(self) -> Status:
        return await self._session.status()

    async def touch(self, terms: Terms, groups: Collection[int]) -> None:
        """Note nothing."""

    async def claim_flush(self, token: str, milliseconds: int) -> bool:
        _refuse()

    async def append(self, terms: Terms, batch: Batch, caller: Caller) -> NoReturn:
        _refuse()

    async def replace(self, terms: Terms, batch: Batch, caller: Caller) -> NoReturn:
        _refuse()

    async def erase(self, terms: Terms, *, force: bool = False) -> NoReturn:
        _refuse()

    async def import_part(self, terms: Terms, part: Part) -> NoReturn:
        _refuse()

    async def pop(
        self,
        terms: Terms,
        caller: Caller,
        *,
        expected: int,
        opens: Collection[str],
        closes: Collection[str],
    ) -> NoReturn:
        _refuse()

    async def clear(self, terms: Terms, caller: Caller, *, force: bool) -> NoReturn:
        _refuse()

    async def pin(self, terms: Terms, caller: Caller, *, seq: int, pinned: bool) -> NoReturn:
        _refuse()

    async def trim(self, terms: Terms, *, tokens: int, messages: int) -> NoReturn:
        _refuse()

    async def splice(self, terms: Terms, splice: Splice) -> NoReturn:
        _refuse()

    async def acquire(
        self, terms: Terms, token: str, holder: str, *, interrupt: bool = False
    ) -> NoReturn:
        _refuse()

    async def sleep(self, token: str, seconds: float) -> NoReturn:
        _refuse()

    async def renew(self, terms: Terms, token: str, epoch: int, holder: str = "") -> NoReturn:
        _refuse()

    async def release(self, terms: Terms, token: str, *, doubt: bool = False) -> None:
        """Nobody here holds a turn."""


def _without_renewal(terms: Terms) -> Terms:
    return replace(terms, refresh=terms.refresh & ~Refresh.READ)


def _refuse() -> NoReturn:
    raise AccessDenied(
        "the binding lets this memory be read only: to write, its MemoryBinding has to say "
        "`access: ReadWrite`"
    )
