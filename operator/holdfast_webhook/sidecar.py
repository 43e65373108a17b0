"""The container that is injected, and its volumes. Pure functions."""

from typing import Any, Final

from holdfast_webhook.settings import Settings
from holdfast_webhook.wishes import HTTP_PORT, Wishes

NAME: Final = "holdfast"
SOCKET_VOLUME: Final = "holdfast-socket"
BINDING_VOLUME: Final = "holdfast-binding"
SUMMARIZER_VOLUME: Final = "holdfast-summarizer"
VOLUMES: Final = (SOCKET_VOLUME, BINDING_VOLUME, SUMMARIZER_VOLUME)
SOCKET_DIRECTORY: Final = "/var/run/holdfast"
URL_VARIABLE: Final = "HOLDFAST_URL"
URL: Final = f"http+unix://{SOCKET_DIRECTORY}/api.sock"
STATUS_PORT_NAME: Final = "holdfast-status"
USER: Final = 65532

_BINDINGS: Final = "/bindings"
_SUMMARIZER: Final = "/summarizer"
_READABLE: Final = 0o444
_LEFT: Final = 2
"""Seconds of a pod's grace period that are left to the end of the process itself."""
_FIELDS: Final = {
    "HOLDFAST_POD_NAMESPACE": "metadata.namespace",
    "HOLDFAST_POD_NAME": "metadata.name",
    "HOLDFAST_POD_UID": "metadata.uid",
}


def secret_name(binding: str) -> str:
    """Return the name of a binding's Secret; the operator names it so."""
    return f"{binding}-holdfast"


def container(wishes: Wishes, settings: Settings, grace: int | None) -> dict[str, Any]:
    """Return the sidecar.

    Args:
        wishes: of the pod.
        settings: of the installation.
        grace: seconds between SIGTERM and SIGKILL, where the pod says them.
    """
    mounts = [
        {"name": SOCKET_VOLUME, "mountPath": SOCKET_DIRECTORY},
        {
            "name": BINDING_VOLUME,
            "mountPath": f"{_BINDINGS}/{wishes.binding}",
            "readOnly": True,
        },
    ]
    if wishes.summarizer_key is not None:
        mounts.append({"name": SUMMARIZER_VOLUME, "mountPath": _SUMMARIZER, "readOnly": True})
    probe = {"httpGet": {"path": "/healthz", "port": wishes.status_port}}
    return {
        "name": NAME,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "restartPolicy": "Always",
        "command": ["holdfast-sidecar"],
        "args": _arguments(wishes, settings, grace),
        "env": _environment(wishes),
        "ports": [
            {"name": STATUS_PORT_NAME, "containerPort": wishes.status_port, "protocol": "TCP"}
        ],
        "resources": settings.resources.model_dump(),
        "volumeMounts": mounts,
        # Both ask whether the socket is bound. Redis is no business of theirs: a restart would not bring it
        # back, and behind a mesh it can be reached only after every init container has started.
        "startupProbe": {**probe, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 120},
        "livenessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def volumes(wishes: Wishes) -> list[dict[str, Any]]:
    """Return the volumes of the sidecar, and the one it shares."""
    found: list[dict[str, Any]] = [
        # In memory, and no place to keep things: it holds one socket.
        {"name": SOCKET_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {
            "name": BINDING_VOLUME,
            "secret": {"secretName": secret_name(wishes.binding), "defaultMode": _READABLE},
        },
    ]
    key = wishes.summarizer_key
    if key is not None:
        item = {"key": key.entry, "path": "key"}
        secret = {"secretName": key.secret, "items": [item], "defaultMode": _READABLE}
        found.append({"name": SUMMARIZER_VOLUME, "secret": secret})
    return found


def socket_mount() -> dict[str, Any]:
    """Return the mount of the socket in a container that uses it. Who connects needs not write there."""
    return {"name": SOCKET_VOLUME, "mountPath": SOCKET_DIRECTORY, "readOnly": True}


def _arguments(wishes: Wishes, settings: Settings, grace: int | None) -> list[str]:
    drain = settings.drain_seconds
    if grace is not None:
        drain = max(1, min(drain, grace - _LEFT))
    arguments = [
        f"--unix={SOCKET_DIRECTORY}/api.sock",
        "--http=" if wishes.unix else f"--http=127.0.0.1:{HTTP_PORT}",
        f"--status={settings.status_host}:{wishes.status_port}",
        f"--drain={drain}s",
    ]
    if wishes.memories:
        arguments.append(f"--memories={','.join(wishes.memories)}")
    return arguments


def _environment(wishes: Wishes) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"name": "SERVICE_BINDING_ROOT", "value": _BINDINGS}]
    for name, path in _FIELDS.items():
        # With the version, as the API server completes it: what was injected is what is stored.
        reference = {"apiVersion": "v1", "fieldPath": path}
        found.append({"name": name, "valueFrom": {"fieldRef": reference}})
    if wishes.summarizer_key is not None:
        found.append({"name": "HOLDFAST_SUMMARIZER_KEY_FILE", "value": f"{_SUMMARIZER}/key"})
    return found
