"""The webhook's certificate in the API server: a Secret, and what the webhook's configuration trusts."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from holdfast_operator.services.certificates import (
    OURS,
    SECRET_TYPE,
    CertificateDraft,
    Registration,
)
from holdfast_operator.services.objects import mapping, mappings
from holdfast_operator.services.ports import Body, ClusterConflict, ClusterUnavailable, Secret
from holdfast_operator.storage.kubernetes import Kubernetes
from holdfast_operator.storage.secrets import read_secret, secret_path

MANAGER: Final = "holdfast-operator-certificates"
"""Field manager of the caBundle, and of nothing else: whoever applies the configuration without one, as the
chart does, leaves ours as it is."""
_VERSION: Final = "admissionregistration.k8s.io/v1"
_KIND: Final = "MutatingWebhookConfiguration"
_PATH: Final = f"/apis/{_VERSION}/mutatingwebhookconfigurations"
_KEPT: Final = ("labels", "annotations", "finalizers", "ownerReferences", "uid", "resourceVersion")


class WebhookCertificates:
    """Reads and writes the certificate of one webhook.

    Args:
        kubernetes: the API server.
        namespace: of the Secret.
        secret: its name.
        configuration: name of the MutatingWebhookConfiguration.
    """

    def __init__(
        self, kubernetes: Kubernetes, namespace: str, secret: str, configuration: str
    ) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._secret = secret
        self._configuration = configuration

    async def secret(self) -> Secret | None:
        """Return the Secret with the certificate; None when there is none. One request."""
        body = await self._kubernetes.get(secret_path(self._namespace, self._secret))
        return None if body is None else read_secret(body)

    async def write(self, draft: CertificateDraft, version: str | None) -> None:
        """Write the Secret if it is as it was; None: make it. Two requests, or one to make it."""
        if version is None:
            path = f"/api/v1/namespaces/{self._namespace}/secrets"
            if await self._kubernetes.create(path, self._body(draft, {})) is None:
                raise ClusterUnavailable(f"there is no namespace {self._namespace}")
            return
        path = secret_path(self._namespace, self._secret)
        metadata = mapping(mapping(await self._kubernetes.get(path)).get("metadata"))
        if metadata.get("resourceVersion") != version:
            raise ClusterConflict(f"the Secret changed meanwhile: {path}")
        if await self._kubernetes.replace(path, self._body(draft, metadata)) is None:
            raise ClusterConflict(f"the Secret is gone: {path}")

    async def registration(self) -> Registration | None:
        """Return what is registered; None when nothing is. One request."""
        body = await self._kubernetes.get(f"{_PATH}/{self._configuration}")
        if body is None:
            return None
        bundles: dict[str, bytes] = {}
        hosts: set[str] = set()
        for webhook in mappings(body.get("webhooks")):
            client = mapping(webhook.get("clientConfig"))
            bundles[str(webhook.get("name"))] = _decoded(client.get("caBundle"))
            host = urlsplit(str(client.get("url") or "")).hostname
            if host:
                hosts.add(host)
        version = str(mapping(body.get("metadata")).get("resourceVersion"))
        return Registration(version, bundles, frozenset(hosts))

    async def register(self, registration: Registration, bundle: bytes) -> None:
        """Have every webhook of the configuration trusted by a bundle, if it is as it was. One request."""
        trusted = {"caBundle": base64.b64encode(bundle).decode("ascii")}
        body = {
            "apiVersion": _VERSION,
            "kind": _KIND,
            "metadata": {
                "name": self._configuration,
                "resourceVersion": registration.version,
            },
            "webhooks": [{"name": name, "clientConfig": trusted} for name in registration.bundles],
        }
        if await self._kubernetes.apply(f"{_PATH}/{self._configuration}", body, MANAGER) is None:
            raise ClusterConflict(f"the {_KIND} {self._configuration} is gone")

    def _body(self, draft: CertificateDraft, before: Mapping[str, Any]) -> Body:
        metadata = {name: before[name] for name in _KEPT if name in before}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                **metadata,
                "name": self._secret,
                "namespace": self._namespace,
                "labels": {**mapping(before.get("labels")), **OURS},
                "annotations": {**mapping(before.get("annotations")), **draft.annotations},
            },
            "type": SECRET_TYPE,
            "data": {
                name: base64.b64encode(value).decode("ascii") for name, value in draft.data.items()
            },
        }


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(str(text or ""))
    except binascii.Error:
        return b""
