"""The carrier of clients: it stops asking a server that does not answer."""

import asyncio
import time
from collections.abc import Sequence

from redis.asyncio.connection import ConnectionPool

from holdfast.breaker import PROBE, Breaker, Breakers
from holdfast.errors import AccessDenied, HoldfastError, StoreUnavailable
from holdfast.store.pool_in_use import PoolInUse, pool_in_use
from holdfast.store.redis.carrier import Broken, Command, PoolCarrier, Reply

_SILENCE = 0.9  # seconds after which a caller that gave up says something of the server


class BreakingCarrier(PoolCarrier):
    """A carrier over a redis-py connection pool, with a breaker.

    Before the first command after a pause the server is asked with a PING: no caller's write is put in
    doubt only to find out whether the server is back.

    A caller's pool without a free connection says nothing of the server, and is not held against it: neither
    the failure nor the time that was waited.

    Somebody waits for each of its answers, so the event loop is kept awake for them; see `Polling`.

    Args:
        pool: of the library's own client or of a caller's.
        owned: close the pool with the carrier.
        timeout: seconds for one exchange.
        breakers: where the server's breaker is kept while the carrier is in use.
    """

    def __init__(
        self, pool: ConnectionPool, *, owned: bool, timeout: float = 5.0, breakers: Breakers
    ) -> None:
        super().__init__(pool, owned=owned, timeout=timeout, polling=True)
        self._breakers = breakers
        self._breaker: Breaker = breakers.add(_name(pool))

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Reply]:
        """Send commands and return their replies; see `Carrier`."""
        if self._breaker.admit():
            await self._probe()
        asked = time.monotonic()
        try:
            replies = await super().exchange(commands, near=near)
        except HoldfastError as error:
            self._note(error, asked)
            raise
        except asyncio.CancelledError:
            # Callers with little patience of their own must not keep a silent server unknown. One that
            # waits for replicas is silent as long as it was told to be.
            silence = 0.0 if self._lacked_since(asked) else time.monotonic() - asked
            if silence > _SILENCE and commands[-1][0] != b"WAIT":
                self._breaker.failed("a call got no answer until it was cancelled")
            raise
        self._breaker.succeeded()
        return replies

    async def block(self, command: Command, seconds: float) -> Reply | None:
        """Send a command that blocks; see `Carrier`."""
        if self._breaker.admit():
            await self._probe()
        asked = time.monotonic()
        try:
            reply = await super().block(command, seconds)
        except HoldfastError as error:
            self._note(error, asked)
            raise
        if reply is not None:  # None may also mean that there was no connection to ask on
            self._breaker.succeeded()
        return reply

    async def retire(self) -> None:
        """Close what is idle; see `PoolCarrier.retire`."""
        self._breakers.remove(self._breaker)
        await super().retire()

    async def aclose(self) -> None:
        """Close the pool if it is the carrier's own."""
        self._breakers.remove(self._breaker)
        await super().aclose()

    def _lacked_since(self, moment: float) -> bool:
        return self._lender is not None and self._lender.lacked_since(moment)

    def _note(self, error: HoldfastError, asked: float) -> None:
        if isinstance(error, PoolInUse):
            if self._breaker.away:
                # The server was silent to the last call, as it may be to the program's own, which then hold
                # every connection: that is an outage, as far as anybody can tell.
                raise StoreUnavailable(error.message) from error
        elif isinstance(error, Broken):
            self._breaker.failed(error.message)
        elif isinstance(error, StoreUnavailable):
            if not self._lacked_since(asked):
                self._breaker.failed(error.message)
        elif isinstance(error, AccessDenied):
            self._breaker.succeeded()  # it answered

    async def _probe(self) -> None:
        """Ask the server whether it is there.

        Raises:
            StoreUnavailable: it is not. What the caller has to send was not sent.
            AccessDenied: it is, and refuses the credentials.
        """
        asked = time.monotonic()
        try:
            async with asyncio.timeout(PROBE):
                await super().exchange([(b"PING",)])
        except PoolInUse as error:
            raise self._not_asked() from error
        except (Broken, StoreUnavailable) as error:
            raise self._breaker.still_away(error.message) from error
        except TimeoutError as error:
            if self._lacked_since(asked):
                raise self._not_asked() from error
            raise self._breaker.still_away("it did not answer a PING in time") from error
        except AccessDenied:
            self._breaker.succeeded()
            raise
        except BaseException:
            if time.monotonic() - asked > _SILENCE and not self._lacked_since(asked):
                self._breaker.still_away("it did not answer a PING until the call was cancelled")
            else:
                self._breaker.left()
            raise
        self._breaker.succeeded()

    def _not_asked(self) -> StoreUnavailable:
        """There was no connection to ask on; the server was away before, so this is no `PoolInUse`."""
        self._breaker.left()
        return StoreUnavailable(pool_in_use(self._pool.max_connections).message)


def _name(pool: ConnectionPool) -> str:
    """Return which server a pool connects to: its address, without anything that tells who we are."""
    given = pool.connection_kwargs
    if "path" in given:
        return str(given["path"])
    return f"{given.get('host', 'localhost')}:{given.get('port', 6379)}"
