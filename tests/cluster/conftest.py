"""One control plane for the whole run, a namespace of its own for every test."""

from collections.abc import Iterator

import pytest

from tests.harness import kubernetes_binaries, parts
from tests.harness.control_plane import ControlPlane, ControlPlaneUnavailable


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


def _built() -> bool:
    try:
        return kubernetes_binaries.find() is not None
    except ControlPlaneUnavailable:
        return False
