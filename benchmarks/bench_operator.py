"""`make bench-operator`: the operator as its own process, on a real API server and a real Valkey."""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import objects
import sessions
from api import Api
from measure import Figure, report
from objects import Stage

from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import running_operator
from tests.harness.servers import Product, running_server

HERE = Path(__file__).parent
TOPICS = ("sessions", "objects", "rounds")


def main() -> None:
    """Run the benchmarks; exit code 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=10, help="10 for the figures; 1 for a try")
    parser.add_argument(
        "--only", choices=TOPICS, action="append", help="a topic; the file stays as it is"
    )
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for topic in arguments.only or TOPICS:
        began = time.monotonic()
        figures += _run(topic, arguments.scale)
        print(f"{topic}: {time.monotonic() - began:.0f} s", flush=True)
    complete = arguments.only is None and arguments.scale >= 10
    report(figures, HERE / "results-operator.json" if complete else None)
    sys.exit(0 if all(line.ok for line in figures) else 1)


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
    main()
