"""Fixtures for every kind of test: servers of the whole run, and a word about missing parts."""

import gc
from collections.abc import AsyncGenerator, Generator, Iterator

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from redis import Redis

from tests.harness import kubernetes_binaries
from tests.harness.cluster_of_servers import ClusterOfServers, running_cluster
from tests.harness.control_plane import ControlPlane, ControlPlaneUnavailable
from tests.harness.parts import missing, missing_parts, need_server
from tests.harness.proxy import CuttingProxy
from tests.harness.sentinels import Sentinels, running_sentinels
from tests.harness.servers import Product, Server, running_server

# How long a busy machine takes says nothing of what is tested. `verify` is for `make verify`.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("test", _PATIENT, max_examples=100)
settings.register_profile("verify", _PATIENT, max_examples=1000)
settings.load_profile("test")


@pytest.fixture(scope="session")
def shared_servers() -> list[Server]:
    """The servers of the whole run that were needed so far."""
    return []


@pytest.fixture(scope="module", autouse=True)
def no_keys_are_left(shared_servers: list[Server]) -> Generator[None]:
    """Whoever walks over all keys of a shared server meets those of its own module at most."""
    yield
    for server in shared_servers:
        with Redis(port=server.port) as client:
            client.flushall()


@pytest.fixture(scope="session")
def valkey_server(
    tmp_path_factory: pytest.TempPathFactory, shared_servers: list[Server]
) -> Generator[Server]:
    """One Valkey for the whole run, without persistence: use keys of your own."""
    need_server(Product.VALKEY)
    with running_server(Product.VALKEY, tmp_path_factory.mktemp("valkey")) as server:
        shared_servers.append(server)
        yield server
        shared_servers.remove(server)


@pytest.fixture(scope="session")
def redis_server(
    tmp_path_factory: pytest.TempPathFactory, shared_servers: list[Server]
) -> Generator[Server]:
    """One Redis 7 for the whole run, without persistence: use keys of your own."""
    need_server(Product.REDIS)
    with running_server(Product.REDIS, tmp_path_factory.mktemp("redis")) as server:
        shared_servers.append(server)
        yield server
        shared_servers.remove(server)


@pytest.fixture(scope="session")
def cluster_of_servers(tmp_path_factory: pytest.TempPathFactory) -> Generator[ClusterOfServers]:
    """One Cluster for the whole run: use keys of your own, and leave the nodes running."""
    need_server(Product.VALKEY)
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Generator[Sentinels]:
    """One primary with replica and sentinels for the whole run: leave all of them running."""
    need_server(Product.VALKEY)
    with running_sentinels(tmp_path_factory.mktemp("sentinels")) as sentinels:
        yield sentinels


@pytest_asyncio.fixture
async def proxy(valkey_server: Server) -> AsyncGenerator[CuttingProxy]:
    """A proxy in front of the shared Valkey whose faults the test arms."""
    async with CuttingProxy(valkey_server.port) as cutting_proxy:
        yield cutting_proxy


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A running control plane, the same one for every test of the run."""
    try:
        programs = kubernetes_binaries.ensure()
    except ControlPlaneUnavailable as error:
        missing("Kubernetes control plane", str(error))
    directory = tmp_path_factory.mktemp("control-plane")
    with ControlPlane.start(directory, binaries=programs) as plane:
        yield plane


LONG = (
    # On the API server, beside what is said of the chart.
    *("test_release", "test_ownership", "test_leadership", "test_operator", "test_bindings"),
    *("test_backends", "test_demo_cluster", "test_templates", "test_foreign", "test_erasures"),
    *(
        "test_certificates",
        "test_plain_files",
        "test_planted",
        "test_gitops",
        "test_operator_install",
    ),
    # On servers.
    *("test_dev", "test_tenant_commands", "test_readme", "test_machine", "test_sidecar_generated"),
    *("test_short", "test_tokens", "test_sidecar_mcp", "test_sidecar_binding", "test_hostile"),
    *("test_sidecar_clients", "test_sidecar", "test_cluster", "test_redis", "test_sentinel"),
    *("test_planning_flushing", "test_summaries_builtin", "test_hostile_tenant"),
    *("test_flush_faults", "test_turns", "test_demo", "test_concurrency", "test_mutants"),
)
"""The files that take long, the longest first. Where several processes share the files of a part, no long
one begins when the others have nothing left to do."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long files come first, the others by chance.

    And give tests the time to build the control plane: whichever comes first has to wait for it.
    """
    rank = {name: at for at, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))
    for item in items:
        needs = "control_plane" in getattr(item, "fixturenames", ())
        if needs and not _built() and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave what lives to the end, modules and thousands of tests, to no later collection of garbage."""
    gc.collect()
    gc.freeze()


def _built() -> bool:
    try:
        return kubernetes_binaries.find() is not None
    except ControlPlaneUnavailable:
        return False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once for each missing part what it was and how to get it."""
    skipped = terminalreporter.stats.get("skipped", [])
    parts = missing_parts(
        report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)
    )
    if parts:
        terminalreporter.section("parts that were missing")
        for part in parts:
            terminalreporter.line(f"missing: {part}")
