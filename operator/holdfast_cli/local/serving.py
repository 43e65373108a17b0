"""One run of local mode, from the command line's options to the exit code."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from holdfast.embedded import EmbeddedServer, find_binary
from holdfast.errors import ConfigurationError, HoldfastError, PolicyInvalid
from holdfast_cli.local.child import ChildProgram
from holdfast_cli.local.directory import Directory, opened
from holdfast_cli.local.manifests import (
    RESOURCE,
    Manifests,
    immutable_faults,
    read_manifests,
    require_files,
)
from holdfast_cli.local.objects import Objects
from holdfast_cli.local.report import Reporter
from holdfast_cli.local.run import Run
from holdfast_cli.local.server import ServerAddress
from holdfast_cli.local.watching import Watch
from holdfast_operator.services.ports import SystemClock

_ENDING: Final = 8.0
"""Seconds that the server of a run that was killed may need to end."""
_AGAIN: Final = 0.05


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line.

    Attributes:
        files: manifests, and directories of them.
        backend: URL of a server to use instead of the embedded one.
        ephemeral: leave nothing behind.
        directory: where things are kept between runs.
        command: a program to run beside the server.
    """

    files: tuple[Path, ...]
    backend: str | None = None
    ephemeral: bool = False
    directory: Path = Path(".holdfast")
    command: str | None = None


async def serve(options: Options) -> int:
    """Carry out the manifests until a signal or the program's end; return the exit code."""
    try:
        require_files(options.files)
        watch = Watch(options.files)  # first: an edit after this moment is noticed
        manifests = watch.first(read_manifests)
        if manifests.faults:
            return _list(manifests.faults)
        _require_memory(manifests, options)
        child = ChildProgram(options.command) if options.command is not None else None
        given = ServerAddress.of_url(options.backend) if options.backend is not None else None
        if given is not None and options.ephemeral:
            raise ConfigurationError(
                "--ephemeral is about the embedded server: what is on --backend stays there"
            )
        with opened(None if options.ephemeral else options.directory) as directory:
            return await _serve(manifests, watch, directory, given, child)
    except HoldfastError as error:
        print(f"holdfast: {error}", file=sys.stderr)
        return 1


async def _serve(
    manifests: Manifests,
    watch: Watch,
    directory: Directory,
    given: ServerAddress | None,
    child: ChildProgram | None,
) -> int:
    place = given.place if given is not None else None
    saved = directory.load(place)
    async with _server(directory, given, saved.port) as server:
        objects = Objects(directory.cluster, server, SystemClock(), saved.objects)
        faults = immutable_faults(manifests, objects.lasting())
        if faults:
            return _list(faults)
        # Beside a program, stdout is the program's own.
        reporter = Reporter(sys.stdout if child is None else sys.stderr)
        run = Run(
            manifests,
            objects,
            server,
            watch,
            child,
            reporter=reporter,
            keep=lambda: directory.save(place, server.port, objects.bodies().values()),
            kept=directory.sentence if given is None else "your own server",
        )
        return await run.until_stopped()


@contextlib.asynccontextmanager
async def _server(
    directory: Directory, given: ServerAddress | None, port: int | None
) -> AsyncGenerator[ServerAddress]:
    """Run the embedded server, unless another one was given."""
    if given is not None:
        yield given
        return
    find_binary()
    patience = _ENDING if directory.killed else 0.0
    server = await _started(directory, port, time.monotonic() + patience)
    try:
        yield ServerAddress("127.0.0.1", server.port)
    finally:
        await server.stop()


async def _started(directory: Directory, port: int | None, deadline: float) -> EmbeddedServer:
    """Start the server, on the port it had before if that is free."""
    while True:
        server = EmbeddedServer(directory.data, port=port, persist=directory.data is not None)
        try:
            await server.start()
        except ConfigurationError:
            if time.monotonic() < deadline:
                await asyncio.sleep(_AGAIN)
            elif port is not None:
                port = None
            else:
                raise
        else:
            return server


def _require_memory(manifests: Manifests, options: Options) -> None:
    if not any(key.kind == RESOURCE for key in manifests.objects):
        where = ", ".join(map(str, options.files))
        raise ConfigurationError(f"there is no MemoryResource in {where}: nothing to serve")


def _list(faults: Sequence[PolicyInvalid]) -> int:
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1
