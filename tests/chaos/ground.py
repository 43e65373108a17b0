"""What lives share, started once: an API server, a nursery, a server with a password."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.chaos.api import Api
from tests.chaos.life import ADMIN, Ground
from tests.chaos.operators import Nursery
from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import ACCOUNT, HOME, install
from tests.harness.servers import Product, Server

_PATIENCE = 240.0
"""Seconds for everything to converge."""


def guarded(directory: Path, *, persist: bool = False) -> Server:
    """Make a server whose default user has the password `ADMIN`."""
    directory.mkdir(parents=True, exist_ok=True)
    return Server(Product.VALKEY, directory, persist=persist, arguments=["--requirepass", ADMIN])


@asynccontextmanager
async def ground(
    plane: ControlPlane, directory: Path, *, watched: float = 2.0
) -> AsyncGenerator[Ground]:
    """Give the ground for lives.

    Args:
        plane: a running API server.
        directory: for logs, traces and the server's files.
        watched: seconds at rest that are looked at.
    """
    install(plane)
    births = directory / "operators"
    births.mkdir(parents=True)
    async with (
        guarded(directory / "server") as server,
        Nursery(births, plane.kubeconfig_for(HOME, ACCOUNT)) as nursery,
        Api(plane) as api,
    ):
        yield Ground(plane, api, nursery, server, _PATIENCE, watched)
