"""The webhook's process: two listeners, files that are read again, and an orderly end."""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from holdfast_webhook.app import injecting, status
from holdfast_webhook.connections import Connection
from holdfast_webhook.files import (
    Reread,
    certificate_of,
    certificate_paths,
    following,
    settings_of,
)
from holdfast_webhook.metrics import WebhookMetrics
from holdfast_webhook.settings import Settings, load_settings

_log: Final = logging.getLogger("holdfast.webhook")

_IDLE: Final = 120
"""Seconds that a connection may idle: longer than the API server keeps one (90 s), so that it is the API
server that closes it, and never sends a question into a connection that we close at that moment."""
_BACKLOG: Final = 1024
_LOOK: Final = 2.0
"""Seconds between looks at the files."""
_FINISH: Final = 10
"""Seconds for answers under way at the end."""


class NoPort(Exception):
    """A listener has no port; the message is for people."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host, empty for all addresses, and a port, 0 for a free one."""

    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> "Address":
        """Read `HOST:PORT`, `[HOST]:PORT` or `:PORT`.

        Raises:
            ValueError: it is none.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError("an address is written HOST:PORT, or :PORT for all addresses")
        return cls(host.removeprefix("[").removesuffix("]"), int(port))


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment say.

    Attributes:
        listen: where the API server asks.
        status: where kubelet and Prometheus ask.
        certificates: folder with `tls.crt` and `tls.key`.
        settings: the file of settings.
        linger: seconds after SIGTERM for which it goes on, so that nobody is sent here any more.
        json_logs: whether logs are JSON lines.
    """

    listen: Address
    status: Address
    certificates: Path
    settings: Path
    linger: float = 5.0
    json_logs: bool = False


async def serve(options: Options) -> None:
    """Serve until told to end.

    Raises:
        SettingsUnusable: there are no usable settings at the start.
        NoPort: an address cannot be listened on.
    """
    started = load_settings(options.settings)
    metrics, stop = WebhookMetrics(), asyncio.Event()
    settings = Reread("settings", lambda: (options.settings,), settings_of, metrics.usable)
    certificate = Reread(
        "certificate", certificate_paths(options.certificates), certificate_of, metrics.usable
    )
    settings.look()
    certificate.look()

    def current() -> Settings:
        return settings.value or started

    def ready() -> str:
        shown = certificate.value
        if stop.is_set():
            return "the webhook ends"
        if shown is None:
            return f"there is no certificate yet: {certificate.fault}"
        return "the certificate has ended" if shown.ends <= time.time() else ""

    with _signals(stop), contextlib.ExitStack() as stack:
        secure = following(lambda: certificate.value)
        servers = [
            _Listening(
                stack, options.listen, injecting(current, metrics, ending=stop.is_set), secure
            ),
            _Listening(stack, options.status, status(ready, metrics), None),
        ]
        _log.info("The webhook listens on %s; its status on %s.", *servers)
        answering = [asyncio.create_task(each.run()) for each in servers]
        while not stop.is_set() and not any(each.done() for each in answering):
            for files in (settings, certificate):
                files.look()
            if certificate.value is not None:
                metrics.serves_until(certificate.value.ends)
            await _either(stop, _LOOK)
        _log.info("The webhook ends.")
        await asyncio.sleep(options.linger)
        for each in servers:
            each.end()
        await asyncio.gather(*answering)
    _log.info("The webhook has ended.")


class _Server(uvicorn.Server):
    """One of several in a process, none of which has the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


class _Listening:
    """A server with its socket, bound at once so that a port that is taken is said at the start."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        address: Address,
        app: ASGIApp,
        secure: ssl.SSLContext | None,
    ) -> None:
        self._socket = stack.enter_context(_bound(address))

        def context(
            _config: uvicorn.Config, _default: Callable[[], ssl.SSLContext]
        ) -> ssl.SSLContext:
            assert secure is not None, "asked for only then"
            return secure

        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_IDLE,
            timeout_graceful_shutdown=_FINISH,
            ssl_context_factory=None if secure is None else context,
        )
        self._server = _Server(config)

    def __str__(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def run(self) -> None:
        """Answer until told to end."""
        await self._server.serve(sockets=[self._socket])

    def end(self) -> None:
        """Finish what is under way, and end."""
        self._server.should_exit = True


def _bound(address: Address) -> socket.socket:
    try:
        if not address.host and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("", address.port),
                family=socket.AF_INET6,
                dualstack_ipv6=True,
                backlog=_BACKLOG,
            )
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise NoPort(
            f"The webhook cannot listen on {address.host}:{address.port}: {error.strerror}."
        ) from error


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Generator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _either(stop: asyncio.Event, seconds: float) -> None:
    """Return when told to stop, at the latest after so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
