"""From an address, or from somebody's own client, to a carrier."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedSSLConnection
from redis.backoff import NoBackoff

from holdfast.breaker import Breakers
from holdfast.errors import ConfigurationError
from holdfast.store.addresses import Address, Login, Mode, Node
from holdfast.store.redis.breaking import BreakingCarrier
from holdfast.store.redis.carrier import Carrier, PoolCarrier
from holdfast.store.redis.cluster import ClusterCarrier
from holdfast.store.redis.pools import CONNECTIONS, make_pool
from holdfast.store.redis.sentinel import Prepare, SentinelCarrier

_TO_SENTINELS = 4  # connections to one sentinel, which is asked about each new one to a primary


def make_carrier(
    address: Address,
    *,
    timeout: float,
    connections: int = CONNECTIONS,
    breakers: Breakers | None = None,
    largest: int = 0,
    lost: Callable[[], None] | None = None,
) -> Carrier:
    """Make the carrier for an address, with connections of its own. No I/O yet.

    Args:
        address: where the servers are.
        timeout: seconds for a connection and for an exchange.
        connections: how many at most to one server.
        breakers: keeps a breaker for each server; None: every call tries to reach it.
        largest: bytes that the replies of one exchange may have, without breakers; 0: any number.
        lost: called when a server ends a connection, without breakers: it may have restarted.
    """

    def reach(
        place: Node | str,
        on_connect: Prepare | None = None,
        *,
        login: Login,
        database: int,
        most: int,
    ) -> PoolCarrier:
        pool = make_pool(
            place,
            login=login,
            tls=address.tls,
            timeout=timeout,
            database=database,
            connections=most,
            on_connect=on_connect,
        )
        if breakers is not None:
            return BreakingCarrier(pool, owned=True, timeout=timeout, breakers=breakers)
        return PoolCarrier(pool, owned=True, timeout=timeout, largest=largest, lost=lost)

    server = partial(reach, login=address.login, database=address.database, most=connections)
    if address.mode is Mode.CLUSTER:
        return ClusterCarrier(address.nodes, server, secure=address.tls is not None)
    if address.mode is Mode.SENTINEL:
        sentinels = [
            reach(node, login=address.sentinel_login, database=0, most=_TO_SENTINELS)
            for node in address.nodes
        ]
        return SentinelCarrier(sentinels, address.primary, server)
    return server(address.socket or address.nodes[0])


def carrier_over(client: Redis | RedisCluster, *, breakers: Breakers | None = None) -> Carrier:
    """Make a carrier that connects as a caller's own client does. No I/O yet.

    Only its settings or its connections are used: its own retries would store a message twice. A plain
    client lends connections of its pool. One of a Cluster has none to lend, and one made by a `Sentinel`
    hides what a demoted primary says; there we make our own, with the same settings.

    Raises:
        ConfigurationError: it is another kind of client.
    """
    _require_client(client)
    if isinstance(client, RedisCluster):
        nodes = [(str(node.host), int(node.port)) for node in client.startup_nodes]
        settings = client.get_connection_kwargs()
        secure = bool(settings.get("ssl"))
        return ClusterCarrier(nodes, partial(_like, settings, breakers), secure=secure)
    pool = client.connection_pool
    if not isinstance(pool, SentinelConnectionPool):
        return _over(pool, owned=False, breakers=breakers)
    settings: dict[str, Any] = dict(pool.connection_kwargs)
    secure = issubclass(pool.connection_class, SentinelManagedSSLConnection)
    settings["connection_class"] = SSLConnection if secure else Connection
    manager = cast("Any", pool).sentinel_manager  # redis-py does not say what it is
    sentinels = [
        _over(one.connection_pool, owned=False, breakers=breakers) for one in manager.sentinels
    ]
    connect = partial(_like, settings, breakers)
    return SentinelCarrier(sentinels, cast("Any", pool).service_name, connect)


def _require_client(client: object) -> None:
    # A pipeline is a client to redis-py, and keeps what it is sent for later.
    if isinstance(client, Redis | RedisCluster) and not isinstance(client, Pipeline):
        return
    kind = f"{type(client).__module__}.{type(client).__qualname__}".removeprefix("builtins.")
    raise ConfigurationError(
        f"client is a redis.asyncio.Redis or a redis.asyncio.RedisCluster, not {kind}: make one of those, "
        "or give a url instead"
    )


def _over(pool: ConnectionPool, *, owned: bool, breakers: Breakers | None) -> PoolCarrier:
    if breakers is None:
        return PoolCarrier(pool, owned=owned)
    return BreakingCarrier(pool, owned=owned, breakers=breakers)


def _like(
    settings: dict[str, Any],
    breakers: Breakers | None,
    node: Node,
    on_connect: Prepare | None = None,
) -> PoolCarrier:
    """Make the carrier of a node with a caller's settings, but for what would repeat or end calls."""
    ours: dict[str, Any] = {
        "host": node[0],
        "port": node[1],
        # Not the caller's: a Cluster's is for reading from replicas, which may lag behind.
        "redis_connect_func": on_connect,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "socket_timeout": None,
        "max_connections": CONNECTIONS,
    }
    others = {name: value for name, value in settings.items() if name not in _NOT_OF_A_CONNECTION}
    return _over(ConnectionPool(**(others | ours)), owned=True, breakers=breakers)


_NOT_OF_A_CONNECTION = frozenset({"response_callbacks", "connection_pool", "event_dispatcher"})
