"""One control plane for the run, one operator for a module, a namespace of its own for every test."""

from collections.abc import AsyncGenerator, Iterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import OperatorProcess, grant_secrets, serving_operator
from tests.harness.servers import Server
from tests.harness.space import Space


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A new namespace. It is left behind: the whole control plane goes at the end of the run."""
    return control_plane.namespace()


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """One operator for all tests of a module. It looks at objects at rest every two seconds."""
    directory = tmp_path_factory.mktemp("operator")
    with serving_operator(control_plane, directory, arguments=["--interval=2"]) as process:
        yield process


@pytest.fixture
def space(
    control_plane: ControlPlane, operator: OperatorProcess, namespace: str, valkey_server: Server
) -> Space:
    """A namespace of its own whose Secrets the operator may read, on the shared server."""
    grant_secrets(control_plane, namespace)
    return Space(control_plane, namespace, valkey_server)


@pytest_asyncio.fixture
async def redis(valkey_server: Server) -> AsyncGenerator[Redis]:
    """A plain client of the shared server, as its administrator."""
    client = valkey_server.client()
    yield client
    await client.aclose()
