"""What an address says: which servers, how they are found, who we are, and how TLS is checked."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias
from urllib.parse import parse_qs, unquote

from holdfast.errors import ConfigurationError
from holdfast.store.refusals import unreadable_address

Node: TypeAlias = tuple[str, int]
"""Host and port of a server."""

OPTIONS: Final = ("ca", "cert", "key", "server-name", "sentinel-username", "sentinel-password")
"""Options of a URL that say how to connect."""

_URL = re.compile(r"([a-z+]+)://([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_DATABASE = re.compile(r"/?|/([0-9]{1,9})/?")
_PRIMARY = re.compile(r"/([^/]+)(?:/([0-9]{1,9}))?/?")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([-_.%A-Za-z0-9]+))(?::([0-9]{1,5}))?")
_OF_TLS = ("ca", "cert", "key", "server-name")
_OF_SENTINEL = ("sentinel-username", "sentinel-password")


class Mode(StrEnum):
    """How the servers of an address belong together."""

    STANDALONE = ""
    SENTINEL = "+sentinel"
    CLUSTER = "+cluster"


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are to a server. None: nobody in particular.

    Attributes:
        username: our name.
        password: its password.
        source: asked for both with every new connection, where they are renewed while we run.
    """

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    source: Callable[[], tuple[str | None, str | None]] | None = field(
        default=None, repr=False, compare=False
    )


@dataclass(frozen=True, slots=True)
class Tls:
    """How a server's certificate is checked, and which is ours, from files or as they are.

    Files are read at each connection.

    Attributes:
        ca: PEM file of the authority that alone is trusted; None: those of the system.
        cert: PEM file of our own certificate, for servers that ask for one.
        key: PEM file of its private key.
        server_name: what the certificate must name; None: the host we connect to.
        authority: in place of `ca`, certificates in PEM form.
        pair: in place of `cert` and `key`, both in PEM form.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None
    authority: str | None = field(default=None, repr=False)
    pair: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Where the servers are.

    Attributes:
        mode: whether they are one, watched by Sentinel, or a Cluster.
        nodes: of the server, of the sentinels, or of some nodes of the Cluster; empty for a socket.
        socket: path of a Unix socket.
        login: to the servers.
        database: its number; 0 in a Cluster.
        tls: None without it.
        primary: what the sentinels call it.
        sentinel_login: to the sentinels.
    """

    mode: Mode
    nodes: tuple[Node, ...] = ()
    socket: str | None = None
    login: Login = Login()
    database: int = 0
    tls: Tls | None = None
    primary: str = ""
    sentinel_login: Login = Login()


def read_address(url: str) -> Address:
    """Read a URL.

    Args:
        url: `redis://[user:password@]host[:port][/database]`; `rediss://` with TLS; `unix:///path`;
            `redis+cluster://[user:password@]host:port,host:port`, and
            `redis+sentinel://[user:password@]host:port,host:port/name[/database]` with the addresses
            of the sentinels and the name of the primary; the last two with `rediss+` for TLS. Options
            are those of `OPTIONS`; others belong to other readers.

    Raises:
        ConfigurationError: it cannot be used. Of what it holds nothing is shown.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _foreign(url)
    scheme, place, path, query = parts[1], parts[2], parts[3], parts[4] or ""
    options = {name: values[-1] for name, values in parse_qs(query).items() if name in OPTIONS}
    if scheme == "unix":
        return _socket(place, path, options)
    secure, mode = scheme.startswith("rediss"), _mode(scheme)
    account, at, hosts = place.rpartition("@")
    _require(options, _OF_TLS, secure, "rediss://")
    _require(options, _OF_SENTINEL, mode is Mode.SENTINEL, "redis+sentinel://")
    primary, database = _path(path, mode)
    return Address(
        mode=mode,
        nodes=read_nodes(
            hosts, 26379 if mode is Mode.SENTINEL else 6379, several=mode is not Mode.STANDALONE
        ),
        login=_login(account) if at else Login(),
        database=database,
        tls=_tls(options) if secure else None,
        primary=primary,
        sentinel_login=Login(options.get("sentinel-username"), options.get("sentinel-password")),
    )


def _mode(scheme: str) -> Mode:
    for mode in Mode:
        if scheme in (f"redis{mode}", f"rediss{mode}"):
            return mode
    raise _no_server(scheme)


def _no_server(scheme: str) -> ConfigurationError:
    return ConfigurationError(f"{scheme}:// is no address of a Redis server: use redis://")


def _foreign(url: str) -> ConfigurationError:
    """Say what is wrong with what is no URL at all."""
    scheme, colon, _ = url.partition(":")
    if "@" in url or not re.fullmatch("[-+.A-Za-z0-9]*", scheme):
        scheme = ""
    return _no_server(scheme if colon else "")


def _socket(place: str, path: str, options: dict[str, str]) -> Address:
    account, at, host = place.rpartition("@")
    if host or not path:
        raise unreadable_address()
    _require(options, OPTIONS, False, "rediss://")
    return Address(Mode.STANDALONE, socket=unquote(path), login=_login(account) if at else Login())


def _path(path: str, mode: Mode) -> tuple[str, int]:
    """Return the primary's name and the database's number."""
    if mode is Mode.SENTINEL:
        named = _PRIMARY.fullmatch(path)
        if named is None:
            raise ConfigurationError(
                "the address names no primary: write it as redis+sentinel://host:port,host:port/name, "
                "with the addresses of the sentinels and the name they give the primary"
            )
        return unquote(named[1]), int(named[2] or 0)
    found = _DATABASE.fullmatch(path)
    if found is None:
        raise unreadable_address()
    database = int(found[1] or 0)
    if database and mode is Mode.CLUSTER:
        raise ConfigurationError("a Cluster has one database only: leave its number out")
    return "", database


def read_nodes(hosts: str, port: int, *, several: bool = True) -> tuple[Node, ...]:
    """Read hosts with their ports, separated by commas.

    Args:
        hosts: such as `redis-0.redis:6379,redis-1.redis:6379`.
        port: of those that name none.
        several: there may be more than one.

    Raises:
        ConfigurationError: they cannot be read.
    """
    found: list[Node] = []
    for each in hosts.split(",") if several else [hosts or "localhost"]:
        match = _HOST.fullmatch(each)
        if match is None or not 0 < int(match[3] or port) < 65536:
            raise unreadable_address()
        found.append((match[1] or unquote(match[2]), int(match[3] or port)))
    return tuple(found)


def _login(account: str) -> Login:
    username, _, password = account.partition(":")
    if "@" in account or "[" in account:
        raise unreadable_address()
    return Login(unquote(username) or None, unquote(password) or None)


def _tls(options: dict[str, str]) -> Tls:
    cert, key = options.get("cert"), options.get("key")
    if key and not cert:
        raise ConfigurationError("the url has the option 'key' without 'cert': give both files")
    return Tls(options.get("ca"), cert, key, options.get("server-name"))


def _require(options: dict[str, str], names: tuple[str, ...], allowed: bool, scheme: str) -> None:
    for name in names:
        if name in options and not allowed:
            raise ConfigurationError(f"the option {name!r} of the url is for {scheme} only")
