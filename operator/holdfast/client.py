"""A client, its memories, their sessions."""

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from holdfast.background import Background
from holdfast.breaker import Breaker, Guarded
from holdfast.copies import Copies
from holdfast.counting import OwnCounter
from holdfast.erasure import LabelledErasure
from holdfast.errors import MemoryNotFound, SessionKeyError
from holdfast.fallback import Fallback
from holdfast.flushing import Flusher
from holdfast.keys import label_digests, memory_address, session_key, template_key
from holdfast.messages import Preparer
from holdfast.place import Place
from holdfast.policies import PolicyFeed
from holdfast.policy import Policy, PolicySource, load_policy
from holdfast.session import Session
from holdfast.store import MemoryStore, SessionStore
from holdfast.store.bindings import Binding, BoundMemory
from holdfast.store.read_only import ReadOnlyStore
from holdfast.telemetry import Observer, Telemetry
from holdfast.tokens import TokenCounter
from holdfast.values import MemoryAddress, Receipt

if TYPE_CHECKING:
    from holdfast.summaries import SummarizerLike

_HOLDER_BYTES = 60
_DEFAULT_NAMESPACE = "local"
_DRAINING = 10.0  # seconds that closing waits for flushes
_CLOSING = 2.0  # seconds that closing waits for leases that are being given back


class Client:
    """A connection to a place that keeps memories; `async with holdfast.connect() as client`.

    Args:
        store: the place.
        namespace: of the memories.
        policy: what holds where no operator wrote a policy. A manifest with a name is for the memory
            of that name; a bare spec for any.
        counter: counts tokens, whatever a policy says.
        observers: are told of calls, counts and levels. Of repetitions a `RedisStore` tells its own.
        binding: says which memories there are, and what may be done with them.
        holder: how turns name themselves to others, at most the last 60 bytes; None is the host and the
            process.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        namespace: str | None = None,
        policy: PolicySource | None = None,
        counter: TokenCounter | None = None,
        summarizer: "SummarizerLike | None" = None,
        observers: Sequence[Observer] = (),
        binding: Binding | None = None,
        holder: str | None = None,
    ) -> None:
        self._store = store
        self._holder = _short(holder or f"{socket.gethostname()}:{os.getpid()}")
        self._binding = binding
        self._observers = tuple(observers)
        self._namespace = namespace or _DEFAULT_NAMESPACE
        self._policy_name: str | None = None
        self._policy: Policy | None = None
        if policy is not None:
            self._policy_name, self._policy = load_policy(policy)
        self._counter = OwnCounter(counter) if counter is not None else None
        self._policies: dict[MemoryAddress, PolicyFeed] = {}
        self._memories: dict[tuple[MemoryAddress, str | None, str | None], Memory] = {}
        self._background = Background()
        self._flusher = Flusher(summarizer)
        self._copies = Copies()
        self._fallbacks: dict[MemoryAddress, Fallback] = {}

    @property
    def breakers(self) -> Sequence[Breaker]:
        """What is known of the servers: one for each that this client talks to, none without servers."""
        return self._store.breakers if isinstance(self._store, Guarded) else ()

    def memory(self, name: str | None = None, *, format: str | None = None) -> "Memory":
        """Return a memory by its name. No I/O.

        Args:
            name: may be left out where the client was given the manifest of exactly one, or its
                binding has exactly one.
            format: the format of its messages by name; None finds it by each message's shape.

        Raises:
            MemoryNotFound: the client was given another memory's manifest, or its binding has no such
                memory; names those it has.
        """
        bound = self._bound(name) if self._binding is not None else None
        address = bound.address if bound else memory_address(self._namespace, self._named(name))
        key = (address, format, bound.name if bound is not None else None)
        memory = self._memories.get(key)
        if memory is None:
            feed = self._policies.get(address) or PolicyFeed(
                self._store,
                address,
                self._policy,
                counter=self._counter,
                telemetry=Telemetry(self._observers, address),
            )
            read_only = bound is not None and bound.read_only
            memory = Memory(
                ReadOnlyStore(self._store) if read_only else self._store,
                address,
                feed,
                format,
                background=self._background,
                flusher=self._flusher,
                fallback=self._fallbacks.setdefault(address, Fallback(address, feed, self._copies)),
                fields=bound.fields if bound is not None else {},
                holder=self._holder,
            )
            self._policies[address], self._memories[key] = feed, memory
        return memory

    def _named(self, name: str | None) -> str:
        if name is None:
            return self._policy_name or "default"
        if self._policy_name is not None and name != self._policy_name:
            raise MemoryNotFound(
                f"there is no memory {name!r} here; there is {self._policy_name!r}",
                memory=f"{self._namespace}/{name}",
            )
        return name

    def _bound(self, name: str | None) -> BoundMemory:
        """Return what the binding has by this name; one that was added meanwhile is there."""
        assert self._binding is not None
        try:
            return self._binding.memory(name)
        except MemoryNotFound:
            self._binding = self._binding.reread()
            return self._binding.memory(name)

    async def drain(self, seconds: float) -> None:
        """Start no more flushes, and let those that run end; before `aclose`, where time is short.

        Args:
            seconds: that a flush has to end; one that is cut off then has changed nothing.
        """
        await self._flusher.aclose(seconds)

    async def aclose(self) -> None:
        """End turns that are still open, finish what runs, and close the library's own connections.

        A flush that runs has ten seconds to end; one that is cut off then has changed nothing.
        """
        await self.drain(_DRAINING)
        for feed in self._policies.values():
            await feed.aclose()
        await self._background.aclose(_CLOSING)
        self._copies.clear()
        await self._store.aclose()

    async def __aenter__(self) -> Self:
        """Return the client itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the client."""
        await self.aclose()


class Memory:
    """One kind of memory under one policy; made by `Client.memory`."""

    def __init__(
        self,
        store: MemoryStore,
        address: MemoryAddress,
        policies: PolicyFeed,
        format: str | None,
        *,
        background: Background,
        flusher: Flusher,
        fallback: Fallback,
        fields: Mapping[str, str],
        holder: str,
    ) -> None:
        self._flusher = flusher
        self._fallback = fallback
        self._fixed = fields
        self.address = address
        self.policies = policies
        self.format = format
        self._store = store
        self._background = background
        self._preparer = Preparer(format)
        self._holder = holder

    async def erase(
        self, *, labels: Mapping[str, str], dry_run: bool = False, force: bool = False
    ) -> Receipt:
        """Erase all sessions that carry all these labels; see `Session.erase`.

        Looks a second time for what began meanwhile. A label is known for twice the policy's longest idle
        time and a day after the last write that noted it: a session that was only read since is not
        found by it.

        Args:
            labels: 1..16 of those given to `session`, or fields of the key template.
            dry_run: say what would go, and remove nothing.
            force: even sessions in which somebody holds a turn that the policy enforces.

        Raises:
            ConfigurationError: these are no labels.
            SessionBusy: somebody holds such a turn; all others are erased.
            PolicyNotFound, StoreUnavailable, AccessDenied: call again for the rest.
        """
        erasure = LabelledErasure(self._store, self.address, self.policies, self._fallback)
        return await erasure.run(labels, dry_run=dry_run, force=force)

    def session(
        self,
        id: str | None = None,
        /,
        *,
        labels: Mapping[str, str] | None = None,
        **fields: str,
    ) -> Session:
        """Return a session, by its id or by the fields of the key template. No I/O.

        Args:
            id: 1..512 bytes of UTF-8, for a memory without a key template.
            labels: noted with what is written, for `erase(labels=...)`; at most 16, fields included,
                which are labels by themselves.
            fields: exactly the template's fields, each 1..512 bytes of UTF-8. Those that a binding
                fixes may be left out.

        Raises:
            SessionKeyError: empty, too long, not what the template takes, or fixed otherwise.
            ConfigurationError: the labels cannot be.
        """

        def key_of(template: str | None) -> str:
            return _plain_key(template, id) if id is not None else _field_key(template, fields)

        try:
            fields = self._with_fixed(id, fields)
            self._check_name(id, fields, key_of)
        except SessionKeyError as error:
            error.memory = str(self.address)
            raise
        digests = label_digests(fields, labels)

        def open_(key: str) -> SessionStore:
            if not digests:
                return self._store.session(self.address, key)
            return self._store.session(self.address, key, digests)

        place = Place(
            self.address,
            self.policies,
            self._preparer,
            key_of=key_of,
            open=open_,
            flusher=self._flusher,
            fallback=self._fallback,
        )
        return Session(place, holder=self._holder, background=self._background)

    def _with_fixed(self, id: str | None, fields: dict[str, str]) -> dict[str, str]:
        """Add the fields that the binding fixes."""
        if not self._fixed:
            return fields
        other = [name for name, value in self._fixed.items() if fields.get(name, value) != value]
        if other or id is not None:
            names = ", ".join(other or self._fixed)
            raise SessionKeyError(f"the binding fixes {names} of the key template: leave it out")
        return {**self._fixed, **fields}

    def _check_name(
        self, id: str | None, fields: Mapping[str, str], key_of: Callable[[str | None], str]
    ) -> None:
        """Refuse here already what the first call would refuse."""
        if (id is None) == (not fields):
            raise SessionKeyError(
                "name the session: by its id, or by the fields of the key template"
            )
        if id is not None:
            session_key(id)
        given = self.policies.given
        if given is not None:
            key_of(given.key_template)


def _short(holder: str) -> str:
    return holder.encode()[-_HOLDER_BYTES:].decode(errors="ignore")


def _plain_key(template: str | None, id: str) -> str:
    if template is not None:
        raise SessionKeyError(
            f"the memory has the key template {template!r}: give its fields by name"
        )
    return session_key(id)


def _field_key(template: str | None, fields: Mapping[str, str]) -> str:
    if template is None:
        raise SessionKeyError("the memory has no key template: give the session's id")
    return template_key(template, fields)
