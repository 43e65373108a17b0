"""Pods for tests of injection."""

from typing import Any


def pod(
    annotations: dict[str, str] | None = None,
    *,
    name: str = "agent",
    labelled: bool = True,
    containers: list[dict[str, Any]] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """A pod of the ServiceAccount `support-agent` that asks for the sidecar."""
    metadata: dict[str, Any] = {"name": name}
    if labelled:
        metadata["labels"] = {"holdfast.dev/inject": "true"}
    if annotations is not None:
        metadata["annotations"] = annotations
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "serviceAccountName": "support-agent",
            "automountServiceAccountToken": False,
            "containers": containers or [{"name": "agent", "image": "registry.example/agent"}],
            **spec,
        },
    }


def container(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "image": "registry.example/image", **more}
