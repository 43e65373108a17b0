"""One memory, and one session of it, as paths of the sidecar."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from holdfast.errors import HoldfastError, MemoryNotFound
from holdfast.keys import memory_address, session_key
from holdfast.place import Naming
from holdfast.remote.answers import Answer
from holdfast.remote.connections import ANSWER
from holdfast.remote.transport import Request, Transport
from holdfast.telemetry import Call, Observer, Telemetry
from holdfast.values import MemoryAddress
from holdfast.wire import MESSAGE_FORMAT, NAMED_BY, MemoriesAnswer, fields_text, segment

NAMESPACE: Final = "sidecar"
"""Stands for the namespace of a memory, which only the sidecar knows."""
MEMORIES: Final = "/v1/memories"

_UNNAMED = MemoryAddress(NAMESPACE, "-")
_MEMORIES = Answer(MemoriesAnswer)


def query_of(parameters: Sequence[tuple[str, object]], mark: str = "?") -> str:
    """Return a query behind its mark, or what follows one; what is None or False is left out."""
    parts = [
        f"{name}={quote(_text(value), safe='')}"
        for name, value in parameters
        if value is not None and value is not False
    ]
    return mark + "&".join(parts) if parts else ""


def _text(value: object) -> str:
    return "true" if value is True else str(value)


class MemoryPath:
    """Where a memory is, by the name that the sidecar calls it.

    Args:
        transport: to the sidecar.
        name: of the memory; None for the only one there is, which is found out with the first call.
        format: of its messages; None lets the sidecar find it.
        observers: are told of calls.

    Raises:
        ConfigurationError: a memory cannot be called so.
    """

    def __init__(
        self,
        transport: Transport,
        name: str | None,
        *,
        format: str | None,
        observers: Sequence[Observer],
    ) -> None:
        self.transport = transport
        self.format = format
        self.telemetry = Telemetry(observers, _UNNAMED)
        self._path = ""
        self._finding = asyncio.Lock()
        if name is not None:
            self._found(name)

    @property
    def address(self) -> MemoryAddress:
        """Its name, and in place of its namespace `sidecar`; `-` as long as the name is not known."""
        address = self.telemetry.memory
        assert address is not None
        return address

    def naming(self, call: Call) -> Naming:
        """Say in errors which memory they are about, and tell observers of the call."""
        return Naming(self, call)

    def name(self, error: HoldfastError) -> None:
        """Say in an error which memory it is about, unless it does."""
        error.memory = error.memory or str(self.address)

    async def find(self) -> str:
        """Return the path. One round trip where the name was left out, once.

        Raises:
            MemoryNotFound: the name was left out, and there is not exactly one memory.
        """
        if not self._path:
            async with self._finding:
                if not self._path:
                    self._found(await self._only())
        return self._path

    async def _only(self) -> str:
        answer = _MEMORIES.read(await self.transport.call(Request("GET", MEMORIES)))
        names = [one.name for one in answer.memories]
        if len(names) == 1:
            return names[0]
        there = ", ".join(map(repr, names)) or "none"
        raise MemoryNotFound(f"name the memory: the sidecar serves {there}")

    def _found(self, name: str) -> None:
        self.telemetry.memory = memory_address(NAMESPACE, name)
        self._path = f"{MEMORIES}/{segment(name)}"


class RemotePlace:
    """Where a handle over HTTP reads and writes: one session.

    Args:
        memory: whose.
        session: its id, or the fields of the key template.
        labels: noted with what is written, as parameters of a query.

    Raises:
        SessionKeyError: it can be no session.
    """

    def __init__(
        self,
        memory: MemoryPath,
        session: str | Mapping[str, str],
        labels: Sequence[tuple[str, str]],
    ) -> None:
        self.memory = memory
        by_id = isinstance(session, str)
        if by_id:
            self._session = session_key(session)
            named = segment(session)
        else:
            for value in session.values():
                session_key(value)
            self._session = fields_text(dict(session))
            named = segment(self._session)
        # A client that follows the standard takes these two out of a path.
        self._segment = named.replace(".", "%2E") if named in (".", "..") else named
        own = [(NAMED_BY, "id" if by_id else "fields"), (MESSAGE_FORMAT, memory.format), *labels]
        self._query = query_of(own)
        self._path = ""

    @property
    def telemetry(self) -> Telemetry:
        """Tells observers what happens in the memory."""
        return self.memory.telemetry

    def naming(self, call: Call | None = None) -> Naming:
        """Say in errors which memory and session they are about.

        Args:
            call: what observers are told of; None for a part of a call.
        """
        return Naming(self, call)

    def name(self, error: HoldfastError) -> None:
        """Say in an error which memory and session it is about, unless it does."""
        error.memory = error.memory or str(self.memory.address)
        error.session = error.session or self._session

    async def request(
        self,
        method: str,
        rest: str = "",
        query: Sequence[tuple[str, object]] = (),
        *,
        silence: float | None = ANSWER,
        **parts: Any,
    ) -> Request:
        """Return a call of the session.

        Args:
            method: of HTTP.
            rest: of the path, behind the session.
            query: beside what belongs to the session.
            silence: as of a `Request`.
            parts: others of a `Request`.
        """
        if not self._path:
            self._path = f"{await self.memory.find()}/sessions/{self._segment}"
        more = query_of(query, "&") if query else ""
        path = f"{self._path}{rest}{self._query}{more}"
        return Request(method, path, silence=silence, **parts)

    async def call(self, request: Request) -> bytes:
        """Make a call; see `Transport.call`."""
        return await self.memory.transport.call(request)

    def answering(
        self, request: Request, *, alone: bool = False
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Make a call and read its answer bit by bit; see `Transport.answering`."""
        return self.memory.transport.answering(request, alone=alone)
