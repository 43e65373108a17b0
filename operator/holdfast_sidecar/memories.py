"""Which memories are served, and their sessions: those of the binding, read again when it changes."""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from holdfast.client import Client, Memory
from holdfast.errors import (
    ConfigurationError,
    HoldfastError,
    MemoryNotFound,
    SessionKeyError,
    StoreUnavailable,
)
from holdfast.keys import template_fields
from holdfast.policies import Agreement
from holdfast.problems import problem_of
from holdfast.session import Session
from holdfast.store.bindings import Binding, find_binding
from holdfast.wire import MemoriesAnswer, MemoryInfo, read_fields
from holdfast_sidecar.answers import Refusal

_log = logging.getLogger("holdfast.sidecar")

KNOWN: Final = 4096
"""Sessions that are kept: a session knows what was acknowledged to it, and notices what a server lost."""
_SHORT: Final = 1024
"""Characters of a session's text and labels, at most, that are kept."""
LOOK: Final = 1.0
"""Seconds between looks at a binding's folder."""
_SOON: Final = 0.2
_RETIRED: Final = 60.0
"""Seconds that calls and turns of a binding that was replaced may still take."""


class Found(NamedTuple):
    """A session.

    Attributes:
        memory: it belongs to.
        session: of the library.
        where: the same for every request that means this session.
    """

    memory: Memory
    session: Session
    where: Hashable


class Offer(NamedTuple):
    """A memory that is offered.

    Attributes:
        name: what agents call it.
        read_only: nothing of it may be changed.
        fixed: fields of its key template that are fixed.
    """

    name: str
    read_only: bool = False
    fixed: tuple[str, ...] = ()


class Memories(ABC):
    """The memories that are served.

    A session is looked up by the text of its path and is then kept, the 4,096 last used ones.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[object, ...], Found] = OrderedDict()

    @abstractmethod
    def offers(self) -> Sequence[Offer]:
        """Return what is served.

        Raises:
            Refusal: it is not known yet.
        """

    @abstractmethod
    def memory(self, name: str, *, format: str | None = None) -> Memory:
        """Return a memory.

        Args:
            name: what agents call it.
            format: of its messages; None knows each by its shape.

        Raises:
            MemoryNotFound: it is none of those that are served; names them.
            Refusal: it is not known yet which there are.
        """

    @abstractmethod
    async def aclose(self, patience: float) -> None:
        """Close the connections; flushes that run have `patience` seconds to end."""

    async def find(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        by: str | None = None,
        format: str | None = None,
    ) -> Found:
        """Return a session.

        Args:
            name: of the memory.
            text: the session's id, or its fields as `holdfast.wire.fields_text` writes them.
            labels: `name:value` each, noted with what is written.
            by: `id` or `fields`: what the caller takes `text` for; None takes what the memory has.
            format: of the messages; None knows each by its shape.

        Raises:
            MemoryNotFound, SessionKeyError, ConfigurationError: there is no such memory, or the text or
                the labels cannot be.
            PolicyNotFound, StoreUnavailable, AccessDenied: the memory's policy cannot be had.
        """
        key = (name, text, *labels, by, format)
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
            return found
        found = await self._look_up(self.memory(name, format=format), name, text, labels, by)
        if len(text) + sum(map(len, labels)) <= _SHORT:
            self._known[key] = found
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return found

    async def describe(self) -> MemoriesAnswer:
        """Say what is served, and of each what its policy says of the names of sessions."""
        offers = self.offers()
        return MemoriesAnswer(list(await asyncio.gather(*map(self._describe, offers))))

    async def reach(self) -> None:
        """Ask the store for something.

        Raises:
            Refusal: it is not known yet which there is.
            HoldfastError: what came of it.
        """
        offers = self.offers()
        if offers:
            await self.memory(offers[0].name).policies.refresh()

    def _forget(self) -> None:
        self._known.clear()

    async def _look_up(
        self, memory: Memory, name: str, text: str, labels: Sequence[str], by: str | None
    ) -> Found:
        given = read_labels(labels)
        template = (await _agreed(memory)).policy.key_template
        try:
            _require(template, by)
            if template is None:
                return Found(memory, memory.session(text, labels=given), (name, text))
            fields = read_fields(text)
            names = template_fields(template)
            if not fields.keys() <= set(names):
                raise SessionKeyError(
                    f"the key template {template!r} takes exactly the fields {', '.join(names)}"
                )
            session = memory.session(labels=given, **fields)
            return Found(memory, session, (name, frozenset(fields.items())))
        except SessionKeyError as error:
            error.memory = error.memory or str(memory.address)
            raise

    async def _describe(self, offer: Offer) -> MemoryInfo:
        access = "ReadOnly" if offer.read_only else "ReadWrite"
        try:
            memory = self.memory(offer.name)
            template = (await memory.policies.current()).policy.key_template
        except HoldfastError as error:
            return MemoryInfo(offer.name, access, None, [], list(offer.fixed), problem_of(error))
        names = template_fields(template) if template is not None else ()
        fields = [name for name in names if name not in offer.fixed]
        return MemoryInfo(offer.name, access, template, fields, list(offer.fixed))


class GivenMemories(Memories):
    """Memories of a client that is given.

    Args:
        client: of the library; closed with this.
        names: of its memories that are served.
    """

    def __init__(self, client: Client, names: Iterable[str]) -> None:
        super().__init__()
        self._client = client
        self._offers = tuple(map(Offer, names))

    def offers(self) -> Sequence[Offer]:
        """Return what is served."""
        return self._offers

    def memory(self, name: str, *, format: str | None = None) -> Memory:
        """Return a memory; see `Memories.memory`."""
        if not any(name == offer.name for offer in self._offers):
            raise _not_offered(name, self._offers)
        return self._client.memory(name, format=format)

    async def aclose(self, patience: float) -> None:
        """Close the client."""
        await self._client.drain(patience)
        await self._client.aclose()


class MakesClient(Protocol):
    """Makes a client for a binding. No I/O."""

    def __call__(self, binding: Binding, /) -> Client:
        """Return it."""
        ...


class BoundMemories(Memories):
    """Memories of the binding under a directory, as it is now.

    The binding may come later, and may change: other memories, another server. Passwords and certificates
    are none of that: connections read those anew by themselves.

    Args:
        root: of the bindings, `SERVICE_BINDING_ROOT`.
        make: makes the client.
        only: names of memories that are served of it; empty: all.
    """

    def __init__(self, root: str, make: MakesClient, only: Sequence[str] = ()) -> None:
        super().__init__()
        self._root = root
        self._make = make
        self._only = frozenset(only)
        self._stamp: object = None
        self._why = "the binding was not looked for yet"
        self._binding: Binding | None = None
        self._client: Client | None = None
        self._retired: set[asyncio.Task[None]] = set()

    def offers(self) -> Sequence[Offer]:
        """Return what the binding has of those that are served; see `Memories.offers`."""
        binding = self._bound()[0]
        return [
            Offer(one.name, one.read_only, tuple(one.fields))
            for one in binding.memories.values()
            if not self._only or one.name in self._only
        ]

    def memory(self, name: str, *, format: str | None = None) -> Memory:
        """Return a memory; see `Memories.memory`."""
        binding, client = self._bound()
        if name not in binding.memories or (self._only and name not in self._only):
            raise _not_offered(name, self.offers())
        return client.memory(name, format=format)

    def look(self) -> None:
        """Read the binding again if its files changed. Reads files."""
        stamp = _stamp(self._root)
        if stamp == self._stamp and self._binding is not None:
            return
        try:
            binding = find_binding(self._root)
        except ConfigurationError as error:
            if self._why != error.message:
                self._why = error.message
                _log.warning("%s", error.message)
            return
        self._stamp, self._why = stamp, ""
        old = self._binding
        if old is not None and _substance(old) == _substance(binding):
            return
        _log.info("the binding %r has %s", binding.folder, ", ".join(binding.memories))
        self._retire()
        self._binding, self._client = binding, self._make(binding)

    async def follow(self) -> None:
        """Look at the files every second until cancelled, more often while there is no binding."""
        while True:
            self.look()
            await asyncio.sleep(LOOK if self._binding is not None else _SOON)

    async def aclose(self, patience: float) -> None:
        """Close all clients."""
        for task in self._retired:
            task.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)
        if self._client is not None:
            await self._client.drain(patience)
            await self._client.aclose()

    def _bound(self) -> tuple[Binding, Client]:
        if self._binding is None or self._client is None:
            raise Refusal("Starting", self._why, retry_after=1)
        return self._binding, self._client

    def _retire(self) -> None:
        """Let the old client go when what was begun with it has had time to end."""
        client = self._client
        if client is None:
            return
        self._forget()
        task = asyncio.create_task(_close_later(client))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


async def _agreed(memory: Memory) -> Agreement:
    """Return the policy in force; or the last one, where reads may go on without the store."""
    try:
        return await memory.policies.current()
    except StoreUnavailable:
        last = memory.policies.last
        if last is None:
            raise
        return last


def read_labels(labels: Iterable[str]) -> dict[str, str] | None:
    """Read labels, `name:value` each.

    Raises:
        ConfigurationError: one has another form, or a name is there twice.
    """
    found: dict[str, str] = {}
    for label in labels:
        name, colon, value = label.partition(":")
        if not colon or name in found:
            raise ConfigurationError("a label is name:value, and each name is there once")
        found[name] = value
    return found or None


def _require(template: str | None, by: str | None) -> None:
    """Refuse a session that is named as the memory does not name its sessions."""
    if by == "id" and template is not None:
        raise SessionKeyError(
            f"the memory has the key template {template!r}: give its fields by name"
        )
    if by == "fields" and template is None:
        raise SessionKeyError("the memory has no key template: give the session's id")


def _not_offered(name: str, offers: Iterable[Offer]) -> MemoryNotFound:
    there = ", ".join(sorted(repr(offer.name) for offer in offers)) or "none"
    return MemoryNotFound(f"no memory {name!r} is served here; there are {there}")


def _stamp(root: str) -> object:
    """Return something that differs once a file of a binding was replaced."""
    try:
        return [_stamp_of(path) for path in sorted(Path(root).iterdir())]
    except OSError:
        return None


def _stamp_of(folder: Path) -> tuple[object, ...]:
    link, file = folder / "..data", folder / "memories"
    moved = str(link.readlink()) if link.is_symlink() else None
    return (folder.name, moved, file.stat().st_mtime_ns if file.exists() else None)


def _substance(binding: Binding) -> tuple[Any, ...]:
    """Return what a client cannot follow by itself: all but logins and certificates."""
    address = binding.address
    memories: Mapping[str, object] = binding.memories
    return (
        address.mode,
        address.nodes,
        address.database,
        address.primary,
        address.tls is None,
        binding.prefix,
        tuple(memories.items()),
    )


async def _close_later(client: Client) -> None:
    try:
        await asyncio.sleep(_RETIRED)
    finally:
        await client.drain(0.0)
        await client.aclose()
