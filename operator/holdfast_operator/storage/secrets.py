"""Secrets: read by name, and written only where a MemoryBinding controls them."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from holdfast_operator.crds import GROUP, VERSION
from holdfast_operator.services.entries import SECRET_TYPE
from holdfast_operator.services.objects import mapping, mappings
from holdfast_operator.services.ports import Body, ClusterConflict, Secret, SecretDraft
from holdfast_operator.storage.kubernetes import Kubernetes

_LABELS: Final = {"app.kubernetes.io/managed-by": "holdfast"}
_KEPT: Final = ("labels", "annotations", "finalizers")


class BindingSecrets:
    """Writes the Secrets of bindings.

    Args:
        kubernetes: the API server.
        account: who it is that writes: namespace and name of a ServiceAccount, with a colon between.
    """

    def __init__(self, kubernetes: Kubernetes, account: str) -> None:
        self._kubernetes = kubernetes
        self._account = account

    @property
    def account(self) -> str:
        """Who writes."""
        return self._account

    async def create(self, draft: SecretDraft) -> None:
        """Make the Secret. One of that name that is there already is a conflict. One request."""
        path = f"/api/v1/namespaces/{draft.namespace}/secrets"
        await self._kubernetes.create(path, _body(draft, {}))

    async def replace(self, draft: SecretDraft, version: str) -> None:
        """Give the Secret these entries. Labels and annotations of others stay. Two requests."""
        path = secret_path(draft.namespace, draft.name)
        found = await self._kubernetes.get(path)
        metadata = mapping(mapping(found).get("metadata"))
        if metadata.get("resourceVersion") != version:
            raise ClusterConflict(f"the Secret changed meanwhile: {path}")
        if await self._kubernetes.replace(path, _body(draft, metadata)) is None:
            raise ClusterConflict(f"the Secret is gone: {path}")

    async def delete(self, namespace: str, name: str, version: str) -> None:
        """Remove the Secret; nothing when there is none. One request."""
        await self._kubernetes.delete(secret_path(namespace, name), version)


def secret_path(namespace: str, name: str) -> str:
    """Return where the API server has a Secret."""
    return f"/api/v1/namespaces/{namespace}/secrets/{name}"


def read_secret(body: Body) -> Secret:
    """Read a Secret as the API server gives it."""
    metadata = mapping(body.get("metadata"))
    return Secret(
        name=str(metadata.get("name")),
        version=str(metadata.get("resourceVersion")),
        labels=_texts(metadata.get("labels")),
        data={str(key): _decoded(value) for key, value in mapping(body.get("data")).items()},
        annotations=_texts(metadata.get("annotations")),
        type=str(body.get("type")),
        controller=_controller(metadata.get("ownerReferences")),
        immutable=body.get("immutable") is True,
    )


def _body(draft: SecretDraft, before: Mapping[str, Any]) -> Body:
    """Return the object to send: the draft, with what others noted on the one that is there."""
    kept = {name: before[name] for name in _KEPT if name in before}
    metadata: dict[str, Any] = {
        **kept,
        "name": draft.name,
        "namespace": draft.namespace,
        "labels": {**_texts(before.get("labels")), **_LABELS},
        "annotations": {**_texts(before.get("annotations")), **draft.annotations},
        "ownerReferences": [
            {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "MemoryBinding",
                "name": draft.binding,
                "uid": draft.uid,
                "controller": True,
                "blockOwnerDeletion": False,
            }
        ],
    }
    for name in ("uid", "resourceVersion"):
        if name in before:
            metadata[name] = before[name]
    data = {name: base64.b64encode(value).decode() for name, value in draft.data.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": SECRET_TYPE,
        "data": data,
    }


def _controller(owners: object) -> str:
    for owner in mappings(owners):
        if owner.get("controller") is True:
            return str(owner.get("uid"))
    return ""


def _texts(value: object) -> dict[str, str]:
    return {str(key): str(text) for key, text in mapping(value).items()}


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text))
    except binascii.Error:
        return b""
