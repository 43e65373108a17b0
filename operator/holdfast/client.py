"""Where a program begins: a client, its memories, their sessions."""

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from holdfast.errors import ConfigurationError, MemoryNotFound, SessionKeyError
from holdfast.keys import memory_address, session_key, template_key
from holdfast.messages import Preparer
from holdfast.place import Place
from holdfast.policies import PolicyFeed
from holdfast.policy import Policy, PolicySource, load_policy
from holdfast.session import Session
from holdfast.store import MemoryStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.refusals import unreadable_address
from holdfast.values import MemoryAddress

if TYPE_CHECKING:
    from redis.asyncio import Redis

_HOLDER_BYTES = 60
_DEFAULT_NAMESPACE = "local"
_DEFAULT_PREFIX = "mem"
_CLOSING = 2.0  # seconds that closing waits for leases that are being given back


def connect(
    url: str | None = None,
    *,
    namespace: str | None = None,
    policy: PolicySource | None = None,
    client: "Redis | None" = None,
) -> "Client":
    """Make a client. No I/O happens before the first call.

    Args:
        url: `redis://host:port/0?namespace=team-a&prefix=mem`, `unix:///path/of/socket`, or
            `memory://` for a store in this process. None takes the variable `HOLDFAST_URL`.
        namespace: of the memories; instead of the URL's, else `local`.
        policy: what holds where no operator wrote a policy: the path of a MemoryResource manifest, a
            mapping in its form, or a `Policy`.
        client: your own redis-py client, which is used as it is and never closed.

    Raises:
        ConfigurationError: nothing says where to connect to, or it cannot be used.
        PolicyInvalid: the policy breaks a rule; names file, line, field and reason.
    """
    if client is not None:
        from holdfast.store.redis import RedisStore  # noqa: PLC0415 - loads the redis client

        options = _options(url) if url is not None else {}
        store = RedisStore.from_client(client, prefix=options.get("prefix", _DEFAULT_PREFIX))
        return Client(store, namespace=namespace or options.get("namespace"), policy=policy)
    address = url or os.environ.get("HOLDFAST_URL")
    if not address:
        raise ConfigurationError(
            "nothing says where the memory is: give a url to connect(), such as "
            "'redis://localhost:6379' or 'memory://', or set HOLDFAST_URL. Tried: the argument (not "
            "given), HOLDFAST_URL (not set)"
        )
    options = _options(address)
    name = namespace or options.get("namespace")
    if urlsplit(address).scheme == "memory":
        return Client(InMemoryStore(), namespace=name, policy=policy)
    from holdfast.store.redis import RedisStore  # noqa: PLC0415 - loads the redis client

    store = RedisStore.from_url(address, prefix=options.get("prefix", _DEFAULT_PREFIX))
    return Client(store, namespace=name, policy=policy)


def _options(url: str) -> dict[str, str]:
    try:
        address = urlsplit(url)
    except ValueError:
        raise unreadable_address() from None
    if "@" in address.query or address.fragment:
        raise unreadable_address()  # it cuts a password in two: show neither half
    parts = parse_qs(address.query, keep_blank_values=True)
    unknown = sorted(parts.keys() - {"namespace", "prefix"})
    if unknown:
        raise ConfigurationError(
            f"the url has the unknown option {unknown[0]!r}; there are namespace and prefix"
        )
    return {name: values[-1] for name, values in parts.items()}


class Client:
    """A connection to a place that keeps memories; `async with holdfast.connect() as client`.

    Args:
        store: the place.
        namespace: of the memories.
        policy: what holds where no operator wrote a policy. A manifest with a name is for the memory
            of that name; a bare spec for any.
    """

    def __init__(
        self,
        store: MemoryStore,
        *,
        namespace: str | None = None,
        policy: PolicySource | None = None,
    ) -> None:
        self._store = store
        self._namespace = namespace or _DEFAULT_NAMESPACE
        self._policy_name: str | None = None
        self._policy: Policy | None = None
        if policy is not None:
            self._policy_name, self._policy = load_policy(policy)
        self._policies: dict[MemoryAddress, PolicyFeed] = {}
        self._memories: dict[tuple[MemoryAddress, str | None], Memory] = {}
        self._background: set[asyncio.Task[Any]] = set()

    def memory(self, name: str | None = None, *, format: str | None = None) -> "Memory":
        """Return a memory by its name. No I/O.

        Args:
            name: may be left out where the client was given the manifest of exactly one.
            format: the format of its messages by name; None finds it by each message's shape.

        Raises:
            MemoryNotFound: the client was given another memory's manifest.
        """
        if name is None:
            name = self._policy_name or "default"
        elif self._policy_name is not None and name != self._policy_name:
            raise MemoryNotFound(
                f"there is no memory {name!r} here; there is {self._policy_name!r}",
                memory=f"{self._namespace}/{name}",
            )
        address = memory_address(self._namespace, name)
        memory = self._memories.get((address, format))
        if memory is None:
            feed = self._policies.get(address) or PolicyFeed(self._store, address, self._policy)
            memory = Memory(self._store, address, feed, format, self._background)
            self._policies[address], self._memories[address, format] = feed, memory
        return memory

    async def aclose(self) -> None:
        """Finish what runs in the background, and close the connections that are the library's own."""
        for feed in self._policies.values():
            await feed.aclose()
        if self._background:
            _, late = await asyncio.wait(self._background, timeout=_CLOSING)
            for task in late:
                task.cancel()  # it would open connections again that nobody closes
            await asyncio.gather(*late, return_exceptions=True)
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
        background: set[asyncio.Task[Any]],
    ) -> None:
        self.address = address
        self.policies = policies
        self.format = format
        self._store = store
        self._background = background
        self._preparer = Preparer(format)
        self._holder = f"{socket.gethostname()}:{os.getpid()}"[-_HOLDER_BYTES:]

    def session(self, id: str | None = None, /, **fields: str) -> Session:
        """Return a session, by its id or by the fields of the key template. No I/O.

        Args:
            id: 1..512 bytes of UTF-8, for a memory without a key template.
            fields: exactly the template's fields, each 1..512 bytes of UTF-8.

        Raises:
            SessionKeyError: empty, too long, or not what the template takes.
        """

        def key_of(template: str | None) -> str:
            return _plain_key(template, id) if id is not None else _field_key(template, fields)

        try:
            self._check_name(id, fields, key_of)
        except SessionKeyError as error:
            error.memory = str(self.address)
            raise
        place = Place(
            self.address,
            self.policies,
            self._preparer,
            key_of=key_of,
            open=lambda key: self._store.session(self.address, key),
        )
        return Session(place, holder=self._holder, background=self._background)

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
