"""What happens between start and end: manifests are applied, edits followed, a program run."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from holdfast.errors import ConfigurationError
from holdfast_cli.local.child import ChildProgram
from holdfast_cli.local.engine import Engine
from holdfast_cli.local.manifests import Key, Manifests, immutable_faults, read_manifests
from holdfast_cli.local.objects import Objects
from holdfast_cli.local.report import Reporter, ways
from holdfast_cli.local.server import ServerAddress
from holdfast_cli.local.watching import Watch
from holdfast_operator.services.outcome import Event
from holdfast_operator.services.ports import Body, SystemClock
from holdfast_operator.storage.backends import ConnectionPool

_EXTRA: Final = frozenset({"uvicorn", "uvloop", "httptools", "prometheus_client"})
READY: Final = 15.0
"""Seconds after which it is said what there is, Ready or not."""


class Run:
    """The parts of a run, and the order in which they begin and end.

    Args:
        manifests: to begin with.
        objects: of an earlier run, or none.
        server: which is running.
        watch: notices edits.
        child: a program to run beside the server, if any.
        reporter: tells people.
        keep: saves the objects.
        kept: where the data are, as the end of a sentence.
    """

    def __init__(
        self,
        manifests: Manifests,
        objects: Objects,
        server: ServerAddress,
        watch: Watch,
        child: ChildProgram | None,
        *,
        reporter: Reporter,
        keep: Callable[[], None],
        kept: str,
    ) -> None:
        self._manifests = manifests
        self._objects = objects
        self._server = server
        self._watch = watch
        self._child = child
        self._reporter = reporter
        self._keep = keep
        self._kept = kept
        self._connections = ConnectionPool()
        self._engine = Engine(objects, self._connections, SystemClock(), listener=self)
        self._settled = asyncio.Event()
        self._stop = asyncio.Event()
        self._signal = signal.SIGTERM

    async def until_stopped(self) -> int:
        """Run until a signal or the program's end; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        try:
            async with asyncio.TaskGroup() as group:
                self._apply()
                engine = group.create_task(self._engine.run())
                await self._readiness()
                async with _api_of(self._objects, self._server) as http:
                    self._reporter.ready(
                        self._objects, self._manifests.later, self._server, self._kept, http
                    )
                    follow = group.create_task(self._follow())
                    code = await self._until_end()
                follow.cancel()
                engine.cancel()
        finally:
            await self._connections.aclose()
        return code

    def looked(self, key: Key, before: Body, after: Body, events: Sequence[Event]) -> None:
        """Tell people, and remember the status; see `Listener`."""
        if after != before:
            self._keep()
        self._reporter.looked(key, before, after, events)
        if self._engine.settled():
            self._settled.set()

    def gone(self, key: Key, events: Sequence[Event]) -> None:
        """Tell people, and make the object anew if it was declared again; see `Listener`."""
        self._reporter.gone(key, events)
        self._apply()

    def _apply(self) -> None:
        edits = self._objects.apply(self._manifests.objects)
        self._keep()
        self._reporter.edits(edits, self._objects)
        self._engine.wake()

    async def _readiness(self) -> None:
        """Wait until every memory is Ready, but neither for ever nor after a signal."""
        settled = asyncio.create_task(self._settled.wait())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({settled, stop}, timeout=READY, return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        stop.cancel()

    async def _follow(self) -> None:
        """Apply what is edited; keep what was in force as long as anything is wrong."""
        refused = False
        async for manifests in self._watch.changes(read_manifests):
            faults = manifests.faults or immutable_faults(manifests, self._objects.lasting())
            if faults:
                refused = True
                self._reporter.refused(faults)
                continue
            if refused:
                refused = False
                self._reporter.line("the manifests can be used again")
            known = {manifest.key for manifest in self._manifests.later}
            self._reporter.not_carried_out(
                manifest for manifest in manifests.later if manifest.key not in known
            )
            self._manifests = manifests
            self._apply()

    async def _until_end(self) -> int:
        """Wait for a signal or for the program's end, and end the program if it was a signal."""
        child = self._child
        if child is None:
            await self._stop.wait()
            return 0
        way = ways(self._objects)[0]
        try:
            await child.start(self._server.url(namespace=way.namespace, prefix=way.prefix))
        except ConfigurationError as error:
            self._reporter.line(f"holdfast: {error}")
            return 1
        stop = asyncio.create_task(self._stop.wait())
        try:
            ended = asyncio.create_task(child.wait())
            await asyncio.wait({stop, ended}, return_when=asyncio.FIRST_COMPLETED)
            await child.stop(self._signal)
            return await ended
        finally:
            stop.cancel()
            child.kill()

    def _signalled(self, number: signal.Signals) -> None:
        self._signal = number
        self._stop.set()


@asynccontextmanager
async def _api_of(objects: Objects, server: ServerAddress) -> AsyncGenerator[str | None]:
    """Serve the sidecar's API for the length of a block; None where its packages are not installed."""
    try:
        from holdfast_cli.local.api import serving
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        yield None
        return
    async with serving(objects, server) as url:
        yield url
