"""A cluster with pods as the stories see it: the node of the tests, or one that somebody has."""

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.control_plane import KubectlError
from tests.harness.node.node import Node
from tests.harness.waiting import wait

Object = dict[str, Any]
Manifest = str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Images:
    """What pods run.

    Attributes:
        holdfast: the project's image; agents run in it too, since Python and the library are there.
        valkey: an image with `valkey-server` on its PATH.
    """

    holdfast: str
    valkey: str


class Cluster:
    """A cluster through kubectl.

    Args:
        kubectl: what a command line of kubectl begins with.
        kubeconfig: whom it asks, and as whom.
        images: what pods run; the cluster has them.
        node: the node of the tests, if it is that.
    """

    def __init__(
        self, kubectl: Sequence[str], kubeconfig: Path, images: Images, node: Node | None = None
    ) -> None:
        self.kubectl_command = [*kubectl, f"--kubeconfig={kubeconfig}"]
        self._home = tempfile.TemporaryDirectory(prefix="holdfast-kubectl-")
        self._used: list[str] = []
        self.kubeconfig = kubeconfig
        self.images = images
        self.node = node

    def kubectl(self, *arguments: str, input: str | None = None, timeout: float = 300) -> str:
        """Run kubectl and return what it printed. `timeout` is in seconds.

        Raises:
            KubectlError: it ended with an error.
        """
        done = subprocess.run(
            [*self.kubectl_command, *arguments],
            env={"PATH": os.environ.get("PATH", os.defpath), "HOME": self._home.name},
            input=input or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise KubectlError(arguments, done.returncode, done.stderr)
        return done.stdout

    def apply(self, manifest: Manifest, *arguments: str) -> str:
        """Apply a manifest on the server side: text, a file or folder, an object, or several."""
        source, text = ("-", None) if not isinstance(manifest, Path) else (str(manifest), None)
        if isinstance(manifest, str):
            text = textwrap.dedent(manifest)
        elif isinstance(manifest, Mapping):
            text = json.dumps(manifest)
        elif not isinstance(manifest, Path):
            text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifest)})
        command = ("apply", "--server-side", "--force-conflicts", *arguments, "-f", source)
        return self.kubectl(*command, input=text)

    def namespace(
        self, prefix: str = "team", labels: Mapping[str, str] | None = None
    ) -> "Namespace":
        """Make a namespace with a new name."""
        return self.make_namespace(f"{prefix}-{secrets.token_hex(3)}", labels)

    def make_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> "Namespace":
        """Make a namespace of this name, or take the one that is there."""
        meta = {"name": name, "labels": dict(labels or {})}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": meta})
        self._used.append(name)
        return Namespace(self, name)

    def exists(self, *what: str) -> bool:
        return bool(self.kubectl("get", *what, "--ignore-not-found", "--output=name"))

    def report(self) -> str:
        """What happened in the namespaces that were made here: pods, events, ends of logs."""
        parts: list[str] = []
        for name in self._used:
            with contextlib.suppress(KubectlError, subprocess.TimeoutExpired):
                parts.append(Namespace(self, name).report())
        return "\n".join(parts)

    def delete_namespaces(self, *kept: str) -> None:
        """Delete the namespaces that were made here, except some, and wait until they are gone."""
        names = [name for name in dict.fromkeys(self._used) if name not in kept]
        self._used = [name for name in self._used if name in kept]
        if names:
            self.kubectl("delete", "namespace", *names, "--ignore-not-found", timeout=600)

    def close(self) -> None:
        """Let go of what is on this machine."""
        self._home.cleanup()


class Namespace:
    """One namespace of a cluster."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name

    def kubectl(self, *arguments: str, input: str | None = None, timeout: float = 300) -> str:
        return self.cluster.kubectl(
            f"--namespace={self.name}", *arguments, input=input, timeout=timeout
        )

    def apply(self, manifest: Manifest) -> None:
        self.cluster.apply(manifest, f"--namespace={self.name}")

    def get(self, *what: str) -> Object:
        """Return an object, as `get("pod/x")`, or a list, as `get("pods", "--selector=app=x")`."""
        return json.loads(self.kubectl("get", *what, "--output=json"))

    def exists(self, what: str) -> bool:
        return bool(self.kubectl("get", what, "--ignore-not-found", "--output=name"))

    def delete(self, what: str, *arguments: str) -> None:
        self.kubectl("delete", what, "--wait=false", *arguments)

    def patch(self, what: str, spec: Mapping[str, Any]) -> None:
        self.kubectl("patch", what, "--type=merge", "-p", json.dumps({"spec": spec}))

    def until(
        self, what: str, holds: Callable[[Object], bool], hint: str, *, deadline: float = 240
    ) -> Object:
        """Wait until an object is there and is as wanted; return it."""
        last: Object = {}

        def look() -> bool:
            nonlocal last
            with contextlib.suppress(KubectlError):
                last = self.get(what)
                return holds(last)
            return False

        wait(look, lambda: f"{what}: {hint}; it is {_status(last)}", deadline=deadline)
        return last

    def ready(self, what: str, reason: str = "Available", *, deadline: float = 240) -> Object:
        """Wait until the Ready condition of one of our objects has this reason."""
        return self.until(
            what, lambda body: condition(body)["reason"] == reason, reason, deadline=deadline
        )

    def rolled_out(self, what: str, *, deadline: float = 300) -> None:
        """Wait until all pods of a Deployment or StatefulSet are new and ready."""
        arguments = ("rollout", "status", what, f"--timeout={deadline:g}s")
        self.kubectl(*arguments, timeout=deadline + 30)

    def completed(self, job: str, *, deadline: float = 300) -> Object:
        """Wait until a Job has completed; fail at once when it has failed."""

        def done(body: Object) -> bool:
            states = {
                each["type"]
                for each in body["status"].get("conditions", [])
                if each["status"] == "True"
            }
            assert "Failed" not in states, f"{job} failed\n{self.report()}"
            return "Complete" in states

        return self.until(job, done, "completed", deadline=deadline)

    def pods(self, selector: str) -> list[Object]:
        """The pods with these labels that are not being deleted."""
        items = self.get("pods", f"--selector={selector}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def pod(self, selector: str) -> str:
        """The name of the only pod with these labels."""
        (pod,) = self.pods(selector)
        return pod["metadata"]["name"]

    def kill(self, pod: str) -> None:
        """End a pod at once, with no time for goodbyes."""
        self.delete(f"pod/{pod}", "--grace-period=0", "--force")

    def exec(
        self,
        target: str,
        *command: str,
        container: str | None = None,
        input: str | None = None,
        timeout: float = 120,
    ) -> str:
        """Run a command in a pod, or in one of a Deployment: `exec("deploy/x", "true")`."""
        where = [] if container is None else [f"--container={container}"]
        with_input = [] if input is None else ["--stdin"]
        return self.kubectl(
            "exec", target, *where, *with_input, "--", *command, input=input, timeout=timeout
        )

    def logs(self, target: str, *arguments: str) -> str:
        return self.kubectl("logs", target, *arguments)

    def report(self) -> str:
        """What happened here: pods, events, ends of logs."""
        parts = [f"=== namespace {self.name}", self.kubectl("get", "all", "--output=wide")]
        parts.append(self.kubectl("get", "events", "--sort-by=.lastTimestamp"))
        for pod in self.get("pods")["items"]:
            name = pod["metadata"]["name"]
            parts.append(f"--- {name}: {json.dumps(_brief(pod))}")
            for options in (("--all-containers", "--tail=25"), ("--previous", "--tail=15")):
                with contextlib.suppress(KubectlError):
                    parts.append(self.logs(name, "--prefix", *options))
        return "\n".join(parts)


def condition(body: Object, of: str = "Ready") -> Object:
    """Return a condition of an object; one without a reason when it is not there."""
    found: Iterable[Object] = body.get("status", {}).get("conditions", [])
    return next((item for item in found if item["type"] == of), {"status": "", "reason": ""})


def _status(body: Object) -> str:
    return json.dumps(body.get("status", "not there"))


def _brief(pod: Object) -> Mapping[str, Any]:
    status = pod["status"]
    states = status.get("initContainerStatuses", []) + status.get("containerStatuses", [])
    return {
        "phase": status["phase"],
        **{
            state["name"]: {**state["state"], "restarts": state["restartCount"]} for state in states
        },
    }
