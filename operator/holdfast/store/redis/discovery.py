"""Users of Sentinels that ask for a password: each may ask where the primary is, and nothing else.

The operator's own login to the Sentinels could make them fail over, so it is handed to nobody. A user
that has memories is known to every Sentinel under the same name and the same passwords: one rotation
and one revocation reach both.
"""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Final

from holdfast.store.access import Access, AccessUser, Grant
from holdfast.store.addresses import Address, Login, Mode
from holdfast.store.redis.access import RedisAccess
from holdfast.store.redis.carrier import Carrier, Command, Reply
from holdfast.store.redis.connecting import make_carrier

_QUESTIONS: Final = ("get-master-addr-by-name", "replicas", "sentinels")
_ALLOWED: Final = (
    "resetchannels",
    "-@all",
    "+ping",
    *(f"+sentinel|{question}" for question in _QUESTIONS),
)
_DATABASE: Final = "db="


class WithSentinels:
    """Users of a backend's servers, and of the Sentinels in front of them.

    A Sentinel forgets its users with a restart, as a server does, and is told again with the next call.

    Args:
        servers: the hands on the users of the servers.
        address: of the Sentinels, with the operator's login to them.
        timeout: seconds for a connection, and for an exchange.
    """

    def __init__(self, servers: Access, address: Address, *, timeout: float) -> None:
        self._servers = servers
        self._timeout = timeout
        self._sentinels = [
            replace(
                address,
                mode=Mode.STANDALONE,
                nodes=(node,),
                login=address.sentinel_login,
                database=0,
            )
            for node in address.nodes
        ]

    async def put(self, user: AccessUser) -> bool:
        """Make the user, on the Sentinels first: nobody learns of it before; see `Access.put`."""
        async with self._asked() as sentinels:
            changed = await sentinels.put(user)
        return await self._servers.put(user) or changed

    async def revoke(self, name: str) -> None:
        """Remove the user, on the servers first; see `Access.revoke`."""
        await self._servers.revoke(name)
        async with self._asked() as sentinels:
            await sentinels.revoke(name)

    async def users(self, start: str) -> frozenset[str]:
        """Return the names, on any server or Sentinel; see `Access.users`."""
        async with self._asked() as sentinels:
            return await sentinels.users(start) | await self._servers.users(start)

    async def probe(self, login: Login, grants: Sequence[Grant]) -> tuple[str, ...]:
        """Try a user that somebody else made on the servers; see `Access.probe`."""
        return await self._servers.probe(login, grants)

    def required(self, grants: Sequence[Grant]) -> str:
        """Return the rule for the servers; see `Access.required`."""
        return self._servers.required(grants)

    @contextlib.asynccontextmanager
    async def _asked(self) -> AsyncGenerator[RedisAccess]:
        """Give the hands on the users of the Sentinels, over connections that end with the block."""
        sentinels = _Each(
            [
                make_carrier(address, timeout=self._timeout, connections=1)
                for address in self._sentinels
            ]
        )
        try:
            yield _Asking(sentinels, connect=_nobody)
        finally:
            await sentinels.aclose()


class _Asking(RedisAccess):
    """Hands on users that may only ask where the primary is, whatever they may do on the servers."""

    def _rules(self, user: AccessUser, extra: Sequence[str]) -> tuple[str, ...]:
        hashes = (f"#{each}" for each in user.passwords)
        # A Sentinel has no databases, and newer ones say that it is all of them.
        known = ("alldbs" if part.startswith(_DATABASE) else part for part in extra)
        return ("reset", "on", *hashes, *_ALLOWED, *known)


class _Each:
    """Several servers that know nothing of each other."""

    def __init__(self, carriers: Sequence[Carrier]) -> None:
        self._carriers = carriers

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Reply]:
        """Send commands to the first; see `Carrier`."""
        return await self._carriers[0].exchange(commands, near=near)

    async def block(self, command: Command, seconds: float) -> Reply | None:
        """Send a command that blocks to the first; see `Carrier`."""
        return await self._carriers[0].block(command, seconds)

    async def nodes(self) -> Sequence[Carrier]:
        """Return all of them; see `Carrier`."""
        return self._carriers

    async def primaries(self) -> Sequence[Carrier]:
        """Return all of them; see `Carrier`."""
        return self._carriers

    async def aclose(self) -> None:
        """Close all connections."""
        for carrier in self._carriers:
            await carrier.aclose()


def _nobody(login: Login) -> Carrier:
    raise AssertionError(f"nobody is tried at a Sentinel: {login}")
