"""How commands get to the server: one exchange on one connection, and nothing retried behind our back.

A client that repeats a command after a broken connection stores it twice (redis-py does, ten times, by
default). So the carrier uses the client's pool only to get connections, exchanges bytes itself, and
says exactly one thing that matters: whether the command may have reached the server.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeAlias, cast

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)

from holdfast.errors import AccessDenied, HoldfastError, StoreUnavailable

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
# What redis-py raises for an error that the server replied, some of them as errors of the connection.
_REPLIED = (ResponseError, BusyLoadingError, AuthenticationError, AuthorizationError)


class Broken(HoldfastError):
    """The connection broke after the command was sent: it may have been executed."""

    code = "Broken"


class Carrier(Protocol):
    """Carries commands to a server and its replies back."""

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one piece on one connection and return their replies in order.

        An error reply stands in the list as an exception.

        Raises:
            StoreUnavailable: nothing was sent.
            AccessDenied: the server refused the credentials; nothing was sent.
            Broken: the connection broke after sending.
        """
        ...

    async def block(self, command: Command, seconds: float) -> None:
        """Send a command that blocks for up to so many seconds, on a connection kept for such.

        However many callers block, `exchange` keeps its connections: a holder that everybody waits for
        must be able to say that it is done. Returns early when there is no connection left.

        Raises:
            StoreUnavailable, AccessDenied, Broken: as `exchange`.
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
    """

    def __init__(self, pool: ConnectionPool, *, owned: bool, timeout: float = 5.0) -> None:
        self._pool = pool
        self._owned = owned
        self._timeout = timeout
        # The pool's own book-keeping costs a quarter of an append, so connections that are ours
        # alone wait here; a caller's go back to the caller.
        self._idle: list[AbstractConnection] = []
        blocking = max(1, min(_BLOCKING, pool.max_connections // 3))
        self._places = asyncio.Semaphore(max(1, min(_TALKING, pool.max_connections - blocking)))
        self._blocking = asyncio.Semaphore(blocking)

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands and return their replies; see `Carrier`."""
        return await self._exchange(self._places, commands, self._timeout)

    async def block(self, command: Command, seconds: float) -> None:
        """Send a command that blocks; see `Carrier`."""
        if self._blocking.locked():
            await asyncio.sleep(min(seconds, _CROWDED))
            return
        [reply] = await self._exchange(self._blocking, [command], seconds + self._timeout)
        if isinstance(reply, Exception):  # such as no permission: it did not block
            await asyncio.sleep(min(seconds, _CROWDED))

    async def _exchange(
        self, places: asyncio.Semaphore, commands: Sequence[Command], patience: float
    ) -> list[Reply]:
        async with places:
            connection = await self._connect()
            try:
                replies = await self._talk(connection, commands, patience)
            except _BROKEN as error:
                await self._discard(connection)
                raise Broken("the connection broke before the reply") from error
            except BaseException:
                # Cancelled between request and reply: whoever took this connection next would
                # read somebody else's answer.
                await self._discard(connection)
                raise
            if self._owned:
                self._idle.append(connection)
            else:
                await self._pool.release(connection)
            return replies

    async def _discard(self, connection: AbstractConnection) -> None:
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    async def _connect(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            try:
                if connection.is_connected and not await _has_input(connection):
                    return connection
            except _BROKEN:
                pass
            # The server closed it meanwhile, or it holds bytes that nobody asked for.
            await self._discard(connection)
        try:
            # The pool's own time-out, if it has one, ends before the handshake.
            async with asyncio.timeout(self._timeout):
                return await self._pool.get_connection()
        except (AuthenticationError, AuthorizationError) as error:
            raise AccessDenied(
                "the server refused the credentials: check user name and password"
            ) from error
        except BusyLoadingError as error:
            raise StoreUnavailable("the server is loading its data set") from error
        except ResponseError as error:
            raise AccessDenied("the server does not let these credentials connect") from error
        except _BROKEN as error:
            raise StoreUnavailable(
                "no connection to the server: check that it runs, its address, and that no "
                "network policy is in the way"
            ) from error

    async def _talk(
        self, connection: AbstractConnection, commands: Sequence[Command], patience: float
    ) -> list[Reply]:
        # redis-py packs each argument in Python on its asyncio side; hiredis does it in C.
        packed = b"".join([_pack(tuple(command)) for command in commands])
        replies: list[Reply] = []
        async with asyncio.timeout(patience):
            await connection.send_packed_command(packed, check_health=False)
            for _ in commands:
                try:
                    # One error must not cost the replies behind it: whoever called disconnects.
                    replies.append(await connection.read_response(disconnect_on_error=False))
                except _REPLIED as error:
                    replies.append(error)
        return replies

    async def aclose(self) -> None:
        """Close the pool if it is the carrier's own."""
        while self._idle:
            await self._pool.release(self._idle.pop())
        if self._owned:
            await self._pool.aclose()


async def _has_input(connection: AbstractConnection) -> bool:
    """Whether there is something to read, or the end of the connection."""
    # redis-py before 8 knows it by another name only, which 8 warns about.
    probe: Callable[[], Awaitable[bool]] = (
        getattr(connection, "can_read", None) or connection.can_read_destructive
    )
    return await probe()
