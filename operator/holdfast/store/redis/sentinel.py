"""A carrier for a primary that Sentinel watches: whichever it is at the moment.

redis-py's Sentinel is not used: its connections turn READONLY, which says that nothing was written, into
a broken connection, after which nobody knows. What is needed of it is one question to the sentinels.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ClusterDownError, ReadOnlyError, ResponseError

from holdfast.breaker import all_away
from holdfast.errors import AccessDenied, ConfigurationError, HoldfastError, StoreUnavailable
from holdfast.store.addresses import Node
from holdfast.store.redis.carrier import Broken, Carrier, Command, PoolCarrier, Reply
from holdfast.store.redis.replies import named, raise_for, text

Prepare: TypeAlias = Callable[[AbstractConnection], Awaitable[None]]
"""Makes a new connection ready for use, or raises."""

_QUESTION = 1.0  # seconds that one sentinel may take to answer
_QUESTIONS = 2.0  # seconds that a new connection waits for an answer: one sentinel may be silent
_AWAY = frozenset({"s_down", "o_down", "disconnected"})  # flags of a replica that is not there


class SentinelCarrier:
    """A carrier to the primary that the sentinels name.

    They are asked before the first call, and again when the primary cannot be reached, does not answer,
    or says that it is none; and whenever a connection to it was made. A primary that was away takes writes
    until a sentinel makes it a replica, and then loses them.

    Args:
        sentinels: a carrier to each.
        name: what the sentinels call the primary.
        connect: makes the carrier of the server with this host and port. Its connections are prepared by
            what it is given beside that, instead of redis-py's own `on_connect`; None: as usual.
    """

    def __init__(
        self,
        sentinels: Sequence[PoolCarrier],
        name: str,
        connect: Callable[[Node, Prepare | None], PoolCarrier],
    ) -> None:
        self._sentinels = list(sentinels)
        self._name = name
        self._connect = connect
        self._replicas: dict[Node, PoolCarrier] = {}
        self._node: Node | None = None
        self._carrier: PoolCarrier | None = None
        self._doubted = True
        self._closed = False
        self._asking = asyncio.Lock()

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Reply]:  # noqa: ARG002 - there is one primary
        """Send commands and return their replies; see `Carrier`."""
        carrier = await self._primary()
        try:
            replies = await carrier.exchange(commands)
        except (Broken, StoreUnavailable):
            self._doubt(carrier)
            raise
        if any(isinstance(reply, (ReadOnlyError, ClusterDownError)) for reply in replies):
            self._doubt(carrier)
        return replies

    async def block(self, command: Command, seconds: float) -> Reply | None:
        """Send a command that blocks; see `Carrier`."""
        carrier = await self._primary()
        try:
            return await carrier.block(command, seconds)
        except (Broken, StoreUnavailable):
            self._doubt(carrier)
            raise

    async def nodes(self) -> Sequence[Carrier]:
        """Return carriers to the primary and to its replicas, as one sentinel knows them; see `Carrier`."""
        async with self._asking:
            address, listed = await self._ask_around([self._who(), self._who_follows()])
            if isinstance(listed, Exception):
                raise_for(listed)
            primary = await self._adopt(_node(address))
            there = [node for node in _replicas(listed) if node != self._node]
            for gone in self._replicas.keys() - set(there):
                await self._replicas.pop(gone).retire()
            for node in there:
                if node not in self._replicas:
                    self._replicas[node] = self._reach(node, None)
            return [primary, *(self._replicas[node] for node in there)]

    async def primaries(self) -> Sequence[Carrier]:
        """Return a carrier to the primary, as one sentinel knows it now; see `Carrier`."""
        return (await self.nodes())[:1]

    async def aclose(self) -> None:
        """Close all connections."""
        own = [self._carrier] if self._carrier else []
        carriers = [*self._sentinels, *own, *self._replicas.values()]
        self._replicas = {}
        self._carrier, self._node, self._doubted = None, None, True
        self._closed = True
        for carrier in carriers:
            await carrier.aclose()

    def _doubt(self, carrier: PoolCarrier) -> None:
        if carrier is self._carrier:
            self._doubted = True

    async def _primary(self) -> PoolCarrier:
        if self._carrier is not None and not self._doubted:
            return self._carrier
        async with self._asking:
            if self._carrier is None or self._doubted:
                await self._find()
            assert self._carrier is not None
            return self._carrier

    async def _find(self) -> None:
        """Learn who the primary is; where nobody knows better, it is still the one that was.

        Raises:
            StoreUnavailable, AccessDenied, ConfigurationError: see `_ask_around`.
        """
        try:
            [address] = await self._ask_around([self._who()])
        except HoldfastError:
            if self._carrier is None:
                raise
            return  # Where it is a primary no longer, a new connection is refused.
        await self._adopt(_node(address))

    async def _adopt(self, node: Node) -> PoolCarrier:
        if node != self._node or self._carrier is None:
            if self._carrier is not None:
                await self._carrier.retire()
            self._node, self._carrier = node, self._reach(node, partial(self._prepare, node))
        self._doubted = False
        return self._carrier

    def _reach(self, node: Node, prepare: Prepare | None) -> PoolCarrier:
        carrier = self._connect(node, prepare)
        if self._closed:
            carrier.keep_nothing()
        return carrier

    async def _prepare(self, node: Node, connection: AbstractConnection) -> None:
        """Prepare a new connection as usual, and refuse it where it leads to no primary that is named so.

        What the server says of itself is not enough: one that was away does not know yet who took over. The
        sentinel is asked that named it, since others may write its address in another way.
        """
        await require_primary(connection)
        try:
            async with asyncio.timeout(_QUESTIONS):
                [address] = await self._ask_around([self._who()], same=True)
        except (HoldfastError, TimeoutError):
            return  # Where nobody knows better, it is the one that was.
        except BaseException:  # else the pool would take it for prepared
            await connection.disconnect(nowait=True)
            raise
        if _node(address) != node:
            raise ReadOnlyError("the sentinels name another primary")

    async def _ask_around(self, questions: Sequence[Command], *, same: bool = False) -> list[Reply]:
        """Ask one sentinel after the other.

        Returns the answers of the first that knows the primary, whose address is the first of them.

        Args:
            questions: the first is `_who`.
            same: begin with the one that answered last, instead of the one that was not asked for the
                longest time.

        Raises:
            StoreUnavailable: none answers, or none knows the name.
            AccessDenied: they refuse the credentials.
            ConfigurationError: they are no sentinels.
        """
        failure: HoldfastError = StoreUnavailable(
            "no sentinel can be reached: check that they run, and their addresses"
        )
        failures: list[Exception] = []
        for sentinel in self._sentinels[::-1] if same else list(self._sentinels):
            self._sentinels.remove(sentinel)
            self._sentinels.append(sentinel)
            try:
                async with asyncio.timeout(_QUESTION):
                    replies = await sentinel.exchange(questions)
                if isinstance(replies[0], Exception):
                    _require_sentinel(replies[0])
                    raise_for(replies[0])
            except (Broken, StoreUnavailable, TimeoutError) as error:
                failures.append(error)
                continue
            except (AccessDenied, ConfigurationError) as error:
                failure = error
                failures.append(error)
                continue
            if replies[0] is None:
                failure = StoreUnavailable(
                    f"the sentinels know no primary of the name {self._name!r}"
                )
                failures.append(failure)
                continue
            return replies
        if away := all_away(failures):
            raise away
        if failure in failures:
            raise failure
        raise failure from next(iter(failures), None)  # which says more, such as that TLS failed

    def _who(self) -> Command:
        return (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._name)

    def _who_follows(self) -> Command:
        return (b"SENTINEL", b"REPLICAS", self._name)


def _require_sentinel(error: Exception) -> None:
    if isinstance(error, ResponseError) and "unknown command" in str(error):
        raise ConfigurationError(
            "what answers is no Sentinel: give the addresses of the sentinels, or write the server's as "
            "redis://"
        ) from error


def _node(address: Reply) -> Node:
    host, port = cast("Sequence[bytes | str]", address)
    return text(host), int(port)


def _replicas(listed: Reply) -> list[Node]:
    """Return where the replicas are that the sentinel believes to be there.

    It lists for ever what ever followed the primary, such as each earlier address of a pod.
    """
    return [
        (text(said["ip"]), int(said["port"]))
        for said in map(named, listed)
        if not _AWAY & set(text(said["flags"]).split(","))
    ]


async def require_primary(connection: AbstractConnection) -> None:
    """Prepare a new connection as usual, and refuse it where it leads to no primary.

    A sentinel that was cut off may still name the old one, which answers reads with what was.
    """
    await connection.on_connect()
    await connection.send_command("ROLE", check_health=False)
    try:
        role = cast("Sequence[bytes | str]", await connection.read_response())
    except ResponseError:
        return  # not every user may ask, and a write would be refused anyway
    if text(role[0]) != "master":
        raise ReadOnlyError("the server is no primary")
