"""HTTP connections to one sidecar, by aiohttp, which must neither send anything twice nor by a detour."""

import select
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from holdfast._version import __version__
from holdfast.remote.addresses import SidecarAddress

if TYPE_CHECKING:
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

MOST_CONNECTIONS: Final = 64
"""For calls. Each turn that is open, or waited for, has one more of its own."""
CONNECT: Final = 5.0
"""Seconds in which a connection is made."""
QUEUE: Final = 30.0
"""Seconds that a call waits for a connection, at most, while all are in use."""
ANSWER: Final = 60.0
"""Seconds that an answer may be silent; the sidecar itself gives up earlier."""
MODEL: Final = 900.0
"""The same where a model may have to write a summary first, or many sessions are walked through."""
IDLE: Final = 60.0
"""Seconds after which a connection that nobody uses is closed."""


class LostConnection(Exception):
    """The connection broke after something was sent: the call may or may not have been carried out."""


class _Fresh(aiohttp.BaseConnector):
    """Hands out no connection that the server has closed while nobody used it.

    What is sent on such a one is lost, and nobody could say whether the server had read it.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: "list[Trace]",
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - of aiohttp
    ) -> "Connection":
        """Return a connection from the pool, or a new one."""
        while True:
            connection = await super().connect(req, traces=traces, timeout=timeout)
            if not _is_over(connection):
                return connection
            connection.close()


class _UnixConnector(_Fresh, aiohttp.UnixConnector):
    """To a Unix socket."""


class _TCPConnector(_Fresh, aiohttp.TCPConnector):
    """To a port of this machine."""


def _is_over(connection: "Connection") -> bool:
    """Whether something came in before anything was asked: the end, or what nobody can use."""
    transport = connection.transport
    socket = transport.get_extra_info("socket") if transport is not None else None
    if socket is None:
        return True
    poll = select.poll()
    poll.register(socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request once: aiohttp would send what looks repeatable to it again by itself."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise LostConnection(f"the answer was lost ({type(error).__name__})") from error


def open_session(address: SidecarAddress, *, limit: int) -> aiohttp.ClientSession:
    """Return a session of aiohttp for one sidecar; in the loop that is going to use it.

    Args:
        address: where it listens.
        limit: connections at once; 0 for any number, none of which is used twice.
    """
    options: dict[str, Any] = {"limit": limit}
    if limit:
        options["keepalive_timeout"] = IDLE
    else:
        options["force_close"] = True
    connector = (
        _UnixConnector(address.socket, **options)
        if address.socket is not None
        else _TCPConnector(**options)
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": f"holdfast/{__version__}"},
        skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type"),
        auto_decompress=False,
        trust_env=False,  # a proxy has no way to this machine's own addresses
        middlewares=(_once,),
    )
