"""The operator's process: it waits until it leads, then runs Kopf over what `composition` puts together."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import AsyncGenerator, Coroutine, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import kopf

from holdfast_operator.composition import compose
from holdfast_operator.elector import Alone, Elector, minutes_since_1970
from holdfast_operator.handlers import (
    Echoes,
    Keeper,
    Listings,
    Losses,
    Wakers,
    counted_session,
    letting_go,
    register,
)
from holdfast_operator.handlers.settings import operator_settings, quiet_progress
from holdfast_operator.health import HealthServer, PortTaken, Pulse
from holdfast_operator.leadership import Times
from holdfast_operator.logs import JsonLines, say_last
from holdfast_operator.metrics import OperatorMetrics
from holdfast_operator.probes import Probes, Role
from holdfast_operator.services.ports import Leadership
from holdfast_operator.storage.backends import ConnectionPool
from holdfast_operator.storage.cluster import WatchedCluster
from holdfast_operator.storage.definitions import wait_for_definitions
from holdfast_operator.storage.kubernetes import Kubernetes
from holdfast_operator.storage.leases import Leases
from holdfast_operator.storage.mirror import Kind, Mirror
from holdfast_operator.storage.secrets import BindingSecrets
from holdfast_operator.webhook import Webhook

if TYPE_CHECKING:
    from holdfast_operator.renewal import Renewal

_log: Final = logging.getLogger("holdfast.operator")

LEASE: Final = "holdfast-operator"
PORT: Final = 8080
"""Of the health server where none is named."""
_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_HOME: Final = "holdfast-system"
_NAME: Final = "holdfast-operator"


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line and the environment say.

    Attributes:
        namespaces: the ones to serve; empty for all.
        kubeconfig: how to reach the API server; None finds out.
        cluster_id: what tells this cluster from others; None takes the uid of `kube-system`.
        interval: seconds between looks at an object at rest.
        abandon_after: seconds that a terminating namespace waits for a server that does not answer.
        json_logs: whether logs are JSON lines.
        election: whether several operators take turns; else this one is alone.
        leader_namespace: where their lease is; None takes the pod's own, else `holdfast-system`.
        times: how the lease is kept.
        health_port: of the health server; 0 for none; None: 8080 if it can be had.
        webhook: whose certificate is kept; None for none.
    """

    namespaces: tuple[str, ...] = ()
    kubeconfig: Path | None = None
    cluster_id: str | None = None
    interval: float = 60.0
    abandon_after: float = 120.0
    json_logs: bool = False
    election: bool = True
    leader_namespace: str | None = None
    times: Times = field(default_factory=Times)
    health_port: int | None = None
    webhook: Webhook | None = None


def configure_logs(options: Options) -> None:
    """Set up the logs of the process."""
    kopf.configure(log_format=kopf.LogFormat.FULL)
    if options.json_logs:
        logging.captureWarnings(True)
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonLines())
    # Kopf says there what it does with each object; what matters we say ourselves.
    objects = logging.getLogger("kopf.objects")
    objects.setLevel(logging.WARNING)
    objects.addFilter(quiet_progress)


@dataclass(frozen=True, slots=True)
class _Watched:
    """What the watches fill and the health server shows."""

    mirror: Mirror = field(default_factory=Mirror)
    wakers: Wakers = field(default_factory=Wakers)
    echoes: Echoes = field(default_factory=Echoes)


async def serve(options: Options) -> None:
    """Run the operator until it is told to end: wait until it leads, then act.

    Raises:
        ClusterError: there is no way to the API server, its definitions cannot be used, the lease has no
            place, or the health server has no port.
    """
    await _serve(options)
    _log.info("The operator has ended.")


async def _serve(options: Options) -> None:
    stop, watched, pulse = asyncio.Event(), _Watched(), Pulse()
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_signals(stop))
        async with _leadership(options) as leader, _task(pulse.beat()):
            metrics = OperatorMetrics(watched.mirror, watched.wakers.waiting, leader)
            kubernetes = await stack.enter_async_context(
                Kubernetes(options.kubeconfig, metrics.wrote)
            )
            probes = Probes(pulse, watched.echoes, leader)
            _show_health(options, stack, probes, metrics)
            # From here on tasks are Kopf's: on exit it ends every one it did not find in the loop.
            waiting = wait_for_definitions(kubernetes, clock=time.monotonic)
            if not await _unless(stop, waiting):
                return
            certificate = _renewal(options, kubernetes)
            probes.trusted = certificate is None
            probes.role = Role.STANDBY
            async with _task(_show_trust(certificate, probes)):
                if isinstance(leader, Elector):
                    if not await leader.acquire(stop):
                        return
                    _log.info("This operator leads, with epoch %d.", leader.epoch)
                lease = leader.keep() if isinstance(leader, Elector) else asyncio.sleep(0)
                async with _task(lease), _task(_keep_certificate(certificate)):
                    probes.role = Role.LEADER
                    await _act(
                        options,
                        kubernetes,
                        leader=leader,
                        watched=watched,
                        metrics=metrics,
                        stop=stop,
                    )
                    probes.role = Role.ENDING


async def _act(
    options: Options,
    kubernetes: Kubernetes,
    *,
    leader: Leadership,
    watched: _Watched,
    metrics: OperatorMetrics,
    stop: asyncio.Event,
) -> None:
    """Be the operator that acts, until told to end."""
    losses = Losses(watched.mirror, watched.wakers, clock=time.monotonic)
    connections, registry = ConnectionPool(losses.lost), kopf.OperatorRegistry()
    cluster = WatchedCluster(
        kubernetes, watched.mirror, namespaces=options.namespaces, cluster_id=options.cluster_id
    )
    keeper = Keeper(
        compose(
            cluster,
            BindingSecrets(kubernetes, own_account()),
            connections,
            leader=leader,
            observer=metrics,
            give_up=timedelta(seconds=options.abandon_after),
        ),
        watched.mirror,
        watched.wakers,
        kubernetes,
        interval=options.interval,
        observer=metrics,
        echoes=watched.echoes,
    )
    watches = (len(Kind) + 1) * max(1, len(options.namespaces))
    mirror, wakers, echoes = watched.mirror, watched.wakers, watched.echoes
    gone = letting_go(keeper=keeper, mirror=mirror, wakers=wakers, echoes=echoes)
    listings = Listings(mirror, gone)
    register(
        registry,
        login=lambda: _log_in(kubernetes, metrics, watches=watches, listings=listings),
        keeper=keeper,
        mirror=mirror,
        wakers=wakers,
        echoes=echoes,
        gone=gone,
        watch_namespaces=not options.namespaces,
        ending=stop.set,
    )
    where = ", ".join(options.namespaces) or "all namespaces"
    _log.info("The operator starts; it serves %s.", where)
    try:
        await kopf.operator(
            registry=registry,
            settings=operator_settings(),
            namespaces=options.namespaces,
            clusterwide=not options.namespaces,
            standalone=True,
            # Kopf would else look up this process's user, and in an image it may be a bare number.
            identity=_own_name(),  # pyright: ignore[reportArgumentType] - its type is private to Kopf
            stop_flag=stop,
        )
    finally:
        await connections.aclose()


def _renewal(options: Options, kubernetes: Kubernetes) -> "Renewal | None":
    """Return who keeps the webhook's certificate, where this operator is the one who does."""
    if options.webhook is None:
        return None
    # Cryptography takes a tenth of the operator's memory, and most have no use for it.
    from holdfast_operator.renewal import Renewal  # noqa: PLC0415
    from holdfast_operator.storage.certificates import WebhookCertificates  # noqa: PLC0415

    namespace = options.leader_namespace or own_namespace()
    webhook = options.webhook
    store = WebhookCertificates(kubernetes, namespace, webhook.secret, webhook.configuration)
    return Renewal(store, webhook, namespace, interval=options.interval)


async def _show_trust(certificate: "Renewal | None", probes: Probes) -> None:
    if certificate is not None:
        await certificate.until_trusted()
        probes.trusted = True


async def _keep_certificate(certificate: "Renewal | None") -> None:
    if certificate is not None:
        await certificate.keep()


def _own_name() -> str:
    return os.environ.get("POD_NAME") or socket.gethostname()


@contextlib.asynccontextmanager
async def _leadership(options: Options) -> AsyncGenerator[Elector | Alone]:
    """Give what this process knows of its leadership; at the end, another one may lead at once."""
    if not options.election:
        yield Alone(minutes_since_1970())
        return
    namespace = options.leader_namespace or own_namespace()
    name = f"{_own_name()}_{secrets.token_hex(4)}"
    # Connections of its own: a renewal waits for no other request.
    async with Kubernetes(options.kubeconfig) as kubernetes:
        elector = Elector(Leases(kubernetes, namespace, LEASE), name, options.times, end=_end)
        try:
            yield elector
        finally:
            await elector.release()


def own_namespace() -> str:
    """Return the namespace of this pod; that of the installation where this is none."""
    named = os.environ.get("POD_NAMESPACE")
    if named:
        return named
    with contextlib.suppress(OSError):
        return _ACCOUNT.read_text(encoding="utf-8").strip()
    return _HOME


def own_account() -> str:
    """Return the ServiceAccount of this pod as `namespace:name`; without a pod, that of the files."""
    return f"{own_namespace()}:{os.environ.get('POD_SERVICE_ACCOUNT') or _NAME}"


def _end(reason: str) -> NoReturn:
    """End the process at once: whatever it would do now, another one may be doing."""
    say_last(reason)
    os._exit(1)


def _show_health(
    options: Options, stack: contextlib.AsyncExitStack, probes: Probes, metrics: OperatorMetrics
) -> None:
    port = PORT if options.health_port is None else options.health_port
    if not port:
        return
    server = HealthServer(port, live=probes.live, ready=probes.ready, metrics=metrics.page)
    try:
        stack.enter_context(server)
    except PortTaken as error:
        if options.health_port is not None:
            raise
        _log.warning("There is no health server: %s", error)


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Generator[None]:
    """Set `stop` on SIGTERM and SIGINT. Kopf takes them while it runs, and ends."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _task(work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Run something beside the block, which ends with it."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do something; False when told to stop before it was done."""
    doing, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((doing, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            return False
        await doing
        return True
    finally:
        doing.cancel()
        stopping.cancel()
        await asyncio.gather(doing, stopping, return_exceptions=True)


async def _log_in(
    kubernetes: Kubernetes, metrics: OperatorMetrics, *, watches: int, listings: Listings
) -> kopf.AiohttpSession:
    details = await kubernetes.connection_details()
    info = kopf.ConnectionInfo(
        server=details.server,
        ca_path=details.ca_path,
        insecure=details.insecure,
        certificate_path=details.certificate_path,
        private_key_path=details.private_key_path,
        scheme="Bearer" if details.token else None,
        token=details.token,
        proxy_url=details.proxy,
    )
    return counted_session(info, metrics.wrote, watches=watches, middlewares=(listings,))
