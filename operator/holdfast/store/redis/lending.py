"""Connections of a caller's pool: borrowed for an exchange, waited for while all are in use."""

import asyncio
import time
from typing import Final

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError

from holdfast.store.pool_in_use import pool_in_use
from holdfast.store.redis.lines import cancellations

_PAUSE: Final = 0.01  # seconds between two looks at a pool that does not wait by itself


class Lender:
    """Borrows connections of one pool.

    Args:
        pool: a caller's. One that makes its users wait does so here as well, and keeps their order.
        patience: seconds for waiting and connecting together.
    """

    def __init__(self, pool: ConnectionPool, patience: float) -> None:
        self._pool = pool
        self._patience = patience
        self._lacking = 0  # who came when none was free, and still wait
        self._lacked = float("-inf")  # monotonic time

    @property
    def free(self) -> bool:
        """Whether the pool has a connection for somebody who comes now."""
        return self._pool.can_get_connection()

    def lacked_since(self, moment: float) -> bool:
        """Whether anybody had to wait since then, in monotonic seconds: that took time, not the server."""
        return self._lacking > 0 or self._lacked >= moment

    async def take(self) -> AbstractConnection:
        """Return a connection, which goes back by the pool's `release`.

        Raises:
            PoolInUse: the program used all of them for the whole patience.
            TimeoutError, RedisError, OSError: the server cannot be connected to.
        """
        lacking = not self.free
        self._lacking += lacking
        before = cancellations()
        try:
            async with asyncio.timeout(self._patience):
                connection = await self._take()
                if cancellations() > before:
                    await self._pool.release(connection)
                    raise asyncio.CancelledError
                return connection
        except TimeoutError as error:
            if self.free:  # then it had one, and was connecting
                raise
            raise pool_in_use(self._pool.max_connections) from error
        finally:
            if lacking:
                self._lacking -= 1
                self._lacked = time.monotonic()

    async def _take(self) -> AbstractConnection:
        while True:
            try:
                return await self._pool.get_connection()
            except RedisConnectionError as error:
                # Of the server, but for that error and what a pool says that waits less long than we do.
                if self.free and not isinstance(error, MaxConnectionsError):
                    raise
            self._lacked = time.monotonic()
            await asyncio.sleep(_PAUSE)
