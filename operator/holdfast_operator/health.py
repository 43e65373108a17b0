"""The health server: `/healthz`, `/readyz` and `/metrics`, in a thread of its own.

In a thread, so that it answers on a standby and while Kopf starts and ends, and can say that the event
loop is stuck instead of being stuck with it.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Final, NamedTuple, Self

from holdfast_operator.services.ports import ClusterError

STUCK: Final = 15.0
"""Seconds after which an event loop that did not turn counts as stuck."""
_BEAT: Final = 1.0
_PATIENCE: Final = 5.0
"""Seconds for a client to send its request."""


class PortTaken(ClusterError):
    """The port of the health server cannot be had; the message is for people."""


class Verdict(NamedTuple):
    """An answer to a probe.

    Attributes:
        good: whether all is well.
        reason: a sentence.
    """

    good: bool
    reason: str


class Pulse:
    """Tells whether an event loop turns.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last = clock()

    async def beat(self) -> None:
        """Beat until cancelled; in the loop that is watched."""
        while True:
            self._last = self._clock()
            await asyncio.sleep(_BEAT)

    def verdict(self) -> Verdict:
        """Whether it beat lately; from any thread."""
        silent = self._clock() - self._last
        if silent > STUCK:
            return Verdict(False, f"the event loop has not turned for {silent:.0f} s")
        return Verdict(True, "the event loop turns")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET

    def server_bind(self) -> None:
        """Bind for both families, and ask no name server who we are."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that hangs up is no fault of ours."""


class HealthServer:
    """Answers probes and scrapes while its `with` block lasts.

    Args:
        port: on all addresses: kubelet and Prometheus come to the pod's own. 0 takes a free one.
        live: for `/healthz`: a process for which it is not good is to be restarted.
        ready: for `/readyz`: good on a leader at work, and on a standby that can take over.
        metrics: for `/metrics`: the text, in the format of Prometheus.

    Raises:
        PortTaken: on entering.
    """

    def __init__(
        self,
        port: int,
        *,
        live: Callable[[], Verdict],
        ready: Callable[[], Verdict],
        metrics: Callable[[], bytes],
    ) -> None:
        self._wanted = port
        self._pages: dict[str, Callable[[], tuple[HTTPStatus, str, bytes]]] = {
            "/healthz": lambda: _probe(live()),
            "/readyz": lambda: _probe(ready()),
            "/metrics": lambda: (HTTPStatus.OK, "text/plain; version=0.0.4", metrics()),
        }
        self._server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._wanted if self._server is None else self._server.server_port

    def __enter__(self) -> Self:
        """Begin to listen."""
        pages = self._pages

        class Handler(BaseHTTPRequestHandler):
            timeout = _PATIENCE
            server_version = "holdfast-operator"
            sys_version = ""

            def do_GET(self) -> None:
                page = pages.get(self.path.partition("?")[0])
                status, kind, body = (
                    (HTTPStatus.NOT_FOUND, "text/plain", b"not found\n") if page is None else page()
                )
                self.send_response(status)
                self.send_header("Content-Type", f"{kind}; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing: probes come every few seconds."""

        try:
            self._server = _Server(("", self._wanted), Handler)
        except OSError as error:
            raise PortTaken(
                f"The port {self._wanted} of the health server cannot be had ({error.strerror}): choose "
                "another one with --health-port, or none with --health-port=0."
            ) from error
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def _probe(verdict: Verdict) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.OK if verdict.good else HTTPStatus.SERVICE_UNAVAILABLE
    return status, "text/plain", f"{verdict.reason}\n".encode()
