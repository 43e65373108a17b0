"""An API server that refuses: answers 409, 429 and 5xx at a seeded rate instead of the real one's."""

import random
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp import web

CODES: Final = (409, 429, 500, 503, 504)
_AMBIGUOUS: Final = frozenset({500, 504})
"""What may come after the request was carried out."""


@dataclass(frozen=True, slots=True)
class Instead:
    """What a request gets in the place of its answer.

    Attributes:
        url: where that answer is.
        executed: the request is carried out, and its own answer lost.
    """

    url: str
    executed: bool

    async def answer(self) -> aiohttp.ClientResponse:
        """Fetch the answer."""
        async with aiohttp.ClientSession() as session:
            found = await session.get(self.url)
            await found.read()
            return found


class Refusals:
    """Chooses which requests are refused.

    Args:
        base: the URL of a `RefusingServer`.
        rate: of the requests, 0 to 1.
        seed: of what is random.
    """

    def __init__(self, base: str, rate: float, seed: int) -> None:
        self._base = base
        self._rate = rate
        self._random = random.Random(seed)

    def instead_of(self, method: str) -> Instead | None:
        """Return what to answer; None: the request goes its way."""
        if self._random.random() >= self._rate:
            return None
        code = self._random.choice(CODES)
        if code == HTTPStatus.CONFLICT and method == "POST":  # what is created is in nobody's way
            code = 429
        executed = code in _AMBIGUOUS and self._random.random() < 0.5
        return Instead(f"{self._base}/{code}", executed)


class RefusingServer:
    """Answers `/<code>` with that code, as the API server words it, in its `async with` block."""

    def __init__(self) -> None:
        self.url = ""
        self.refused = 0
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        app = web.Application()
        app.router.add_get("/{code}", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        [(_, port)] = self._runner.addresses
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        self.refused += 1
        code = int(request.match_info["code"])
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": "refused by the tests",
            "reason": HTTPStatus(code).phrase.replace(" ", ""),
            "code": code,
        }
        headers = {"Retry-After": "1"} if code in {429, 503} else {}
        return web.json_response(status, status=code, headers=headers)
