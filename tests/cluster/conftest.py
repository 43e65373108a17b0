"""One control plane for the whole run, one operator for a module, a namespace of its own for every test."""

from collections.abc import AsyncGenerator, Iterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from tests.harness import kubernetes_binaries, parts
from tests.harness.control_plane import ControlPlane, ControlPlaneUnavailable
from tests.harness.operator_process import OperatorProcess, grant_secrets, running_operator
from tests.harness.servers import Server
from tests.harness.space import Space


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests the time to build the control plane: whichever comes first has to wait for it."""
    for item in items:
        needs = "control_plane" in getattr(item, "fixturenames", ())
        if needs and not _built() and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane, the same one for every test of the run."""
    try:
        programs = kubernetes_binaries.ensure()
    except ControlPlaneUnavailable as error:
        parts.missing("Kubernetes control plane", str(error))
    directory = tmp_path_factory.mktemp("control-plane")
    with ControlPlane.start(directory, binaries=programs) as plane:
        yield plane


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
    with running_operator(control_plane, directory, arguments=["--interval=2"]) as process:
        yield process
        assert not [line for line in process.errors() if "Traceback" in line], process.tail()


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


def _built() -> bool:
    try:
        return kubernetes_binaries.find() is not None
    except ControlPlaneUnavailable:
        return False
