"""The demo's Kubernetes: an API server of its own, or the one of the current kubeconfig."""

import asyncio
import contextlib
import json
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import Any

from worlds import HERE, MEMORY, WorldFailed

from holdfast.embedded import EmbeddedServer

ROOT = HERE.parents[1]
_LOOK = 0.2

Kubectl = Callable[[list[str], str | None], str]
"""Runs kubectl with arguments and standard input, and returns its output."""


class Cluster:
    """A namespace on an API server, an operator process, and a Valkey with a password.

    Args:
        kubectl: runs kubectl.
        namespace: of the manifests.
        name: of this world.
        url: of the Valkey.
    """

    def __init__(self, kubectl: Kubectl, namespace: str, name: str, url: str) -> None:
        self.name = name
        self.url = url
        self._kubectl = kubectl
        self._namespace = namespace

    async def edit(self, manifest: str) -> None:
        """Apply the manifest."""
        await self.apply(manifest)

    async def apply(self, manifest: str) -> None:
        """Do what `kubectl apply` does on the server side."""
        arguments = ["apply", "--server-side", f"--namespace={self._namespace}", "-f", "-"]
        await asyncio.to_thread(self._kubectl, arguments, manifest)

    async def followed(self, revision: int) -> str:
        """Wait until status says that the rollout is done."""

        def done(status: dict[str, Any]) -> bool:
            return status.get("policyRevision") == revision and _is_true(status, "PolicyApplied")

        status = await self._status(done, f"follow revision {revision}")
        return _condition(status, "PolicyApplied")["message"]

    async def until_ready(self) -> None:
        """Wait until the memory is Ready."""
        await self._status(lambda status: _is_true(status, "Ready"), "become Ready")

    async def _status(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        arguments = [
            "get",
            "memoryresource",
            "support",
            f"--namespace={self._namespace}",
            "-o=json",
        ]
        status: dict[str, Any] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                while True:
                    body = json.loads(await asyncio.to_thread(self._kubectl, arguments, None))
                    status = body.get("status", {})
                    if wanted(status):
                        return status
                    await asyncio.sleep(_LOOK)
        raise WorldFailed(f"the memory did not {what}: {json.dumps(status, indent=1)}")


@contextlib.asynccontextmanager
async def cluster(folder: Path, context: str | None) -> AsyncGenerator[Cluster]:
    """Run everything the demo needs of Kubernetes.

    Args:
        folder: for files and logs.
        context: None for an API server of its own, `current` for that of the current kubeconfig.
    """
    namespace = f"holdfast-demo-{secrets.token_hex(3)}"
    password = secrets.token_hex(16)
    server = EmbeddedServer(None, persist=False, arguments=["--requirepass", password])
    place = _current(namespace, folder) if context == "current" else _own(namespace, folder)
    async with server:
        with place as (kubectl, name):
            url = f"redis://:{password}@127.0.0.1:{server.port}/0?namespace={namespace}"
            world = Cluster(kubectl, namespace, name, url)
            await world.apply(_secret(password))
            backend = (HERE / "backend.yaml").read_text(encoding="utf-8")
            await world.apply(backend.replace("redis.support.svc:6379", f"127.0.0.1:{server.port}"))
            await world.apply((HERE / MEMORY).read_text(encoding="utf-8"))
            await world.until_ready()
            yield world


@contextlib.contextmanager
def _own(namespace: str, folder: Path) -> Generator[tuple[Kubectl, str]]:
    """Start an API server, and the operator under exactly the rights it ships with."""
    sys.path.insert(0, str(ROOT))
    from tests.harness.control_plane import ControlPlane  # noqa: PLC0415 - only where it is needed
    from tests.harness.operator_process import (  # noqa: PLC0415
        grant_secrets,
        running_operator,
    )

    with ControlPlane.start(folder / "control-plane") as plane:

        def kubectl(arguments: list[str], given: str | None) -> str:
            return plane.kubectl(*arguments, input=given)

        plane.kubectl("create", "namespace", namespace)
        with running_operator(plane, folder / "operator"):
            grant_secrets(plane, namespace)
            yield kubectl, f"Kubernetes {plane.version()} and the operator"


@contextlib.contextmanager
def _current(namespace: str, folder: Path) -> Generator[tuple[Kubectl, str]]:
    """Use the current kubeconfig: the operator runs here, with the rights of whoever runs this.

    The definitions stay in the cluster; the namespace goes at the end.
    """

    def kubectl(arguments: list[str], given: str | None) -> str:
        done = subprocess.run(
            ["kubectl", *arguments], input=given, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise WorldFailed(f"kubectl {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    name = kubectl(["config", "current-context"], None).strip()
    kubectl(["apply", "--server-side", "-f", str(ROOT / "crds")], None)
    kubectl(["create", "namespace", namespace], None)
    options = [f"--namespace={namespace}", "--leader-election=false", "--health-port=0"]
    command = [sys.executable, "-m", "holdfast_operator", *options]
    try:
        with (folder / "operator.log").open("wb") as log:
            operator = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield kubectl, f"the cluster of the context {name}, with the operator on this machine"
        finally:
            kinds = "memoryresources,memorybackends"
            kubectl(["delete", kinds, "--all", f"-n={namespace}", "--timeout=60s"], None)
            operator.send_signal(signal.SIGTERM)
            operator.wait()
    finally:
        kubectl(["delete", "namespace", namespace, "--wait=false"], None)


def _secret(password: str) -> str:
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": "redis-credentials",
                "labels": {"holdfast.dev/credentials": "backend"},
            },
            "stringData": {"password": password},
        }
    )


def _condition(status: dict[str, Any], name: str) -> dict[str, Any]:
    return next((one for one in status.get("conditions", []) if one["type"] == name), {})


def _is_true(status: dict[str, Any], name: str) -> bool:
    return _condition(status, name).get("status") == "True"
