"""The session in which Kopf talks to the API server: as its own would be, and every write is counted."""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp
import kopf


@dataclass(frozen=True, kw_only=True)
class CountedSession(kopf.AiohttpSession):
    """A session; one made from the same credentials equals it.

    When the API server refuses a session, Kopf compares what a new login gave with what was refused.
    """

    aiohttp_session: aiohttp.ClientSession = field(compare=False, repr=False)
    credentials: kopf.ConnectionInfo = field(repr=False)


def counted_session(info: kopf.ConnectionInfo, wrote: Callable[[str], None]) -> CountedSession:
    """Return a session with these credentials.

    Args:
        info: how to reach the API server.
        wrote: called with the method of every request but a GET.
    """

    async def begun(
        _: aiohttp.ClientSession, __: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        if request.method != "GET":
            wrote(request.method)

    counting = aiohttp.TraceConfig()
    counting.on_request_start.append(begun)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trust_env=info.trust_env,
        trace_configs=[counting],
    )
    return CountedSession(server=info.server, aiohttp_session=session, credentials=info)
