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


def guarded(directory: Path, *, product: Product = Product.VALKEY, persist: bool = False) -> Server:
    """Make a server whose default user has the password `ADMIN`."""
    directory.mkdir(parents=True, exist_ok=True)
    return Server(product, directory, persist=persist, arguments=["--requirepass", ADMIN])


@asynccontextmanager
async def ground(
    plane: ControlPlane, directory: Path, *, patience: float = 240.0, watched: float = 2.0
) -> AsyncGenerator[Ground]:
    """Give the ground for lives.

    Args:
        plane: a running API server.
        directory: for logs, traces and the server's files.
        patience: seconds for everything to converge.
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
        yield Ground(plane, api, nursery, server, patience, watched)
