"""The store over Redis or Valkey: one server, one that Sentinel watches, or a Cluster."""

from collections.abc import Collection, Iterable, Sequence
from typing import Self

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from holdfast.breaker import Breaker, Breakers
from holdfast.errors import ConfigurationError
from holdfast.keys import is_session_key, key_prefix
from holdfast.store.addresses import Address, read_address
from holdfast.store.redis.carrier import Carrier
from holdfast.store.redis.connecting import carrier_over, make_carrier
from holdfast.store.redis.layout import (
    LAYOUT,
    index_keys_of,
    label_key_of,
    memory_keys,
    session_keys,
)
from holdfast.store.redis.migrating import MigratingSession, Migration
from holdfast.store.redis.replies import USAGE_FIELDS, milliseconds, read_usage, text
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import Script, script
from holdfast.store.redis.session import RedisSession
from holdfast.telemetry import Observer, Telemetry
from holdfast.values import Durability, MemoryAddress, PolicyDocument

_PATIENCE = 5.0  # seconds


class RedisStore:
    """Sessions in Redis or Valkey.

    Args:
        carrier: brings commands to the server.
        prefix: first part of every key, `spec.keyPrefix` of the MemoryBackend.
        patience: seconds a call is repeated while the server cannot serve and nothing was written.
        durability: how many replicas confirm appends, turns and erasures; None: none is asked.
        observers: are told of repetitions.
        breakers: of the servers that the carrier talks to.
        migration: brings sessions to this version's layout; None: with the steps that there are.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        prefix: str = "mem",
        patience: float = _PATIENCE,
        durability: Durability | None = None,
        observers: Sequence[Observer] = (),
        breakers: Iterable[Breaker] = (),
        migration: Script | None = None,
    ) -> None:
        self._carrier = carrier
        self._breakers = breakers
        self._prefix = key_prefix(prefix)
        self._runner = Runner(
            carrier, patience=patience, durability=durability, telemetry=Telemetry(observers)
        )
        self._migration = Migration(self._runner, migration or script("migrate"))

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = "mem",
        timeout: float = 5.0,
        durability: Durability | None = None,
        observers: Sequence[Observer] = (),
    ) -> Self:
        """Make a store with connections of its own. No I/O yet.

        Args:
            url: as `read_address` takes it; options of other readers are left alone.
            prefix: first part of every key.
            timeout: seconds for a connection, for an exchange, and for repeating what wrote nothing.
            durability: how many replicas confirm appends, turns and erasures.
            observers: are told of repetitions.

        Raises:
            ConfigurationError: the URL or the durability cannot be used.
        """
        return cls.at(
            read_address(url),
            prefix=prefix,
            timeout=timeout,
            durability=durability,
            observers=observers,
        )

    @classmethod
    def at(
        cls,
        address: Address,
        *,
        prefix: str = "mem",
        timeout: float = 5.0,
        durability: Durability | None = None,
        observers: Sequence[Observer] = (),
    ) -> Self:
        """Make a store with connections of its own to an address; see `from_url`. No I/O yet.

        Raises:
            ConfigurationError: the durability cannot be used.
        """
        breakers = Breakers(patience=timeout, telemetry=Telemetry(observers))
        return cls(
            make_carrier(address, timeout=timeout, breakers=breakers),
            prefix=prefix,
            patience=timeout,
            durability=durability,
            observers=observers,
            breakers=breakers,
        )

    @classmethod
    def from_client(
        cls,
        client: Redis | RedisCluster,
        *,
        prefix: str = "mem",
        durability: Durability | None = None,
        observers: Sequence[Observer] = (),
    ) -> Self:
        """Make a store on a caller's own redis-py client, which is never closed; see `carrier_over`."""
        breakers = Breakers(patience=_PATIENCE, telemetry=Telemetry(observers))
        return cls(
            carrier_over(client, breakers=breakers),
            prefix=prefix,
            durability=durability,
            observers=observers,
            breakers=breakers,
        )

    @property
    def breakers(self) -> Sequence[Breaker]:
        """One for each server that the store talks to at the moment."""
        return tuple(self._breakers)

    def session(
        self, memory: MemoryAddress, key: str, labels: Collection[str] = ()
    ) -> RedisSession:
        """Return a handle on a session. No I/O."""
        index = memory_keys(memory, self._prefix).sessions
        return MigratingSession(
            self._runner,
            session_keys(memory, key, self._prefix),
            index_keys_of(index, tuple(labels)),
            key,
            tuple(labels),
            migration=self._migration,
        )

    async def labelled(self, memory: MemoryAddress, labels: Collection[str]) -> list[str]:
        """Return the sessions that have all these labels; see `MemoryStore.labelled`. One round trip."""
        index = memory_keys(memory, self._prefix).sessions
        keys = [label_key_of(index, label) for label in labels]
        found = await self._runner.read([(b"ZRANGE", key, 0, -1) for key in keys])
        names = set[str].intersection(*({text(name) for name in part} for part in found))
        return sorted(filter(is_session_key, names))

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        """Return the operator's policy document and measurement. One round trip.

        Raises:
            ConfigurationError: it was written for a newer layout of the keys.
            StoreUnavailable, AccessDenied: no answer.
        """
        keys = memory_keys(memory, self._prefix)
        (layout, revision, state, document), usage, clock = await self._runner.read(
            [
                (b"HMGET", keys.policy, b"layout", b"revision", b"state", b"doc"),
                (b"HMGET", keys.usage, *USAGE_FIELDS),
                (b"TIME",),
            ]
        )
        if document is None:
            return None
        if int(layout) > LAYOUT:
            raise ConfigurationError(
                f"the keys in Redis have layout {int(layout)}, this version knows {LAYOUT}: upgrade holdfast"
            )
        return PolicyDocument(
            int(revision),
            text(state) == "active",
            text(document).encode(),
            read_usage(usage, now=milliseconds(clock)),
        )

    async def aclose(self) -> None:
        """Close the connections, if they are the store's own."""
        await self._carrier.aclose()
