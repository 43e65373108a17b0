"""Connection pools: retries off, and TLS that checks who answers."""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import (
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import ConnectionError as RedisConnectionError

from holdfast.store.addresses import Login, Node, Tls

_CLOSED = (ConnectionResetError, BrokenPipeError, asyncio.IncompleteReadError)
CONNECTIONS = 128
"""Connections to one server: more than its carrier uses at a time."""


def make_pool(
    place: Node | str,
    *,
    login: Login,
    tls: Tls | None,
    timeout: float,
    database: int = 0,
    connections: int = CONNECTIONS,
    on_connect: Callable[..., Any] | None = None,
) -> ConnectionPool:
    """Make a pool of connections that repeats nothing by itself. No I/O yet.

    Args:
        place: host and port, or the path of a Unix socket.
        login: who we are.
        tls: how the server is checked; None: no TLS.
        timeout: seconds for a connection.
        database: its number.
        connections: how many at most.
        on_connect: prepares a new connection instead of redis-py's own `on_connect`.
    """
    if isinstance(place, str):
        where: dict[str, Any] = {"path": place, "connection_class": UnixDomainSocketConnection}
    else:
        where = {"host": place[0], "port": place[1], "connection_class": Connection}
        if tls is not None:
            where |= {"connection_class": TlsConnection, "tls": tls}
    if login.source is not None:
        where |= {"credential_provider": _Renewed(login.source)}
    else:
        where |= {"username": login.username, "password": login.password}
    return ConnectionPool(
        **where,
        db=database,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
        socket_connect_timeout=timeout,
        socket_timeout=None,
        max_connections=connections,
        redis_connect_func=on_connect,
        **_driver(),
    )


@cache
def _driver() -> Mapping[str, Any]:
    """Return what connections say of who drives them, as they would themselves.

    redis-py 7.2 and newer reads its package's metadata for each connection, as long as connecting takes.
    """
    try:
        from redis.driver_info import DriverInfo  # noqa: PLC0415 - 7.1 has none, and needs none
    except ImportError:
        return {}
    return {"driver_info": DriverInfo()}


class _Renewed(CredentialProvider):
    """Says who we are with every new connection: the files that say it are renewed."""

    def __init__(self, source: Callable[[], tuple[str | None, str | None]]) -> None:
        self._source = source

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            username, password = self._source()
        except (OSError, UnicodeDecodeError) as error:
            # An error of redis-py's own: it closes the connection, which nobody logged in on.
            raise RedisConnectionError("the files that say who we are cannot be read") from error
        return (username or "default", password or "")

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class TlsConnection(SSLConnection):
    """A connection with TLS as `Tls` says. A new one reads the files again: they are renewed."""

    def __init__(self, *, tls: Tls, **arguments: Any) -> None:
        super().__init__(**arguments)  # pyright: ignore[reportUnknownMemberType]
        self._tls = tls

    async def connect(self) -> None:
        """Read the files and connect."""
        if not self.is_connected:
            try:
                self.ssl_context.context = _Context.make(self._tls)
            except (OSError, ValueError) as error:
                raise ssl.SSLError("a file for TLS cannot be used") from error
        try:
            await super().connect()
        except RedisConnectionError as error:
            # A server that wants to know who we are says so, and resets the connection: what it said may
            # be lost with it. The same fault must not be another one each time.
            if isinstance(error.__cause__ or error.__context__, _CLOSED):
                raise ssl.SSLError("closed while TLS was agreed on") from error
            raise


class _Context(ssl.SSLContext):
    """A context that checks for one given name, whatever the host is."""

    server_name: str | None = None

    @classmethod
    def make(cls, tls: Tls) -> Self:
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.server_name = tls.server_name
        if tls.authority is None and tls.ca is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(cafile=tls.ca, cadata=tls.authority)
        if tls.pair is not None:
            _load_pair(context, tls.pair)
        elif tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key, password=_no_password)
        return context

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        if self.server_name is not None:
            options["server_hostname"] = self.server_name
        return super().wrap_bio(*arguments, **options)


def check_tls(tls: Tls) -> None:
    """Read what TLS needs, as each connection will.

    Raises:
        ValueError: something cannot be read, or a key is not its certificate's; which it is, is not said.
    """
    try:
        _Context.make(tls)
    except (OSError, ValueError) as error:  # OSError: also what ssl raises
        raise ValueError("the certificates cannot be used") from error


def _load_pair(context: ssl.SSLContext, pair: bytes) -> None:
    """Load what ssl takes from a file only. The file is nobody else's, and gone when it was read."""
    with TemporaryDirectory(prefix="holdfast-") as directory:
        file = Path(directory) / "pair.pem"
        file.touch(mode=0o600)
        file.write_bytes(pair)
        context.load_cert_chain(file, password=_no_password)


def _no_password() -> str:
    """Answer for an encrypted key: otherwise ssl would ask on the terminal, and wait."""
    return ""
