"""The API server as the administrator sees it, without a process per request."""

import asyncio
import base64
import json
import ssl
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import aiohttp
import yaml

from tests.harness.control_plane import ControlPlane

GROUP: Final = "/apis/holdfast.dev/v1alpha1"
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_KINDS: Final = {
    "Secret": ("/api/v1", "secrets"),
    "Event": ("/api/v1", "events"),
    "Role": (_RBAC, "roles"),
    "RoleBinding": (_RBAC, "rolebindings"),
    "MemoryBackend": (GROUP, "memorybackends"),
    "MemoryResource": (GROUP, "memoryresources"),
    "MemoryBinding": (GROUP, "memorybindings"),
    "MemoryErasure": (GROUP, "memoryerasures"),
}
_PATIENCE: Final = 60.0


class Reference(NamedTuple):
    """Names an object of a namespace."""

    kind: str
    name: str


class Api:
    """Requests of the administrator, in an `async with` block."""

    def __init__(self, plane: ControlPlane) -> None:
        self._config: dict[str, Any] = json.loads(plane.admin_kubeconfig.read_text("utf-8"))
        self._url = plane.url
        self._authority = plane.authority
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Read the credentials."""
        user = self._config["users"][0]["user"]
        context = ssl.create_default_context(cafile=str(self._authority))
        with tempfile.TemporaryDirectory() as folder:
            files = [Path(folder) / name for name in ("certificate", "key")]
            for file in files:
                file.write_bytes(base64.b64decode(user[f"client-{file.name}-data"]))
            context.load_cert_chain(*files)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(_PATIENCE)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        assert self._session is not None
        await self._session.close()

    async def namespace(self, name: str) -> None:
        """Create a namespace."""
        await self._request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    async def apply(self, namespace: str, *manifests: dict[str, Any]) -> None:
        """Apply objects on the server side."""
        for manifest in manifests:
            what = Reference(manifest["kind"], manifest["metadata"]["name"])
            path = f"{_path(namespace, what)}?fieldManager=tests&force=true"
            await self._request("PATCH", path, manifest, "application/apply-patch+yaml")

    async def apply_file(self, namespace: str, file: Path) -> None:
        """Apply the objects of a YAML file."""
        text = await asyncio.to_thread(file.read_text, "utf-8")
        await self.apply(namespace, *yaml.safe_load_all(text))

    async def patch(self, namespace: str, what: Reference, change: dict[str, Any]) -> None:
        """Change an object by a merge patch."""
        await self._request("PATCH", _path(namespace, what), change, "application/merge-patch+json")

    async def get(self, namespace: str, what: Reference) -> dict[str, Any]:
        """Return an object; an empty one when there is none."""
        return await self._request("GET", _path(namespace, what), missing=True)

    async def delete(self, namespace: str, what: Reference) -> None:
        """Delete an object, if it is there."""
        await self._request("DELETE", _path(namespace, what), missing=True)

    async def all(self, namespace: str, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind; none where the kind is not known."""
        base, plural = _KINDS[kind]
        path = f"{base}/namespaces/{namespace}/{plural}"
        found = await self._request("GET", path, missing=True)
        return found.get("items", [])

    async def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        content: str = "application/json",
        *,
        missing: bool = False,
    ) -> dict[str, Any]:
        assert self._session is not None
        async with self._session.request(
            method,
            self._url + path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content},
        ) as answer:
            if missing and answer.status == 404:
                return {}
            found: dict[str, Any] = await answer.json(content_type=None)
            assert answer.status < 300, f"{method} {path}: {found.get('message')}"
            return found


def _path(namespace: str, what: Reference) -> str:
    base, plural = _KINDS[what.kind]
    return f"{base}/namespaces/{namespace}/{plural}/{what.name}"
