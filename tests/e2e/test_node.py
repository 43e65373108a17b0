"""The node itself: it comes up, pods run on it, and it leaves nothing, however it ends."""

import re
import signal
import subprocess
import sys

from tests.harness.node import leftovers
from tests.harness.node.node import Node
from tests.harness.node.programs import Programs
from tests.harness.node.settings import PAUSE_IMAGE
from tests.harness.node.traces import more, namespaces_of, processes_in, traces
from tests.harness.waiting import wait

NODE = re.compile(rf"{leftovers.PREFIX}[0-9a-f]{{8}}")
POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: idle, namespace: default}}
spec:
  containers:
  - {{name: idle, image: "{PAUSE_IMAGE}", imagePullPolicy: Never}}
"""


def run_a_pod(node: Node) -> None:
    wait(lambda: node.plane.kubectl("get", "sa", "--output=name") != "", "a ServiceAccount")
    node.plane.apply(POD)
    node.plane.kubectl("wait", "--for=condition=Ready", "pod/idle", "--timeout=180s")


def nothing_more_than(before: frozenset[str], name: str) -> None:
    """Others work on this machine too: what they make for a moment is gone a moment later."""

    def ours() -> list[str]:
        names = ((line, set(NODE.findall(line))) for line in more(before))
        return [line for line, found in names if not found or name in found]

    wait(lambda: not ours(), lambda: "\n".join(ours()), deadline=90)


def every_process_ends(namespaces: frozenset[str], node: str) -> None:
    # Who builds an image meanwhile may have got the number of a namespace that is gone, for moments.
    wait(lambda: not processes_in(namespaces, node), "every process ends", deadline=90)


def test_a_node_leaves_nothing_behind_and_can_be_had_again(node_programs: Programs):
    before = traces()
    for _ in range(2):
        with Node.start(node_programs) as node:
            run_a_pod(node)
            namespaces = namespaces_of(node.first_process)
            assert processes_in(namespaces, node.name)
            assert {line.split()[0] for line in traces() - before} >= {
                "cgroup",
                "directory",
                "process",
            }
        every_process_ends(namespaces, node.name)
        nothing_more_than(before, node.name)


def test_what_a_killed_run_leaves_goes_with_the_next_start(node_programs: Programs):
    before = traces()
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.test_node"], stdout=subprocess.PIPE, text=True
    )
    assert run.stdout is not None
    try:
        name, first = run.stdout.readline().split()
        namespaces = namespaces_of(int(first))
        assert processes_in(namespaces, name)
        assert name not in leftovers.sweep(), "a node of a run that goes on was removed"
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    every_process_ends(namespaces, name)
    leftovers.sweep()
    nothing_more_than(before, name)


if __name__ == "__main__":
    with Node.start() as started:
        run_a_pod(started)
        print(started.name, started.first_process, flush=True)
        signal.pause()
