"""Injection: a pod in, a JSON Patch or a refusal out. No I/O, no clock, nothing is looked up.

The Secret of a binding is named after the binding, so a pod is patched before either exists, and waits on
its node until the Secret is there. What is refused can never work, whatever comes later.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from holdfast_webhook import sidecar
from holdfast_webhook.pods import Container, Operation, Pod, add, escaped
from holdfast_webhook.settings import Settings
from holdfast_webhook.wishes import (
    BINDING,
    CONTAINERS,
    HTTP_PORT,
    INJECTED,
    LISTEN,
    POSITION,
    PREFIX,
    STATUS_PORT,
    Refused,
    Wishes,
    read_wishes,
)

LABEL: Final = f"{PREFIX}inject"
MESHES: Final = (
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "config.linkerd.io/skip-inbound-ports",
)
"""Annotations with the ports that a mesh leaves alone. A mesh whose proxy is an ordinary container would
send kubelet's probes to a proxy that starts only after them."""
_MIRROR: Final = "kubernetes.io/config.mirror"


class Patch(NamedTuple):
    """A pod may be created.

    Attributes:
        operations: of a JSON Patch; empty for a pod that stays as it is.
        warnings: sentences for whoever creates it.
        binding: the MemoryBinding that it uses; empty for a pod that stays as it is.
    """

    operations: tuple[Operation, ...] = ()
    warnings: tuple[str, ...] = ()
    binding: str = ""


class Refusal(NamedTuple):
    """A pod can never work.

    Attributes:
        sentence: what is wrong, and what to write.
    """

    sentence: str


def inject(pod: Pod, namespace: str, settings: Settings) -> Patch | Refusal:
    """Say what to change in a pod that is about to be created.

    Args:
        pod: as its creator sent it, perhaps without a name and a namespace.
        namespace: of the request.
        settings: of the installation.
    """
    labels = pod.metadata.labels or {}
    # The mirror of a pod that runs already, started by kubelet: nothing can be added to that one.
    if labels.get(LABEL) != "true" or _MIRROR in pod.annotations or _is_injected(pod):
        return Patch()
    try:
        wishes = read_wishes(pod)
        _check(pod, wishes)
        chosen = list(_chosen(pod, wishes))
        for _, container in chosen:
            _check_mounts(container)
    except Refused as refused:
        return Refusal(f"{refused}.")
    operations = (
        *_annotations(pod, wishes),
        *_volumes(pod, wishes),
        *(operation for path, one in chosen for operation in _connected(path, one)),
        # Last: it may move the init containers that the operations before name by their place.
        *_sidecar(pod, wishes, settings),
        *_pull_secrets(pod, settings),
    )
    return Patch(operations, tuple(_warnings(chosen, wishes, namespace)), wishes.binding)


def _is_injected(pod: Pod) -> bool:
    """Whether the sidecar is there: the webhook is asked again when another one changed the pod."""
    return INJECTED in pod.annotations and any(
        each.name == sidecar.NAME and each.goes_on for each in pod.before
    )


def _check(pod: Pod, wishes: Wishes) -> None:
    spec = pod.spec
    if spec.system != "linux":
        raise Refused(f"the sidecar runs on Linux, and this pod is for {spec.system[:80]}")
    if spec.host_network and not wishes.unix:
        raise Refused(
            "with hostNetwork every process of the node would reach this memory: leave hostNetwork out, or "
            f'annotate the pod with {LISTEN}: "unix" to serve it on a socket alone'
        )
    everything = [*spec.containers, *pod.before]
    if any(each.name == sidecar.NAME for each in everything):
        raise Refused(
            f"a container is called {sidecar.NAME}, which is the name of the sidecar: call it otherwise"
        )
    taken = {each.name for each in spec.volumes or ()} & set(sidecar.VOLUMES)
    if taken:
        raise Refused(
            f"a volume is called {min(taken)}, which is a name of the sidecar's: call it otherwise"
        )
    ports = {wishes.status_port: f'choose another one with {STATUS_PORT}: "PORT"'}
    if not wishes.unix:
        ports[HTTP_PORT] = f'annotate the pod with {LISTEN}: "unix" to serve the API on a socket'
    for each in everything:
        for port in each.ports or ():
            if port.container_port in ports and port.protocol == "TCP":
                raise Refused(
                    f"the container {each.name} listens on port {port.container_port}, and so would the "
                    f"sidecar: {ports[port.container_port]}"
                )


def _chosen(pod: Pod, wishes: Wishes) -> Iterator[tuple[str, Container]]:
    """Give the containers that use the sidecar, each with its path."""
    names = wishes.containers
    for number, each in enumerate(pod.before):
        # A native sidecar runs beside ours, wherever that is; it is left alone unless it is named.
        reachable = wishes.first or each.goes_on
        if names is None and (not wishes.first or each.goes_on):
            continue
        if names is not None and each.name not in names:
            continue
        if not reachable:
            raise Refused(
                f"the init container {each.name} runs before the sidecar: annotate the pod with "
                f'{POSITION}: "first"'
            )
        yield f"/spec/initContainers/{number}", each
    for number, each in enumerate(pod.spec.containers):
        if names is None or each.name in names:
            yield f"/spec/containers/{number}", each
    known = {each.name for each in (*pod.before, *pod.spec.containers)}
    for name in names or ():
        if name not in known:
            raise Refused(
                f"the annotation {CONTAINERS} names {name}, and the pod has no container of that name"
            )


def _check_mounts(container: Container) -> None:
    for mount in container.volume_mounts or ():
        if mount.mount_path.rstrip("/") == sidecar.SOCKET_DIRECTORY:
            raise Refused(
                f"the container {container.name} mounts something at {sidecar.SOCKET_DIRECTORY}, where the "
                f"sidecar's socket is: mount it elsewhere, or leave {container.name} out of {CONTAINERS}"
            )


def _annotations(pod: Pod, wishes: Wishes) -> Iterator[Operation]:
    added = {INJECTED: wishes.binding}
    for name in MESHES:
        ports = pod.annotations.get(name, "")
        named = [port.strip() for port in ports.split(",") if port.strip()]
        if str(wishes.status_port) not in named:
            added[name] = ",".join([*named, str(wishes.status_port)])
    if pod.metadata.annotations is None:
        yield add("/metadata/annotations", added)
        return
    for name, value in added.items():
        yield add(f"/metadata/annotations/{escaped(name)}", value)


def _volumes(pod: Pod, wishes: Wishes) -> Iterator[Operation]:
    found = sidecar.volumes(wishes)
    if pod.spec.volumes is None:
        yield add("/spec/volumes", found)
    else:
        yield from (add("/spec/volumes/-", each) for each in found)


def _sidecar(pod: Pod, wishes: Wishes, settings: Settings) -> Iterator[Operation]:
    ours = sidecar.container(wishes, settings, pod.spec.termination_grace_period_seconds)
    if pod.spec.init_containers is None:
        yield add("/spec/initContainers", [ours])
    else:
        yield add(f"/spec/initContainers/{0 if wishes.first else '-'}", ours)


def _connected(path: str, container: Container) -> Iterator[Operation]:
    """Give a container the socket, and say where it is unless the container knows better."""
    mount = sidecar.socket_mount()
    if container.volume_mounts is None:
        yield add(f"{path}/volumeMounts", [mount])
    else:
        yield add(f"{path}/volumeMounts/-", mount)
    variable = {"name": sidecar.URL_VARIABLE, "value": sidecar.URL}
    if container.env is None:
        yield add(f"{path}/env", [variable])
    elif not _has_url(container):
        yield add(f"{path}/env/-", variable)


def _pull_secrets(pod: Pod, settings: Settings) -> Iterator[Operation]:
    there = pod.spec.image_pull_secrets
    known = {each.name for each in there or ()}
    names = dict.fromkeys(each.name for each in settings.image_pull_secrets)
    missing = [{"name": name} for name in names if name not in known]
    if there is None and missing:
        yield add("/spec/imagePullSecrets", missing)
    else:
        yield from (add("/spec/imagePullSecrets/-", each) for each in missing)


def _warnings(chosen: list[tuple[str, Container]], wishes: Wishes, namespace: str) -> Iterator[str]:
    if not wishes.named and wishes.binding == "default":
        yield (
            "this pod runs as the ServiceAccount default, so it uses the MemoryBinding "
            f"{namespace}/default: name another one with the annotation {BINDING}"
        )
    for _, container in chosen:
        if _has_url(container):
            yield f"the container {container.name} sets {sidecar.URL_VARIABLE} itself, and keeps it"


def _has_url(container: Container) -> bool:
    return any(each.name == sidecar.URL_VARIABLE for each in container.env or ())
