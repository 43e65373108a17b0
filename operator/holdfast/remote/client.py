"""A client of a sidecar, and its memories."""

from collections.abc import Mapping, Sequence
from typing import Final

from holdfast.background import Background
from holdfast.breaker import Breaker
from holdfast.client import Client, Memory
from holdfast.errors import ConfigurationError, SessionKeyError
from holdfast.keys import label_digests, session_key
from holdfast.remote.addresses import read_sidecar_address
from holdfast.remote.answers import Answer
from holdfast.remote.connections import MODEL
from holdfast.remote.place import MemoryPath, RemotePlace, query_of
from holdfast.remote.session import RemoteSession
from holdfast.remote.transport import PATIENCE, Request, Transport
from holdfast.telemetry import Call, Observer
from holdfast.values import MemoryAddress, Receipt

_CLOSING: Final = 2.0  # seconds that closing waits for turns that are being given back

_RECEIPT = Answer(Receipt)


class RemoteClient(Client):
    """A connection to a sidecar; see `Client`. Made by `connect`.

    Args:
        url: `http+unix:///path/of/socket` or `http://127.0.0.1:7070`.
        observers: are told of calls, of repetitions, and of the state of the breaker; what the calls did is
            counted by the sidecar.
        patience: seconds in which a call is repeated where that is safe.

    Raises:
        ConfigurationError: the URL cannot be used.
    """

    def __init__(
        self, url: str, *, observers: Sequence[Observer] = (), patience: float = PATIENCE
    ) -> None:
        address = read_sidecar_address(url)
        self._transport = Transport(address, observers=observers, patience=patience)
        self._told = tuple(observers)
        self._behind = Background()
        self._paths: dict[tuple[str | None, str | None], RemoteMemory] = {}

    @property
    def breakers(self) -> Sequence[Breaker]:
        """What is known of the sidecar: one breaker, none once the client is closed."""
        return self._transport.breakers

    def memory(self, name: str | None = None, *, format: str | None = None) -> "RemoteMemory":
        """Return a memory by the name that the sidecar calls it. No I/O.

        Args:
            name: may be left out where the sidecar serves exactly one.
            format: the format of its messages by name; None finds it by each message's shape.

        Raises:
            ConfigurationError: a memory cannot be called so. One that the sidecar does not serve is found
                out with the first call, which raises `MemoryNotFound`.
        """
        memory = self._paths.get((name, format))
        if memory is None:
            path = MemoryPath(self._transport, name, format=format, observers=self._told)
            memory = self._paths[name, format] = RemoteMemory(path, self._behind)
        return memory

    async def drain(self, seconds: float) -> None:
        """Do nothing: flushes are the sidecar's, and go on."""

    async def aclose(self) -> None:
        """End turns that are still open, and close the connections."""
        await self._behind.aclose(_CLOSING)
        await self._transport.aclose()


class RemoteMemory(Memory):
    """One kind of memory under one policy, kept by a sidecar; see `Memory`.

    Args:
        path: which.
        background: of the client.
    """

    def __init__(self, path: MemoryPath, background: Background) -> None:
        self.format = path.format
        self._at = path
        self._behind = background

    @property
    def address(self) -> MemoryAddress:  # pyright: ignore[reportIncompatibleVariableOverride] - as said
        """Its name; in place of the namespace, which only the sidecar knows, stands `sidecar`.

        A memory whose name was left out has `-` for it, until the first call has found it out.
        """
        return self._at.address

    async def erase(
        self, *, labels: Mapping[str, str], dry_run: bool = False, force: bool = False
    ) -> Receipt:
        """Erase all sessions that carry all these labels; see `Memory.erase`."""
        with self._at.naming(Call.ERASE):
            if not label_digests(labels):
                raise ConfigurationError("name at least one label of the sessions to erase")
            query = (*_labels(labels), ("dry_run", dry_run), ("force", force))
            path = f"{await self._at.find()}/sessions{query_of(query)}"
            request = Request("DELETE", path, silence=MODEL)
            return _RECEIPT.read(await self._at.transport.call(request))

    def session(
        self,
        id: str | None = None,
        /,
        *,
        labels: Mapping[str, str] | None = None,
        **fields: str,
    ) -> RemoteSession:
        """Return a session, by its id or by the fields of the key template; see `Memory.session`. No I/O."""
        try:
            if id is not None and fields:
                raise SessionKeyError(
                    "name the session: by its id, or by the fields of the key template"
                )
            if id is not None:
                session_key(id)  # whatever else it may be is no session
            session = id if id is not None else fields
            place = RemotePlace(self._at, session, _labels(labels or {}))
            label_digests(fields, labels)
        except SessionKeyError as error:
            error.memory = str(self.address)
            raise
        return RemoteSession(place, background=self._behind)


def _labels(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return labels as parameters of a query.

    Raises:
        ConfigurationError: a name cannot be told from its value.
    """
    if any(":" in name for name in labels):
        raise ConfigurationError(
            "over HTTP the name of a label has no ':': what follows is its value"
        )
    return [("label", f"{name}:{value}") for name, value in labels.items()]
