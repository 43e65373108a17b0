"""How commands get to the server: one exchange on one connection, and nothing retried behind our back.

A client that repeats a command after a broken connection stores it twice (redis-py does, ten times, by
default). So the carrier uses the client's pool only to get connections, exchanges bytes itself, and
says exactly one thing that matters: whether the command may have reached the server.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from holdfast.errors import AccessDenied, HoldfastError, StoreUnavailable
from holdfast.store.pool_in_use import PoolInUse
from holdfast.store.redis.lanes import Lanes
from holdfast.store.redis.lending import Lender
from holdfast.store.redis.lines import LentLine, Line, OwnLine
from holdfast.store.redis.polling import Polling

Argument: TypeAlias = bytes | str | int
Command: TypeAlias = Sequence[Argument]
Reply: TypeAlias = Any  # whatever the protocol can say: the store reads each where it asked for it

_pack = cast(
    "Callable[[tuple[Argument, ...]], bytes]",
    hiredis.pack_command,  # pyright: ignore[reportUnknownMemberType]
)

_TALKING = 64  # connections for calls; further calls wait their turn
_BLOCKING = 32  # connections for callers that wait for a turn
_CROWDED = 0.05  # seconds between questions of a waiter who got no such connection
_BROKEN = (RedisError, OSError, TimeoutError)  # RedisError: also bytes that are no reply at all

_ELSEWHERE = (
    "this client is in use in another event loop, or in the process that this one was forked from; "
    "nothing was sent. Make a client in each, or use holdfast.sync"
)

# Commands without a key. All others name one: the scripts after its number, the rest at once.
_KEYLESS = frozenset(
    {b"MULTI", b"EXEC", b"TIME", b"INFO", b"SCRIPT", b"WAIT", b"CLUSTER", b"ROLE", b"PING", b"SCAN"}
)
_SCRIPTS = frozenset({b"EVALSHA", b"EVALSHA_RO"})


def key_of(command: Command) -> bytes | None:
    """Return the first key that a command names; None for one that names none."""
    name = command[0]
    if name in _KEYLESS:
        return None
    if name in _SCRIPTS:
        if command[2] == 0:
            return None
        key = command[3]
    else:
        key = command[1]
    return key if isinstance(key, bytes) else str(key).encode()


class Broken(HoldfastError):
    """The connection broke after the command was sent: it may have been executed."""

    code = "Broken"


class Carrier(Protocol):
    """Carries commands to a server and its replies back."""

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Reply]:
        """Send commands in one piece on one connection and return their replies in order.

        An error reply stands in the list as an exception. In a Cluster commands whose keys are on
        several nodes go to one after the other; where one of them cannot be reached, what is raised
        below stands in the place of its replies.

        Args:
            commands: what to send; a transaction stands alone.
            near: for commands without any key: the server that has this one.

        Raises:
            StoreUnavailable: nothing was sent; `PoolInUse` where that is not the server's fault.
            AccessDenied: the server refused the credentials; nothing was sent.
            Broken: the connection broke after sending.
        """
        ...

    async def block(self, command: Command, seconds: float) -> Reply | None:
        """Send a command that blocks for up to so many seconds, on a connection kept for such.

        Returns its reply, or None where it has none.

        However many callers block, `exchange` keeps its connections: a holder that everybody waits for
        must be able to say that it is done. Returns early when there is no connection left.

        Raises:
            StoreUnavailable, AccessDenied, Broken: as `exchange`.
        """
        ...

    async def nodes(self) -> Sequence["Carrier"]:
        """Return a carrier to each server that there is now, a primary first, replicas included.

        For what servers keep each for itself and do not replicate: scripts, and users of the ACL. In a
        Cluster and with Sentinel those who know are asked anew each time. They leave out a replica that
        they have noticed to be away; any other server that does not answer is found out by whoever uses
        its carrier. The carriers belong to this one, which closes those of servers that are gone.

        Raises:
            StoreUnavailable, AccessDenied, Broken: as `exchange`; nobody says which servers there are.
        """
        ...

    async def primaries(self) -> Sequence["Carrier"]:
        """Return a carrier to each server that takes writes now, those that do not answer included.

        Together they have every key. Whom they belong to, and errors: as of `nodes`.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections, if they are the carrier's own."""
        ...


class PoolCarrier:
    """A carrier over a redis-py connection pool.

    Args:
        pool: of the library's own client or of a caller's.
        owned: close the pool with the carrier.
        timeout: seconds for one exchange.
        largest: bytes that the replies of one exchange may have, on connections of our own; 0: any
            number.
        lost: called when the server ends a connection of our own, in use or not.
        polling: whether the event loop stays awake for a near server's answer to a caller or two.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        owned: bool,
        timeout: float = 5.0,
        largest: int = 0,
        lost: Callable[[], None] | None = None,
        polling: bool = False,
    ) -> None:
        self._pool = pool
        self._largest, self._lost = largest, lost
        self._owned = owned
        self._lender = None if owned else Lender(pool, timeout)
        self._timeout = timeout
        self._retired = False
        # The pool's own book-keeping costs a quarter of an append, so connections that are ours
        # alone wait here; a caller's go back to the caller.
        self._idle: list[OwnLine] = []
        blocking = min(_BLOCKING, pool.max_connections // 3)  # of one or two: none
        self._places = asyncio.Semaphore(max(1, min(_TALKING, pool.max_connections - blocking)))
        self._blocking = asyncio.Semaphore(blocking)
        self._lanes = Lanes(self._send, polling=Polling() if polling else None)

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Reply]:  # noqa: ARG002 - there is one server
        """Send commands and return their replies; see `Carrier`."""
        packed = _packed(commands)
        if commands[-1][0] == b"WAIT":
            # For replicas: a time that the server may take, and nobody else should wait behind it.
            patience = self._timeout + int(commands[-1][2]) / 1000
            return await self._exchange(self._places, packed, len(commands), patience)
        return await self._lanes.exchange(packed, len(commands))

    async def block(self, command: Command, seconds: float) -> Reply | None:
        """Send a command that blocks; see `Carrier`."""
        if self._blocking.locked() or not (self._lender is None or self._lender.free):
            await asyncio.sleep(min(seconds, _CROWDED))
            return None
        patience = seconds + self._timeout
        [reply] = await self._exchange(self._blocking, _packed([command]), 1, patience)
        if isinstance(reply, Exception):  # such as no permission: it did not block
            await asyncio.sleep(min(seconds, _CROWDED))
            return None
        return reply

    async def _send(self, packed: bytes, count: int) -> list[Reply]:
        return await self._exchange(self._places, packed, count, self._timeout)

    async def _exchange(
        self, places: asyncio.Semaphore, packed: bytes, count: int, patience: float
    ) -> list[Reply]:
        async with places:
            line = await self._line()
            try:
                replies = await line.talk(packed, count, patience)
            except _BROKEN as error:
                await self._discard(line)
                raise Broken("the connection broke before the reply") from error
            except BaseException:
                # Cancelled between request and reply: whoever took this connection next would
                # read somebody else's answer.
                await self._discard(line)
                raise
            if ReadOnlyError in map(type, replies):
                # A primary no longer. A new connection to the same address may find the next one.
                await self._discard(line)
                await self._drop_idle()
            elif not isinstance(line, OwnLine):
                await self._pool.release(line.connection)
            elif self._retired:
                await self._discard(line)
            else:
                self._idle.append(line)
            return replies

    async def nodes(self) -> Sequence[Carrier]:
        """Return this one: there is one server; see `Carrier`."""
        return [self]

    async def primaries(self) -> Sequence[Carrier]:
        """Return this one; see `Carrier`."""
        return [self]

    def keep_nothing(self) -> None:
        """Close each connection of our own after its call from now on."""
        self._retired = True

    async def retire(self) -> None:
        """Close what is idle now and the rest after its call: nobody will call here again."""
        self.keep_nothing()
        await self._drop_idle()

    async def _drop_idle(self) -> None:
        while self._idle:
            await self._discard(self._idle.pop())

    async def _discard(self, line: Line) -> None:
        await line.connection.disconnect(nowait=True)
        await self._pool.release(line.connection)

    def _require_here(self) -> None:
        """Refuse another event loop than the connections': what it sent would be carried out, unheard."""
        if self._idle and not self._idle[-1].here:
            raise RuntimeError(_ELSEWHERE)

    async def _line(self) -> Line:
        while self._idle:
            self._require_here()
            line = self._idle.pop()
            if line.usable:
                return line
            await self._discard(line)
        connection = await self._connect()
        if not self._owned:
            return LentLine(connection)
        return OwnLine(connection, self._largest, self._lost)

    async def _connect(self) -> AbstractConnection:
        try:
            if self._lender is not None:
                return await self._lender.take()
            # The pool's own time-out, if it has one, ends before the handshake.
            async with asyncio.timeout(self._timeout):
                return await self._get_connection()
        except PoolInUse:  # which is an OSError, too
            raise
        except (AuthenticationError, AuthorizationError) as error:
            raise AccessDenied(
                "the server refused the credentials: check user name and password"
            ) from error
        except BusyLoadingError as error:
            raise StoreUnavailable("the server is loading its data set") from error
        except ReadOnlyError as error:  # our own question on connecting, where we ask it
            raise StoreUnavailable("the server is not the primary, as during a failover") from error
        except ResponseError as error:
            raise AccessDenied("the server does not let these credentials connect") from error
        except _BROKEN as error:
            if _is_about_tls(error):
                raise StoreUnavailable(
                    "no TLS connection to the server: check that it speaks TLS, that its certificate "
                    "names the address, and the authority it is checked against (ca)"
                ) from error
            raise StoreUnavailable(
                "no connection to the server: check that it runs, its address, and that no "
                "network policy is in the way"
            ) from error

    async def _get_connection(self) -> AbstractConnection:
        try:
            return await self._pool.get_connection()
        except BaseException as error:
            if self._retired:
                # Cancelled at its last step, it went back to the pool, which is closed already.
                with contextlib.suppress(RedisTimeoutError):
                    await self._pool.disconnect(inuse_connections=False)
                # By redis-py, and by transports of Python 3.12, where they are closed meanwhile.
                if isinstance(error, (AttributeError, TypeError)):
                    raise ConnectionResetError("the client was closed") from error
            raise

    async def aclose(self) -> None:
        """Close the pool if it is the carrier's own, and what a call still uses once that is over."""
        self._require_here()
        self.keep_nothing()
        await self._lanes.aclose()
        idle, self._idle = self._idle, []
        for line in idle:
            await self._pool.release(line.connection)
        if self._owned:
            try:
                await self._pool.aclose()
            except RedisTimeoutError:  # TLS is ended by both sides, and a frozen server does not
                for line in idle:
                    line.abort()


def _packed(commands: Sequence[Command]) -> bytes:
    # redis-py packs each argument in Python on its asyncio side; hiredis does it in C.
    return b"".join([_pack(tuple(command)) for command in commands])


def _is_about_tls(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False
