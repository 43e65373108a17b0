"""One cluster with pods for the run: a node that the tests bring up, or the one that KUBECONFIG names."""

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.own import own_cluster
from tests.e2e.product import Product
from tests.harness.image import ImageUnavailable
from tests.harness.kubernetes_binaries import ControlPlaneUnavailable
from tests.harness.node import programs
from tests.harness.node.cluster import Cluster, Images
from tests.harness.node.programs import NodeUnavailable, Programs
from tests.harness.parts import missing

_EXISTING = "KUBECONFIG", "HOLDFAST_IMAGE"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--story-seconds",
        type=float,
        default=120,
        help="how long agents write while their pods are killed (default: 120)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whichever test comes first may have to wait until everything is built."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(3600))


@pytest.fixture(scope="session")
def node_programs() -> Programs:
    """Everything that a node is made of."""
    try:
        return programs.ensure()
    except (NodeUnavailable, ControlPlaneUnavailable) as error:
        missing("a Kubernetes node", str(error))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Generator[Cluster]:
    """The cluster of the run."""
    given = [os.environ.get(name) for name in _EXISTING]
    if all(given):
        yield from _existing(Path(str(given[0])), str(given[1]))
    else:
        yield from _own(request.getfixturevalue("node_programs"))


@pytest.fixture(scope="session")
def product(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """Holdfast, installed with its chart, and a backend for every namespace."""
    directory = tmp_path_factory.mktemp("helm")
    installed = Product.install(cluster, directory)
    yield installed
    if cluster.node is None:  # else the whole cluster goes
        installed.remove()


def _existing(kubeconfig: Path, holdfast: str) -> Iterator[Cluster]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        missing("kubectl", "install it: a cluster of your own is reached with it")
    valkey = os.environ.get("HOLDFAST_VALKEY_IMAGE", "docker.io/valkey/valkey:9")
    found = Cluster([kubectl], kubeconfig, Images(holdfast, valkey))
    try:
        yield found
    finally:
        found.close()


def _own(parts: Programs) -> Iterator[Cluster]:
    try:
        with own_cluster(parts) as found:
            yield found
    except ImageUnavailable as error:
        missing("the image", str(error))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what happened in the cluster to a failure."""
    report = yield
    found = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and isinstance(found, Cluster):
        report.sections.append(("cluster", found.report()))
    return report
