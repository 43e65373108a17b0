"""The real Helm, and a control plane on which nothing of ours is unless a test installs it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import helm as helm_program
from tests.harness import kubernetes_binaries
from tests.harness.control_plane import ControlPlane, ControlPlaneUnavailable
from tests.harness.helm import Helm, HelmUnavailable
from tests.harness.parts import missing


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test comes first the time to build Helm."""
    here = Path(__file__).parent
    for item in items:
        of_chart = here in item.path.parents
        if of_chart and not helm_program.built() and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Helm without a cluster."""
    try:
        return Helm()
    except HelmUnavailable as error:
        missing("Helm", str(error))


@pytest.fixture(scope="session")
def chart_plane(helm: Helm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane for releases of the chart: their definitions are nobody else's."""
    try:
        programs = kubernetes_binaries.ensure()
    except ControlPlaneUnavailable as error:
        missing("Kubernetes control plane", str(error))
    directory = tmp_path_factory.mktemp("chart-plane")
    with ControlPlane.start(directory, binaries=programs) as plane:
        yield plane
