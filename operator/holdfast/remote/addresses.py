"""Where a sidecar listens, as a URL says it."""

import re
from typing import NamedTuple
from urllib.parse import unquote

from holdfast.errors import ConfigurationError

_URL = re.compile(r"(http(?:\+unix)?)://([^/?#]*)([^?#]*)(.*)", re.DOTALL)
_LOOPBACK = re.compile(r"(localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::([0-9]{1,5}))?")
_PORT = 7070


class SidecarAddress(NamedTuple):
    """Where a sidecar listens.

    Attributes:
        base: what its paths are appended to.
        socket: path of its Unix socket; None where it is reached by TCP.
        name: for people.
    """

    base: str
    socket: str | None
    name: str


def read_sidecar_address(url: str) -> SidecarAddress:
    """Read `http+unix:///path/of/socket` or `http://127.0.0.1:7070`.

    Raises:
        ConfigurationError: it cannot be used. Of what it holds nothing is shown.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _unreadable()
    scheme, place, path, rest = parts.groups()
    if rest:
        raise ConfigurationError(
            "the address of a sidecar has no options: what holds for its memories is set there"
        )
    if scheme == "http+unix":
        if place or path in ("", "/"):
            raise _unreadable()
        socket = unquote(path)
        return SidecarAddress("http://localhost", socket, socket)
    host = _LOOPBACK.fullmatch(place)
    if host is None:
        raise ConfigurationError(
            "a sidecar is reached on this machine only, as http://127.0.0.1:7070 or by its socket, "
            "http+unix:///path: whoever can reach it may use its memories"
        )
    port = int(host[2] or _PORT)
    if path not in ("", "/"):
        raise ConfigurationError(
            "the address of a sidecar ends with its port: leave out the path behind it, such as /v1/memories"
        )
    if not 0 < port < 65536:
        raise _unreadable()
    return SidecarAddress(f"http://{host[1]}:{port}", None, f"{host[1]}:{port}")


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "the address of the sidecar cannot be read: write it as http+unix:///path/of/socket, with three "
        "slashes, or as http://127.0.0.1:7070"
    )
