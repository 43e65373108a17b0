"""The session in which Kopf talks to the API server: as its own would be, and every write is counted.

A write that conflicts is repeated here. Kopf repeats what the server is too busy for, and gives up a patch
that got 409: it then looks at the object no sooner than it changes again, and one that waits for its
finalizer to be removed never does.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from types import SimpleNamespace
from typing import Final

import aiohttp
import kopf

_PAUSES: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before a patch that conflicts is sent again."""
_OTHERS: Final = 50


@dataclass(frozen=True, kw_only=True)
class CountedSession(kopf.AiohttpSession):
    """A session; one made from the same credentials equals it.

    When the API server refuses a session, Kopf compares what a new login gave with what was refused.
    """

    aiohttp_session: aiohttp.ClientSession = field(compare=False, repr=False)
    credentials: kopf.ConnectionInfo = field(repr=False)


def counted_session(
    info: kopf.ConnectionInfo,
    wrote: Callable[[str], None],
    *,
    watches: int,
    middlewares: Sequence[aiohttp.ClientMiddlewareType] = (),
) -> CountedSession:
    """Return a session with these credentials.

    Args:
        info: how to reach the API server.
        wrote: called with the method of every request but a GET.
        watches: how many there will be. Each keeps a connection, and the others are few: a thousand
            objects that are created at once need no thousand handshakes.
        middlewares: see every request and its answer.
    """

    async def begun(
        _: aiohttp.ClientSession, __: SimpleNamespace, request: aiohttp.TraceRequestStartParams
    ) -> None:
        if request.method != "GET":
            wrote(request.method)

    counting = aiohttp.TraceConfig()
    counting.on_request_start.append(begun)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=watches + _OTHERS, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trust_env=info.trust_env,
        trace_configs=[counting],
        middlewares=(_repeat_conflicts, *middlewares),
    )
    return CountedSession(server=info.server, aiohttp_session=session, credentials=info)


async def _repeat_conflicts(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a patch again that conflicts. Kopf's name no version, and those that test one get 422."""
    answer = await send(request)
    for pause in _PAUSES:
        if request.method != "PATCH" or answer.status != HTTPStatus.CONFLICT:
            break
        answer.release()
        await asyncio.sleep(pause)
        answer = await send(request)
    if request.method == "PATCH":
        # Kopf reads it when it repeats nothing any more.
        try:
            await answer.read()
        except aiohttp.ClientPayloadError as error:
            raise aiohttp.ClientConnectionError("the connection broke in the answer") from error
    return answer
