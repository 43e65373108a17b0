"""The API server: few requests, each with a time limit, and errors of our own."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple, Self, cast

import aiohttp
from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import OpenApiException

from holdfast_operator.services.ports import (
    Body,
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterUnavailable,
)
from holdfast_operator.storage.mirror import Key

API: Final = "/apis/holdfast.dev/v1alpha1"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=10, connect=5)
_AT_ONCE: Final = 32
"""Requests under way. The time limit of one begins when it is its turn: a thousand that are made at once are
no sign of an API server that does not answer."""
_JSON: Final = "application/json"
_JSON_PATCH: Final = "application/json-patch+json"
_APPLY: Final = "application/apply-patch+yaml"
_NOTHING: Final[Body] = MappingProxyType({})


class ConnectionDetails(NamedTuple):
    """How to reach the API server, for whoever has a client of its own. Never to be logged."""

    server: str
    ca_path: str | None
    insecure: bool
    certificate_path: str | None
    private_key_path: str | None
    token: str | None
    proxy: str | None

    def __repr__(self) -> str:
        """Return a text without credentials."""
        return f"ConnectionDetails({self.server})"


class _Client:
    """Connections with one set of credentials, which end when these are replaced and nobody waits."""

    def __init__(self, configuration: Configuration) -> None:
        self._connections: Any = ApiClient(configuration)
        self._waiting = 0
        self._replaced = False

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncGenerator[Any]:
        """Give the connections for one exchange."""
        self._waiting += 1
        try:
            yield self._connections
        finally:
            self._waiting -= 1
            await self._end()

    async def replace(self) -> None:
        """Note that nobody begins anything here any more."""
        self._replaced = True
        await self._end()

    async def _end(self) -> None:
        if self._replaced and not self._waiting:
            await self._connections.close()


class Kubernetes:
    """Requests to the API server.

    Args:
        kubeconfig: a file; None takes `KUBECONFIG`, the pod's ServiceAccount, or `~/.kube/config`.
        wrote: called with the method of every request that may change something.
    """

    def __init__(
        self, kubeconfig: Path | None = None, wrote: Callable[[str], None] | None = None
    ) -> None:
        self._kubeconfig = kubeconfig
        self._wrote = wrote
        self._client: _Client | None = None
        self._renewing = asyncio.Lock()
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Self:
        """Read the credentials. No request yet.

        Raises:
            ClusterError: there are none, or they cannot be read.
        """
        await self._renew(None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.replace()

    async def connection_details(self) -> ConnectionDetails:
        """Return how to reach the API server, read anew: tokens change.

        Raises:
            ClusterError: there are no credentials, or they cannot be read.
        """
        found = cast("Any", await self._configuration())
        token: str | None = await found.get_api_key_with_prefix("BearerToken")
        return ConnectionDetails(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            token=token.split()[-1] if token else None,
            proxy=found.proxy,
        )

    async def get(self, path: str) -> Body | None:
        """Return an object; None when there is none.

        Raises:
            ClusterForbidden: we may not.
            ClusterUnavailable: no answer in time, or one that says "not now".
        """
        return await self._request("GET", path)

    async def create(self, path: str, body: Body) -> Body | None:
        """Create an object and return it as it is stored; None when there is no such namespace.

        Raises:
            ClusterConflict: there is one of this name.
            ClusterForbidden, ClusterUnavailable: as `get`.
        """
        return await self._request("POST", path, body, _JSON)

    async def replace(self, path: str, body: Body) -> Body | None:
        """Replace an object by one with its resourceVersion, and return it; None when it is gone.

        Raises:
            ClusterConflict: the object changed meanwhile; nothing was written.
            ClusterForbidden, ClusterUnavailable: as `get`.
        """
        return await self._request("PUT", path, body, _JSON)

    async def apply(self, path: str, body: Body, manager: str) -> Body | None:
        """Apply fields of an object on the server side, and return the object; None when it is gone.

        Args:
            path: the object's.
            body: the fields, and nothing else; with the resourceVersion that they were decided on.
            manager: who owns them from then on.

        Raises:
            ClusterConflict: the object changed meanwhile; nothing was written.
            ClusterForbidden, ClusterUnavailable: as `get`.
        """
        query = f"fieldManager={manager}&force=true"
        return await self._request("PATCH", f"{path}?{query}", body, _APPLY)

    async def put_status(self, key: Key, version: str, status: Body) -> Body | None:
        """Write the whole status of an object and return the object; None when it is gone.

        Args:
            key: which.
            version: the resourceVersion the decision was made on.
            status: as JSON.

        Raises:
            ClusterConflict: the object changed meanwhile; nothing was written.
            ClusterForbidden, ClusterUnavailable: as `get`.
        """
        path = f"{API}/namespaces/{key.namespace}/{key.kind.value}/{key.name}/status"
        operations = [
            {"op": "test", "path": "/metadata/resourceVersion", "value": version},
            {"op": "add", "path": "/status", "value": status},
        ]
        return await self._request("PATCH", path, operations, _JSON_PATCH)

    async def remove(self, key: Key, uid: str) -> None:
        """Delete an object, and no other one that has its name by now.

        Raises:
            ClusterConflict: another one has its name.
            ClusterForbidden, ClusterUnavailable: as `get`.
        """
        path = f"{API}/namespaces/{key.namespace}/{key.kind.value}/{key.name}"
        await self._request("DELETE", path, {"preconditions": {"uid": uid}}, _JSON)

    async def delete(self, path: str, version: str) -> None:
        """Delete an object; nothing when there is none.

        Args:
            path: the object's.
            version: its resourceVersion.

        Raises:
            ClusterConflict: it changed meanwhile; it is still there.
            ClusterForbidden, ClusterUnavailable: as `get`.
        """
        options = {"preconditions": {"resourceVersion": version}}
        await self._request("DELETE", path, options, _JSON)

    async def _request(
        self, method: str, path: str, body: object = None, content: str | None = None
    ) -> Body | None:
        async with self._turns:
            refused = self._client
            status, answer = await self._send(method, path, body, content)
            if status == 401:  # the token ended, and another one is where it came from
                await self._renew(refused)
                status, answer = await self._send(method, path, body, content)
        match status:
            case 200 | 201:
                return answer
            case 404:
                return None
            case 409:
                raise ClusterConflict(f"the object changed meanwhile: {method} {path}")
            case 422 if content == _JSON_PATCH:  # what it tests is not so any more
                raise ClusterConflict(f"the object changed meanwhile: {method} {path}")
            case 403 | 422:  # rights, a quota, or what an admission policy says
                raise ClusterForbidden(f"not allowed: {method} {path}")
            case _:
                raise ClusterUnavailable(f"the API server answered {status}: {method} {path}")

    async def _send(
        self, method: str, path: str, body: object, content: str | None
    ) -> tuple[int, Body]:
        if self._wrote is not None and method != "GET":
            self._wrote(method)
        headers = {"Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = content
        assert self._client is not None, "requests are made within the block"
        try:
            async with self._client.use() as client:
                request = await client.param_serialize(
                    method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
                )
                response = await client.call_api(*request, _request_timeout=_TIMEOUT)
                await response.read()
                answer: Body = await response.response.json() if response.status < 300 else _NOTHING
        except (OpenApiException, aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            kind = type(error).__name__
            raise ClusterUnavailable(f"no answer ({kind}): {method} {path}") from error
        return response.status, answer

    async def _renew(self, refused: _Client | None) -> None:
        """Read the credentials anew, unless somebody did since these were refused."""
        async with self._renewing:
            if self._client is not refused:
                return
            self._client = _Client(await self._configuration())
        if refused is not None:
            await refused.replace()

    async def _configuration(self) -> Configuration:
        configuration = Configuration()
        # The settings of the process are for its own requests, not for the API server of its node.
        cast("Any", configuration).client_session_kwargs = {"trust_env": False}
        loader = cast("Any", kubernetes_config)
        path = self._kubeconfig or _path(os.environ.get("KUBECONFIG"))
        try:
            if path is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                loader.load_incluster_config(client_configuration=configuration)
            else:
                await loader.load_kube_config(
                    config_file=None if path is None else str(path),
                    client_configuration=configuration,
                    persist_config=False,
                )
        except (loader.ConfigException, OSError) as error:
            raise ClusterError(
                "there is no way to the API server: give --kubeconfig, set KUBECONFIG, or run in a pod "
                "with a ServiceAccount"
            ) from error
        return configuration


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
