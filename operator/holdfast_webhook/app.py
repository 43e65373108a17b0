"""What the webhook answers over HTTP: pods to the API server, and its state to kubelet and Prometheus."""

import logging
import time
from collections.abc import Callable
from typing import Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from holdfast_webhook.metrics import WebhookMetrics
from holdfast_webhook.reviews import NoReview, Verdict, answer
from holdfast_webhook.settings import Settings

_log: Final = logging.getLogger("holdfast.webhook")

PATH: Final = "/mutate-pods"
LARGEST: Final = 8 << 20
"""Bytes of a question. The API server takes no object of more than 3 MiB."""
_JSON: Final = "application/json"


class TooLarge(Exception):
    """A body is over the limit."""


def injecting(
    settings: Callable[[], Settings],
    metrics: WebhookMetrics,
    clock: Callable[[], float] = time.perf_counter,
) -> Starlette:
    """Return what answers the API server.

    Args:
        settings: as they are now.
        metrics: told of every answer.
        clock: monotonic seconds.
    """

    async def mutate(request: Request) -> Response:
        try:
            body = await _body(request)
            began = clock()
            found = answer(body, settings())
        except TooLarge:
            metrics.malformed()
            return PlainTextResponse("the question is too large\n", 413, {"Connection": "close"})
        except ClientDisconnect:
            return Response(status_code=400)
        except NoReview as error:
            metrics.malformed()
            return PlainTextResponse(f"{error}\n", 400)
        metrics.reviewed(found.verdict, clock() - began)
        if found.verdict is Verdict.REFUSED:
            _log.info("The pod %s is refused: %s", found.subject, found.sentence)
        elif found.verdict is Verdict.INJECTED:
            _log.debug("The pod %s gets the sidecar.", found.subject)
        return Response(found.body, media_type=_JSON)

    return Starlette(routes=[Route(PATH, mutate, methods=["POST"])])


def status(
    ready: Callable[[], str],
    metrics: WebhookMetrics,
) -> Starlette:
    """Return what answers kubelet and Prometheus.

    Args:
        ready: why pods cannot be answered now; empty when they can.
        metrics: for `/metrics`.
    """

    async def healthz(_: Request) -> Response:
        return PlainTextResponse("it answers\n")

    async def readyz(_: Request) -> Response:
        fault = ready()
        return PlainTextResponse(f"{fault or 'ready'}\n", 503 if fault else 200)

    async def page(_: Request) -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", page)]
    )


async def _body(request: Request) -> bytes:
    """Read the body, no further than the limit."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST:
            raise TooLarge
        parts.append(part)
    return b"".join(parts)
