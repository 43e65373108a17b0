"""One connection, as an exchange uses it: bytes out, replies back.

redis-py makes every connection: it resolves names, speaks TLS, identifies itself. Its own way of reading a
reply costs the client as much as all the rest of a call, since each goes through a stream reader and
several coroutines. So a connection that is ours alone is taken over once it is made: what arrives goes
from the transport to hiredis at once. One that a caller lends is left as the caller made it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    InvalidResponse,
    RedisError,
    ResponseError,
)

Replies = list[Any]

_MORE: Final = object()
# What redis-py makes of an error that the server replied, some of them as errors of the connection.
_REPLIED: Final = (ResponseError, BusyLoadingError, AuthenticationError, AuthorizationError)


def cancellations() -> int:
    """Return how often the current task was told to end; it is more after a call that went on nevertheless.

    A pool with a time-out of its own sends by `asyncio.wait_for`, which on Python 3.11 drops a cancellation
    that comes as it ends.
    """
    task = asyncio.current_task()
    return task.cancelling() if task is not None else 0


class Line(Protocol):
    """A connection that carries one exchange at a time.

    Attributes:
        connection: redis-py's, for whoever gives it back.
    """

    connection: AbstractConnection

    async def talk(self, packed: bytes, count: int, patience: float) -> Replies:
        """Send commands and return their replies; an error that was replied stands among them.

        However it fails, or is cancelled, the connection can only be closed then.

        Args:
            packed: the commands as they go over the wire.
            count: how many.
            patience: seconds until the last reply.

        Raises:
            TimeoutError: not all replies came in time.
            OSError, RedisError: the connection broke, or what came is no reply.
        """
        ...


class OwnLine(asyncio.Protocol):
    """A connection that is ours until it is closed.

    Args:
        connection: connected, and used by nobody else from now on.
        largest: bytes that the replies of one exchange may have; 0: any number.
        lost: called when the server ends it.
    """

    def __init__(
        self,
        connection: AbstractConnection,
        largest: int = 0,
        lost: Callable[[], None] | None = None,
    ) -> None:
        self.connection = connection
        self._lost = lost
        self._largest, self._taken = largest, 0
        made = cast("Any", connection)  # redis-py names neither its stream nor its parser in public
        self._transport: asyncio.Transport = made._writer.transport  # noqa: SLF001
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=made._parser.parse_error,  # noqa: SLF001
            notEnoughData=_MORE,
        )
        self._loop = asyncio.get_running_loop()
        self._wanted = 0
        self._replies: Replies = []
        self._answered: asyncio.Future[None] | None = None
        self._ended = self._transport.is_closing()
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def here(self) -> bool:
        """Whether the event loop that runs is the one it was made in: no other hears its replies."""
        return self._loop is asyncio.get_running_loop()

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as the event loop has heard, and nothing came that nobody asked for."""
        return not (self._ended or self._replies or self._reader.has_data())

    async def talk(self, packed: bytes, count: int, patience: float) -> Replies:
        """Send commands and return their replies; see `Line`."""
        if self._ended:
            raise ConnectionResetError("the server closed the connection")
        self._wanted, self._answered = count, self._loop.create_future()
        self._taken = 0
        # No need to wait until it is written: there is no reply before that.
        self._transport.write(packed)
        deadline = self._loop.call_later(patience, self._fail, TimeoutError())
        try:
            await self._answered
        finally:
            deadline.cancel()
            self._answered = None
        # What is left over was not asked for: then nobody uses this connection again.
        replies, self._replies = self._replies[:count], self._replies[count:]
        for reply in replies:
            if isinstance(reply, RedisError) and not isinstance(reply, _REPLIED):
                raise reply
        return replies

    def abort(self) -> None:
        """Close it at once, whatever the server says to that."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read what came, and wake the exchange with its last reply."""
        if self._largest:
            self._taken += len(data)
            if self._taken > self._largest:
                self._end(InvalidResponse("more than anybody may answer here"))
                return
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets(False)) is not _MORE:
                if not isinstance(reply, hiredis.PushNotification):
                    self._replies.append(reply)
        except RedisError as error:  # no reply, and who knows where the next one begins
            self._end(error)
            return
        if self._answered is None:
            if self._replies:  # nobody asked, and nobody would read all that may follow
                self._end(InvalidResponse("a reply without a command"))
        elif len(self._replies) >= self._wanted and not self._answered.done():
            self._answered.set_result(None)

    def eof_received(self) -> None:
        """Hear that the server closed it, which `connection_lost` does not tell from our own closing."""
        if self._lost is not None:
            self._lost()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the exchange, and tell redis-py, which waits for this when it closes."""
        self._ended = True
        if exc is not None and self._lost is not None:
            self._lost()
        self._fail(exc or ConnectionResetError("the server closed the connection"))
        self._before.connection_lost(exc)

    def _end(self, error: Exception) -> None:
        self._ended = True
        self._fail(error)
        self._transport.abort()

    def _fail(self, error: Exception) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(error)


class LentLine:
    """A caller's connection, used as redis-py does.

    Args:
        connection: connected.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        self.connection = connection

    async def talk(self, packed: bytes, count: int, patience: float) -> Replies:
        """Send commands and return their replies; see `Line`."""
        connection, replies = self.connection, list[Any]()
        before = cancellations()
        async with asyncio.timeout(patience):
            await connection.send_packed_command(packed, check_health=False)
            if cancellations() > before:
                raise asyncio.CancelledError
            for _ in range(count):
                try:
                    # One error must not cost the replies behind it: whoever called disconnects.
                    replies.append(
                        await connection.read_response(
                            disable_decoding=True, disconnect_on_error=False
                        )
                    )
                except _REPLIED as error:
                    replies.append(error)
        return replies
