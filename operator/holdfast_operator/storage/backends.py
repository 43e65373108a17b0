"""The connections to the servers of backends: one set for each, replaced with what it was made from."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from redis.exceptions import AuthenticationError

from holdfast.errors import AccessDenied, HoldfastError
from holdfast.store.addresses import Address
from holdfast.store.maintenance import Maintenance
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.store.redis.pools import check_tls
from holdfast_operator.services.ports import UnusableCertificates

TIMEOUT: Final = 2.0
"""Seconds for a connection, for one exchange, and for repeating what wrote nothing."""


@dataclass(frozen=True, slots=True)
class _Open:
    generation: int
    version: str
    hands: Maintenance


class ConnectionPool:
    """Connections by the uid of their backend.

    Args:
        lost: called with that uid when a server ended one of them; None: nobody need know.
    """

    def __init__(self, lost: Callable[[str], None] | None = None) -> None:
        self._open: dict[str, _Open] = {}
        self._lost = lost

    def current(self, backend: str, generation: int) -> Maintenance | None:
        """Return the open connection to a backend, if it was made for this generation."""
        found = self._open.get(backend)
        return found.hands if found is not None and found.generation == generation else None

    async def open(
        self, backend: str, generation: int, version: str, address: Address, prefix: str
    ) -> Maintenance:
        """Return a connection made from exactly this; one made from something else is closed."""
        found = self._open.get(backend)
        if found is not None and (found.generation, found.version) == (generation, version):
            return found.hands
        if address.tls is not None:
            try:
                check_tls(address.tls)
            except ValueError as error:
                raise UnusableCertificates from error
        lost = None if self._lost is None else partial(self._lost, backend)
        hands = RedisMaintenance.over(address, prefix=prefix, timeout=TIMEOUT, lost=lost)
        # In place before the old one is closed: whoever asks meanwhile gets this one.
        self._open[backend] = _Open(generation, version, hands)
        if found is not None:
            await found.hands.aclose()
        return hands

    async def close(self, backend: str) -> None:
        """Close the connection to a backend, if there is one."""
        found = self._open.pop(backend, None)
        if found is not None:
            await found.hands.aclose()

    def refused_login(self, error: AccessDenied) -> bool:
        """Whether the server refused the credentials themselves, and not just a command."""
        return isinstance(error.__cause__, AuthenticationError)

    def failed_tls(self, error: HoldfastError) -> bool:
        """Whether a server was there, and TLS with it could not be agreed on."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLError):
                return True
            cause = cause.__cause__ or cause.__context__
        return False

    async def aclose(self) -> None:
        """Close all connections."""
        for backend in list(self._open):
            await self.close(backend)
