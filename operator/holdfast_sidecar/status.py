"""The status listener: for the kubelet and for Prometheus, who come to the pod's own address."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from holdfast.errors import HoldfastError, PolicyNotFound
from holdfast_sidecar.answers import Refusal
from holdfast_sidecar.asgi import Receive, Scope, Send

_PATIENCE: Final = 2.0
"""Seconds in which the store has to answer a probe."""
_FRESH: Final = 0.5
"""Seconds for which an answer is good for others."""

Page = Callable[[], Awaitable[tuple[int, bytes]]]


class Readiness:
    """Whether the store answers.

    Args:
        reach: asks it for something.
    """

    def __init__(self, reach: Callable[[], Awaitable[None]]) -> None:
        self._reach = reach
        self._asked = float("-inf")
        self._word = ""
        self._asking = asyncio.Lock()
        self.ending = False

    async def word(self) -> str:
        """Return nothing, or a word for what is wrong: the code of an error, never its sentence."""
        if self.ending:
            return "ShuttingDown"
        async with self._asking:
            now = asyncio.get_running_loop().time()
            if now - self._asked > _FRESH:
                self._word = await self._ask()
                self._asked = asyncio.get_running_loop().time()
            return self._word

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._reach()
        except TimeoutError:
            return "StoreUnavailable"
        except PolicyNotFound:
            return ""  # the store answered; whoever calls learns what is missing
        except Refusal as refusal:
            return refusal.problem.code
        except HoldfastError as error:
            return error.code
        return ""


class StatusApp:
    """`/healthz`, `/readyz` and `/metrics`, and nothing else.

    Args:
        readiness: for `/readyz`.
        metrics: for `/metrics`: the text, in the format of Prometheus.
    """

    def __init__(self, readiness: Readiness, metrics: Callable[[], bytes]) -> None:
        async def alive() -> tuple[int, bytes]:
            return 200, b"listening\n"  # who reads this came in after the data sockets were bound

        async def ready() -> tuple[int, bytes]:
            word = await readiness.word()
            return (503, word.encode() + b"\n") if word else (200, b"ready\n")

        async def levels() -> tuple[int, bytes]:
            return 200, metrics()

        self._pages: Mapping[str, Page] = {
            "/healthz": alive,
            "/readyz": ready,
            "/metrics": levels,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        """Answer one request."""
        page = self._pages.get(scope["path"])
        headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        if page is None:
            status, body = 404, b"not found\n"
        elif scope["method"] not in {"GET", "HEAD"}:
            status, body = 405, b"GET\n"
            headers.append((b"allow", b"GET, HEAD"))
        else:
            status, body = await page()
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
