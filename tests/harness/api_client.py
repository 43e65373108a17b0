"""Requests to the API server without kubectl: many of them, and with the answer as it came."""

import base64
import json
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.harness.control_plane import ControlPlane


class ApiClient:
    """The API server, as its administrator; closed by its `async with` block.

    Args:
        plane: the control plane.
        directory: for the certificate of the administrator.
    """

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        user = json.loads(plane.admin_kubeconfig.read_text(encoding="utf-8"))["users"][0]["user"]
        context = ssl.create_default_context(cafile=str(plane.authority))
        pem = directory / "administrator.pem"
        pem.touch(mode=0o600)
        entries = ("client-certificate-data", "client-key-data")
        pem.write_bytes(b"\n".join(base64.b64decode(user[entry]) for entry in entries))
        context.load_cert_chain(pem)
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(
            base_url=plane.url, verify=context, trust_env=False, timeout=60, limits=limits
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def create_pod(
        self, namespace: str, pod: dict[str, Any], *, dry_run: bool = True
    ) -> httpx.Response:
        """Create a pod, by default without keeping it."""
        return await self._http.post(
            f"/api/v1/namespaces/{namespace}/pods",
            params={"dryRun": "All"} if dry_run else {},
            json=pod,
        )

    async def get(self, path: str) -> dict[str, Any]:
        """Return an object."""
        response = await self._http.get(path)
        response.raise_for_status()
        return response.json()

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Create an object."""
        return await self._http.post(path, json=body)
