"""`make bench-operator`: the operator as its own process, on a real API server and a real Valkey."""

import contextlib
import tempfile
from functools import partial
from pathlib import Path

import objects
import sessions
from api import Api
from measure import Figure, run_topics
from objects import Stage

from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import running_operator
from tests.harness.servers import Product, running_server

TOPICS = ("sessions", "objects", "rounds")


def _run(topic: str, scale: int) -> list[Figure]:
    """Measure a topic on servers of its own."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plane = stack.enter_context(ControlPlane.start(directory / "cluster"))
        server = stack.enter_context(running_server(Product.VALKEY, directory / "server"))
        arguments = ["--interval=1"] if topic == "rounds" else []
        operator = stack.enter_context(
            running_operator(plane, directory / "operator", arguments=arguments)
        )
        namespace = plane.namespace("bench")
        stage = Stage(Api(plane, directory, namespace), operator, server, scale)
        if topic == "objects":
            return objects.bench(stage)
        if topic == "rounds":
            return objects.rounds(stage)
        stage.api.create("memorybackends", "shared", stage.backend)
        return sessions.bench(stage, namespace)


if __name__ == "__main__":
    topics = {name: partial(_run, name) for name in TOPICS}
    run_topics(__doc__, topics, Path(__file__).with_name("results-operator.json"))
