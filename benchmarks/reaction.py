"""How fast the operator reacts, on a real API server and a real Valkey: apply to Ready, and recovery."""

import contextlib
import json
import tempfile
from pathlib import Path

from measure import Figure, figure, seconds_until
from redis import Redis
from scene import Servers

from holdfast.store.redis.script import script
from tests.harness.control_plane import ControlPlane
from tests.harness.kubernetes_binaries import ControlPlaneUnavailable
from tests.harness.operator_process import running_operator
from tests.harness.servers import Product, Server, run_apart, running_server

BACKEND = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBackend
metadata: {{name: shared, namespace: {namespace}}}
spec: {{endpoints: ["127.0.0.1:{port}"]}}
"""
RESOURCE = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  backendRef: {{name: shared}}
  retention: {{ttl: 1h}}
"""


def _ready(plane: ControlPlane, namespace: str, kind: str) -> set[str]:
    """Return the Ready status of every object of a kind."""
    body = json.loads(plane.kubectl("get", kind, "-n", namespace, "-o", "json"))
    return {
        condition["status"]
        for item in body["items"]
        for condition in item["status"]["conditions"]
        if condition["type"] == "Ready"
    }


def _has_scripts(server: Server) -> bool:
    """Whether a server knows the script that appends."""
    with Redis(host="127.0.0.1", port=server.port) as raw:
        return raw.script_exists(script("append").sha)[0]


def bench(servers: Servers, scale: int) -> list[Figure]:  # noqa: ARG001 - it has a server of its own
    """Measure with the operator as its own process; nothing where no control plane can be had."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        try:
            plane = stack.enter_context(ControlPlane.start(directory / "cluster"))
        except ControlPlaneUnavailable as error:
            print(f"the operator is not measured: {error}")
            return []
        server = stack.enter_context(running_server(Product.VALKEY, directory / "server"))
        stack.enter_context(running_operator(plane, directory / "operator"))
        return _measure(plane, server)


def _measure(plane: ControlPlane, server: Server) -> list[Figure]:
    namespace = plane.namespace("bench")
    plane.apply(BACKEND.format(namespace=namespace, port=server.port))
    plane.apply(RESOURCE.format(namespace=namespace, name="first"))
    seconds_until(lambda: _ready(plane, namespace, "memoryresources") == {"True"})
    plane.apply(RESOURCE.format(namespace=namespace, name="second"))
    ready = seconds_until(lambda: _ready(plane, namespace, "memoryresources") == {"True"})
    server.pause()
    lost = seconds_until(lambda: _ready(plane, namespace, "memorybackends") == {"False"})
    server.resume()
    back = seconds_until(lambda: _ready(plane, namespace, "memoryresources") == {"True"})
    run_apart(server.restart())
    known = seconds_until(lambda: _has_scripts(server))
    note = "kubectl asks every 60 ms"
    return [
        figure("operator: apply to Ready, warm", ready, "s", None, note),
        figure("operator: silent server to Ready=False", lost, "s", None, note),
        figure("operator: server back to memories Ready", back, "s", None, note),
        figure(
            "operator: restarted server to scripts loaded", known, "s", "<= 2", "asked every 20 ms"
        ),
    ]
