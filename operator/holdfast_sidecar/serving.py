"""One run of a sidecar: sockets, servers, and the order in which things begin and end."""

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Final

import uvicorn
import uvloop
from prometheus_client import CollectorRegistry, generate_latest

from holdfast.client import Client
from holdfast.connecting import connect
from holdfast.metrics import PrometheusObserver
from holdfast.store.bindings import Binding
from holdfast.store.redis import RedisStore
from holdfast_sidecar.app import Api
from holdfast_sidecar.instruments import ACTIVE, CONNECTIONS, HELD, WAITING, HttpInstruments
from holdfast_sidecar.limits import Limits
from holdfast_sidecar.logs import set_up
from holdfast_sidecar.mcp import McpApp
from holdfast_sidecar.memories import BoundMemories, GivenMemories, Memories
from holdfast_sidecar.options import Options
from holdfast_sidecar.protocol import Connection, watch
from holdfast_sidecar.service import Service
from holdfast_sidecar.sockets import allow_many_files, listen_on_path, listen_on_port
from holdfast_sidecar.status import Readiness, StatusApp

_log = logging.getLogger("holdfast.sidecar")

_TICK: Final = 1.0
_LOOK: Final = 0.02
_LAST: Final = 2.0
"""Seconds of the time to drain that are kept for giving turns back and for closing connections."""
_BACKLOG: Final = 4096
"""Connections that may wait to be taken in: beyond that a Unix socket refuses at once."""
_COLLECT: Final = (20_000, 20, 20)
"""When to look for garbage: a tenth of the work of an append went into it."""
_STOPS: Final = (signal.SIGTERM, signal.SIGINT)


class HttpServer(uvicorn.Server):
    """uvicorn without signals of its own, on sockets that are there already, at rest while nobody asks.

    Args:
        app: an ASGI application.
        sockets: bound ones.
        limits: how much of everything.

    Attributes:
        listening: happens once it serves.
    """

    def __init__(self, app: object, sockets: Sequence[socket.socket], limits: Limits) -> None:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type] # an ASGI application; uvicorn's own types are narrower
            http=partial(Connection, limits=limits),  # type: ignore[arg-type] # makes a protocol
            interface="asgi3",
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=int(limits.idle_seconds),
            timeout_graceful_shutdown=int(_LAST),
        )
        super().__init__(config)
        self._sockets = list(sockets)
        self._stopped = asyncio.Event()
        self.listening = asyncio.Event()

    async def run_until_stopped(self) -> None:
        """Serve until `stop`, then finish what is in work, for two seconds at most."""
        watching = asyncio.create_task(watch(self.server_state.connections))
        try:
            await self.serve(sockets=self._sockets)
        finally:
            watching.cancel()

    def stop(self) -> None:
        """Take no more connections, and end."""
        self.should_exit = True
        self._stopped.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the sidecar."""
        yield

    async def main_loop(self) -> None:
        """Renew the date of the answers every second until stopped."""
        self.listening.set()
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self._stopped.wait()


class Sidecar:
    """The parts of a sidecar.

    Args:
        options: what it is told.
        limits: how much of everything.
    """

    def __init__(self, options: Options, limits: Limits) -> None:
        self._options = options
        self._registry = CollectorRegistry()
        self._observers = [PrometheusObserver(self._registry)]
        self.memories = self._memories()
        self.service = Service(self.memories, limits)
        instruments = HttpInstruments(self._registry)
        self.mcp = McpApp(self.service)
        self.api = Api(self.service, instruments=instruments, mounts={b"mcp": self.mcp})
        self.readiness = Readiness(self.memories.reach)
        instruments.watch(ACTIVE, lambda: self.api.active)
        instruments.watch(HELD, lambda: self.service.turns.held)
        instruments.watch(WAITING, lambda: self.service.turns.waiting)
        self._watch = instruments.watch

    def count_connections(self, count: Callable[[], int]) -> None:
        """Show how many connections there are."""
        self._watch(CONNECTIONS, count)

    def metrics(self) -> bytes:
        """Return the metrics as Prometheus reads them."""
        return generate_latest(self._registry)

    def _memories(self) -> Memories:
        options = self._options
        if options.url is None:
            assert options.root is not None
            return BoundMemories(options.root, self._client_of, options.memories)
        client = connect(
            options.url,
            namespace=options.namespace,
            policy=options.policy,
            observers=self._observers,
            holder=options.holder,
        )
        return GivenMemories(client, options.memories or [client.memory().address.name])

    def _client_of(self, binding: Binding) -> Client:
        store = RedisStore.at(binding.address, prefix=binding.prefix, observers=self._observers)
        return Client(
            store, binding=binding, observers=self._observers, holder=self._options.holder
        )


def run(options: Options, limits: Limits | None = None) -> int:
    """Run a sidecar until a signal; return the exit code.

    Raises:
        ConfigurationError: it cannot begin.
    """
    set_up(options.log_format)
    allow_many_files()
    data = [listen_on_port(options.http)] if options.http is not None else []
    if options.unix is not None:
        data.append(listen_on_path(options.unix))
    status = [listen_on_port(options.status)] if options.status is not None else []
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(options, limits or Limits(), data, status))
    finally:
        if options.unix is not None:
            options.unix.unlink(missing_ok=True)
    return 0


async def _run(
    options: Options,
    limits: Limits,
    data_sockets: Sequence[socket.socket],
    status_sockets: Sequence[socket.socket],
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _STOPS:
        loop.add_signal_handler(number, stop.set)
    sidecar = Sidecar(options, limits)
    data = HttpServer(sidecar.api, data_sockets, limits)
    sidecar.count_connections(lambda: len(data.server_state.connections))
    status = HttpServer(StatusApp(sidecar.readiness, sidecar.metrics), status_sockets, limits)
    follower = None
    if isinstance(sidecar.memories, BoundMemories):
        sidecar.memories.look()
        follower = asyncio.create_task(sidecar.memories.follow())
    servers = [asyncio.create_task(one.run_until_stopped()) for one in (data, status)]
    stopping = asyncio.create_task(stop.wait())
    # What was loaded stays, and requests leave little that counting references does not free.
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    begun = asyncio.gather(data.listening.wait(), status.listening.wait())
    await asyncio.wait([begun, stopping, *servers], return_when=asyncio.FIRST_COMPLETED)
    _log.info(
        "listening on %s; status on %s",
        ", ".join(_names(data_sockets)),
        ", ".join(_names(status_sockets)) or "no port",
    )
    try:
        await asyncio.wait([*servers, stopping], return_when=asyncio.FIRST_COMPLETED)
        for one in servers:
            if one.done():
                one.result()
        await _drain(sidecar, options.drain)
    finally:
        begun.cancel()
        stopping.cancel()
        if follower is not None:
            follower.cancel()
        data.stop()
        await asyncio.gather(servers[0], return_exceptions=True)
        await sidecar.mcp.aclose()
        await sidecar.memories.aclose(patience=_LAST)
        status.stop()
        await asyncio.gather(servers[1], return_exceptions=True)


async def _drain(sidecar: Sidecar, seconds: float) -> None:
    """Grant no turns any more; let requests and turns end, and then end the turns that are left."""
    loop = asyncio.get_running_loop()
    until = loop.time() + max(0.0, seconds - _LAST)
    turns = sidecar.service.turns
    sidecar.readiness.ending = True
    turns.refuse_new()
    _log.info("ending: %d turns are held, %d requests in work", turns.held, sidecar.api.active)
    while (turns.held or sidecar.api.active) and loop.time() < until:  # noqa: ASYNC110 - of many places
        await asyncio.sleep(_LOOK)
    await turns.aclose()


def _names(sockets: Sequence[socket.socket]) -> list[str]:
    return [
        name if isinstance(name, str) else f"{name[0]}:{name[1]}"
        for name in (one.getsockname() for one in sockets)
    ]
