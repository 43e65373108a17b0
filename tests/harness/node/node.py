"""A node from its first process to a pod that can run, and back to nothing."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.control_plane_commands import SERVICE_RANGE, Place
from tests.harness.node import leftovers, settings
from tests.harness.node.images import write_image
from tests.harness.node.namespaces import ADDRESS, Namespaces
from tests.harness.node.programs import Programs, ensure
from tests.harness.node.settings import Files
from tests.harness.tied_processes import TiedProcesses

_USERS = {
    "kubelet": ("system:node:{name}", ["system:nodes"]),
    "kube-proxy": ("system:kube-proxy", []),
    "kube-controller-manager": ("system:kube-controller-manager", []),
    "kube-scheduler": ("system:kube-scheduler", []),
}
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class NodeFailed(Exception):
    """A part of the node ended, or the node did not become ready; ends with the logs of its parts."""


class Node:
    """A running cluster of one node; made by `start`, ended by `stop` or a `with` block.

    Attributes:
        name: of the node.
        directory: everything of it, logs included.
        plane: its control plane.
    """

    def __init__(self, programs: Programs) -> None:
        self.directory, self._lock = leftovers.new_directory()
        self.name = self.directory.name
        self._programs = programs
        self._files = Files(self.name, self.directory)
        self._namespaces = Namespaces(self.directory, programs, SERVICE_RANGE)
        self._parts: TiedProcesses | None = None
        self._plane: ControlPlane | None = None

    @classmethod
    def start(cls, programs: Programs | None = None, *, deadline: float = 240) -> Self:
        """Bring everything up and wait until a pod can run, for at most `deadline` seconds.

        What a run left that was killed is removed first.

        Raises:
            NodeUnavailable: this machine cannot have one.
            NodeFailed, ControlPlaneError, NamespacesFailed: a part did not come up.
        """
        leftovers.sweep()
        node = cls(programs or ensure())
        try:
            node._bring_up(deadline)
        except BaseException:
            node.stop()
            raise
        return node

    @property
    def plane(self) -> ControlPlane:
        assert self._plane is not None, "start() comes first"
        return self._plane

    @property
    def network(self) -> tuple[str, ...]:
        """What stands before a command of this machine that is to reach the node's addresses."""
        return self._namespaces.network

    @property
    def first_process(self) -> int:
        """The id of the process whose namespaces are the node's."""
        return self._namespaces.first

    def import_image(self, archive: Path) -> None:
        """Give the node an image, from an archive in the layout of the OCI or of Docker."""
        self._ctr("images", "import", str(archive))

    def images(self) -> set[str]:
        """The names of the images that the node has."""
        return set(self._ctr("images", "list", "--quiet").split())

    def stop(self) -> None:
        """End everything and remove it. Again is harmless."""
        if self._lock.closed:
            return
        self._namespaces.stop()
        if self._parts is not None:
            self._parts.stop()
        if self._plane is not None:
            self._plane.stop()
        leftovers.remove(self.directory)
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _bring_up(self, deadline: float) -> None:
        end = time.monotonic() + deadline
        self._namespaces.start()
        self._plane = plane = ControlPlane.start(
            self.directory / "control-plane",
            binaries=self._programs.kubernetes,
            place=Place(ADDRESS, self._namespaces.network, kubelets=True),
            deadline=deadline,
        )
        serving = plane.certificates.server("kubelet-serving", hosts=[ADDRESS])
        settings.write(self._files, self._programs, authority=plane.authority, serving=serving)
        self._parts = parts = self._make_parts(plane)
        parts.start("containerd")
        self._wait(end, "containerd answers", self._containerd_answers)
        for part in _USERS:
            parts.start(part)
        for image, program in (
            (settings.PAUSE_IMAGE, "pause"),
            (settings.NAMES_IMAGE, "coredns"),
        ):
            archive = self.directory / f"{program}.tar"
            write_image(archive, name=image, program=self._programs.node[program])
            self.import_image(archive)
            archive.unlink()
        plane.apply(
            json.dumps({"apiVersion": "v1", "kind": "List", "items": settings.name_server()})
        )
        self._wait(end, "the node is ready", self._ready)
        self._wait(end, "names are resolved", self._names_resolved)

    def _make_parts(self, plane: ControlPlane) -> TiedProcesses:
        kubeconfigs = {
            part: plane.kubeconfig_of(part, user=user.format(name=self.name), groups=groups)
            for part, (user, groups) in _USERS.items()
        }
        commands = settings.commands(
            self._files,
            self._programs,
            kubeconfigs,
            authority=plane.authority,
            key=plane.token_key,
        )
        env = shutil.which("env") or "/usr/bin/env"
        inside = (*self._namespaces.inside, env, _PATH)
        return TiedProcesses(
            self.directory, {part: [*inside, *command] for part, command in commands.items()}
        )

    def _containerd_answers(self) -> bool:
        try:
            self._ctr("version")
        except NodeFailed:
            return False
        return True

    def _ready(self) -> bool:
        try:
            node = json.loads(self.plane.kubectl("get", "node", self.name, "--output=json"))
        except KubectlError:
            return False
        conditions = node["status"].get("conditions", [])
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    def _names_resolved(self) -> bool:
        get = ("get", "deployment", "coredns", "--namespace=kube-system", "--output=json")
        status = json.loads(self.plane.kubectl(*get))["status"]
        return status.get("readyReplicas") == 1

    def _wait(self, end: float, what: str, condition: Callable[[], bool]) -> None:
        assert self._parts is not None
        while not condition():
            ended = self._parts.ended()
            if ended or time.monotonic() > end:
                said = f"{ended} ended" if ended else f"not in time: {what}"
                raise NodeFailed(f"{said}\n{self.logs()}")
            time.sleep(0.1)

    def logs(self, lines: int = 15) -> str:
        """The last lines of the log of every part of the node."""
        text: list[str] = []
        for log in sorted(self.directory.rglob("*.log")):
            if log.parent in {self.directory, self.directory / "control-plane"}:
                tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
                text += [f"--- {log.stem}", *tail]
        return "\n".join(text)

    def _ctr(self, *arguments: str) -> str:
        command = [self._programs.system["ctr"], f"--address={self._files.socket}"]
        done = subprocess.run(
            [*command, "--namespace=k8s.io", *arguments],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0:
            raise NodeFailed(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout
