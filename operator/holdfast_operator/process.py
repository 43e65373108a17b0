"""The operator's process: parts are put together here, and Kopf is run."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import kopf

from holdfast_operator.handlers import Keeper, Wakers, register
from holdfast_operator.handlers.keeper import Services
from holdfast_operator.handlers.settings import operator_settings, quiet_progress
from holdfast_operator.services.backends import BackendService
from holdfast_operator.services.deletions import DeletionService
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import SystemClock
from holdfast_operator.services.resources import ResourceService
from holdfast_operator.services.surveys import Surveys
from holdfast_operator.services.targets import Targets
from holdfast_operator.services.walks import Walks
from holdfast_operator.storage.backends import ConnectionPool
from holdfast_operator.storage.cluster import WatchedCluster
from holdfast_operator.storage.definitions import wait_for_definitions
from holdfast_operator.storage.kubernetes import Kubernetes
from holdfast_operator.storage.mirror import Kind, Mirror

_log: Final = logging.getLogger("holdfast.operator")


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment say.

    Attributes:
        namespaces: the ones to serve; empty for all.
        kubeconfig: how to reach the API server; None finds out.
        cluster_id: what tells this cluster from others; None takes the uid of `kube-system`.
        interval: seconds between looks at an object at rest.
        json_logs: whether logs are JSON lines.
    """

    namespaces: tuple[str, ...] = ()
    kubeconfig: Path | None = None
    cluster_id: str | None = None
    interval: float = 60.0
    json_logs: bool = False


def configure_logs(options: Options) -> None:
    """Set up the logs of the process."""
    kopf.configure(log_format=kopf.LogFormat.JSON if options.json_logs else kopf.LogFormat.FULL)
    # Kopf says there what it does with each object; what matters we say ourselves.
    objects = logging.getLogger("kopf.objects")
    objects.setLevel(logging.WARNING)
    objects.addFilter(quiet_progress)


async def serve(options: Options) -> None:
    """Run the operator until it is told to end.

    Raises:
        ClusterError: there is no way to the API server, or its definitions cannot be used.
    """
    mirror, wakers, connections, clock = Mirror(), Wakers(), ConnectionPool(), SystemClock()
    async with Kubernetes(options.kubeconfig) as kubernetes:
        await wait_for_definitions(kubernetes, clock=time.monotonic)
        cluster = WatchedCluster(
            kubernetes, mirror, namespaces=options.namespaces, cluster_id=options.cluster_id
        )
        paces = Paces(clock)
        walks = Walks.on(clock, paces)
        backends = BackendService(cluster, connections, clock, Surveys(cluster, clock, paces))
        targets = Targets(cluster, backends)
        resources = ResourceService(targets, walks, clock)
        deletions = DeletionService(targets, walks, clock)
        keeper = Keeper(
            {
                Kind.BACKEND: Services(backends.reconcile, backends.finalize),
                Kind.RESOURCE: Services(resources.reconcile, deletions.finalize),
            },
            mirror,
            wakers,
            kubernetes,
            interval=options.interval,
        )
        registry = kopf.OperatorRegistry()
        register(
            registry,
            login=lambda: _log_in(kubernetes),
            keeper=keeper,
            mirror=mirror,
            wakers=wakers,
            watch_namespaces=not options.namespaces,
        )
        where = ", ".join(options.namespaces) or "all namespaces"
        _log.info("The operator starts; it serves %s.", where)
        try:
            # Alone in the loop of the main thread: on exit Kopf ends every task it did not find there.
            await kopf.operator(
                registry=registry,
                settings=operator_settings(),
                namespaces=options.namespaces,
                clusterwide=not options.namespaces,
                standalone=True,
            )
        finally:
            await connections.aclose()
    _log.info("The operator has ended.")


async def _log_in(kubernetes: Kubernetes) -> kopf.ConnectionInfo:
    details = await kubernetes.connection_details()
    return kopf.ConnectionInfo(
        server=details.server,
        ca_path=details.ca_path,
        insecure=details.insecure,
        certificate_path=details.certificate_path,
        private_key_path=details.private_key_path,
        scheme="Bearer" if details.token else None,
        token=details.token,
        proxy_url=details.proxy,
    )
