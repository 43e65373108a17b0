"""What the operator's benchmarks ask the API server, without kubectl, which takes longer than they do."""

import base64
import http.client
import json
import re
import ssl
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.harness.control_plane import ControlPlane

GROUP = "/apis/holdfast.dev/v1alpha1"
_WRITES = re.compile(
    r'^apiserver_request_total\{[^}]*?resource="(?P<resource>[^"]*)"[^}]*?verb="'
    r'(?:POST|PUT|PATCH|DELETE|APPLY)"[^}]*\} (?P<count>\S+)$',
    re.MULTILINE,
)
_OURS = frozenset(
    {"memorybackends", "memoryresources", "memorybindings", "memoryerasures", "events"}
)
_PATCH = "application/merge-patch+json"
_WRITERS = 16


class Api:
    """The API server, as its administrator.

    Args:
        plane: the control plane.
        directory: for the certificates.
        namespace: of all objects.
    """

    def __init__(self, plane: ControlPlane, directory: Path, namespace: str) -> None:
        config = json.loads(plane.admin_kubeconfig.read_text())["users"][0]["user"]
        parts = {"cert": "client-certificate-data", "key": "client-key-data"}
        for name, entry in parts.items():
            (directory / name).write_bytes(base64.b64decode(config[entry]))
        self._context = ssl.create_default_context(cafile=str(plane.authority))
        self._context.load_cert_chain(directory / "cert", directory / "key")
        self._address = urlsplit(plane.url)
        self._local = threading.local()
        self._base = f"{GROUP}/namespaces/{namespace}"

    def create(self, kind: str, name: str, spec: Mapping[str, Any]) -> None:
        """Make an object of ours, of a kind as paths name it."""
        singular = {
            "memoryresources": "MemoryResource",
            "memorybackends": "MemoryBackend",
            "memoryerasures": "MemoryErasure",
        }[kind]
        body = {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": singular,
            "metadata": {"name": name},
            "spec": spec,
        }
        self._ask("POST", f"{self._base}/{kind}", body)

    def create_all(self, kind: str, names: Iterable[str], spec: Mapping[str, Any]) -> None:
        """Make many objects, by several threads at once."""
        with ThreadPoolExecutor(_WRITERS) as threads:
            for done in [threads.submit(self.create, kind, name, spec) for name in names]:
                done.result()

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return an object; None when it is not there."""
        return self._ask("GET", f"{self._base}/{kind}/{name}")

    def all(self, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind."""
        found = self._ask("GET", f"{self._base}/{kind}")
        assert found is not None
        return found["items"]

    def patch(self, kind: str, name: str, body: Mapping[str, Any]) -> None:
        """Merge something into an object."""
        self._ask("PATCH", f"{self._base}/{kind}/{name}", body)

    def delete(self, kind: str, name: str) -> None:
        """Delete an object; it may take its time."""
        self._ask("DELETE", f"{self._base}/{kind}/{name}")

    def writes(self) -> int:
        """Return how often objects of ours and events were written since the API server started."""
        connection = self._connection()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        found = _WRITES.finditer(text)
        return sum(int(float(one["count"])) for one in found if one["resource"] in _OURS)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> dict[str, Any] | None:
        headers = {"Content-Type": _PATCH if method == "PATCH" else "application/json"}
        connection = self._connection()
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        text = response.read()
        if response.status == http.HTTPStatus.NOT_FOUND:
            return None
        assert response.status < http.HTTPStatus.BAD_REQUEST, text
        return json.loads(text)

    def _connection(self) -> http.client.HTTPSConnection:
        if not hasattr(self._local, "connection"):
            host, port = self._address.hostname, self._address.port
            assert host is not None
            self._local.connection = http.client.HTTPSConnection(
                host, port, context=self._context, timeout=60
            )
        return self._local.connection


def reason(body: Mapping[str, Any], of: str = "Ready") -> str:
    """Return the reason of a condition; empty when it is not there."""
    conditions = body["status"]["conditions"]
    return next((one["reason"] for one in conditions if one["type"] == of), "")
