"""The sockets that a sidecar listens on: bound before anything is loaded, so that probes find them."""

import contextlib
import socket
import stat
from pathlib import Path
from typing import Final

from holdfast.errors import ConfigurationError
from holdfast_sidecar.options import Listen

_MODE: Final = 0o666
"""Whoever can get at the directory may connect: the containers of a pod run as different users."""
_FILES: Final = 65536
"""Open files that are asked for, as far as the system allows."""


def listen_on_path(path: Path) -> socket.socket:
    """Bind a Unix socket. One that nobody listens on any more is replaced.

    Raises:
        ConfigurationError: somebody listens there, something else is there, or it cannot be made.
    """
    found = None
    try:
        _remove_dead(path)
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        found.bind(str(path))
        path.chmod(_MODE)
    except OSError as error:
        if found is not None:
            found.close()
        raise _impossible(str(path), error) from None
    found.setblocking(False)
    return found


def listen_on_port(where: Listen) -> socket.socket:
    """Bind a TCP socket; port 0 takes a free one.

    Raises:
        ConfigurationError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((where.host, where.port))
    except OSError as error:
        found.close()
        raise _impossible(f"{where.host}:{where.port}", error) from None
    found.setblocking(False)
    return found


def allow_many_files() -> None:
    """Raise the number of open files that this process may have: each connection is one."""
    try:
        import resource  # noqa: PLC0415 - not on every system
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _remove_dead(path: Path) -> None:
    if not path.exists():
        return
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigurationError(f"{path} is there and is no socket: choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise ConfigurationError(f"somebody listens on {path} already")


def _impossible(what: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{what} cannot be listened on: {error.strerror or error}")
