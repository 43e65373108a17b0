"""The store over one Redis or Valkey server."""

import re
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from holdfast.errors import ConfigurationError
from holdfast.keys import key_prefix
from holdfast.store.redis.carrier import Carrier, PoolCarrier
from holdfast.store.redis.layout import LAYOUT, memory_keys, session_keys
from holdfast.store.redis.replies import text
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.session import RedisSession
from holdfast.store.refusals import unreadable_address
from holdfast.values import MemoryAddress, PolicyDocument

_CONNECTIONS = 128  # more than the carrier uses at a time
_SCHEMES = ("redis", "unix")
_DATABASE = re.compile(r"/?|/[0-9]+/?")
_LATER = ("rediss", "redis+sentinel", "redis+cluster", "http", "http+unix")


class RedisStore:
    """Sessions in Redis or Valkey.

    Args:
        carrier: brings commands to the server.
        prefix: first part of every key, `spec.keyPrefix` of the MemoryBackend.
        patience: seconds a call is repeated while the server cannot serve and nothing was written.
    """

    def __init__(self, carrier: Carrier, *, prefix: str = "mem", patience: float = 5.0) -> None:
        self._carrier = carrier
        self._prefix = key_prefix(prefix)
        self._runner = Runner(carrier, patience=patience)

    @classmethod
    def from_url(cls, url: str, *, prefix: str = "mem", timeout: float = 5.0) -> Self:
        """Make a store with a client of its own. No I/O yet.

        Args:
            url: `redis://[user:password@]host:port[/database]` or `unix:///path`.
            prefix: first part of every key.
            timeout: seconds for a connection, for an exchange, and for repeating what wrote nothing.

        Raises:
            ConfigurationError: the URL cannot be used.
        """
        try:
            address = urlsplit(url)
        except ValueError:
            raise unreadable_address() from None
        scheme = address.scheme
        if scheme in _LATER:
            raise ConfigurationError(
                f"{scheme}:// is not supported yet by this version: use a standalone server without TLS"
            )
        if scheme not in _SCHEMES:
            raise ConfigurationError(f"{scheme}:// is no address of a Redis server: use redis://")
        if scheme == "redis" and not _DATABASE.fullmatch(address.path):
            raise unreadable_address()
        try:
            pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
                urlunsplit(address._replace(query="")),
                retry=Retry(NoBackoff(), 0),
                retry_on_error=[],
                socket_connect_timeout=timeout,
                socket_timeout=None,
                max_connections=_CONNECTIONS,
            )
        except ValueError:
            raise unreadable_address() from None
        return cls(PoolCarrier(pool, owned=True, timeout=timeout), prefix=prefix, patience=timeout)

    @classmethod
    def from_client(cls, client: Redis, *, prefix: str = "mem") -> Self:
        """Make a store on a caller's own redis-py client, which is never closed.

        Only its connection pool is used: its own retries would store a message twice.
        """
        return cls(PoolCarrier(client.connection_pool, owned=False), prefix=prefix)

    def session(self, memory: MemoryAddress, key: str) -> RedisSession:
        """Return a handle on a session. No I/O."""
        return RedisSession(
            self._runner,
            session_keys(memory, key, self._prefix),
            memory_keys(memory, self._prefix).sessions,
            key,
        )

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        """Return the operator's policy document. One round trip.

        Raises:
            ConfigurationError: it was written for a newer layout of the keys.
            StoreUnavailable, AccessDenied: no answer.
        """
        command = (b"HMGET", memory_keys(memory, self._prefix).policy)
        fields = (b"layout", b"revision", b"state", b"doc")
        [(layout, revision, state, document)] = await self._runner.read([(*command, *fields)])
        if document is None:
            return None
        if int(layout) > LAYOUT:
            raise ConfigurationError(
                f"the keys in Redis have layout {int(layout)}, this version knows {LAYOUT}: upgrade holdfast"
            )
        return PolicyDocument(int(revision), text(state) == "active", text(document).encode())

    async def aclose(self) -> None:
        """Close the connections, if they are the store's own."""
        await self._carrier.aclose()
