"""A Docker of one's own: its daemon in namespaces that end with the test, and nothing of the machine's.

It has its own socket, store and cgroup, no network to offer and no rule in the machine's firewall.
Containers of a build use the machine's network, as packages come from there; nothing is pulled.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.node import leftovers
from tests.harness.tied_processes import TiedProcesses

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NEEDED = ("dockerd", "containerd", "runc", "unshare")
PRIVATE_RUN = ("sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")
"""What stands before a command, in mounts of its own, that must leave nothing in /run."""
_BUILDX_IS_APART = 23
"""From this version on, the client has BuildKit in a plugin, which a package of its own brings."""


class DockerUnavailable(Exception):
    """There can be no Docker here, or it failed; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Docker:
    """A client of a daemon that runs; made by `running`."""

    client: str
    socket: Path

    def __call__(self, *arguments: str, environ: Mapping[str, str] | None = None) -> str:
        """Run a command and return what it printed.

        Raises:
            DockerUnavailable: it failed; ends with its last lines.
        """
        done = self.call(*arguments, environ=environ)
        if done.returncode != 0:
            lines = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
            raise DockerUnavailable(f"docker {arguments[0]} failed:\n{lines}")
        return done.stdout

    def call(
        self, *arguments: str, environ: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and return how it ended. `environ` is over the variables that it has."""
        command = [self.client, f"--host=unix://{self.socket}", *arguments]
        own = {"PATH": _PATH, "HOME": str(self.socket.parent), "DOCKER_BUILDKIT": "1"}
        return _run(command, {**own, **(environ or {})})


def obstacle() -> str | None:
    """Why there can be no Docker here, as a sentence that says what to do; None if there can."""
    if os.geteuid() != 0:
        return "a Docker of one's own needs root"
    if any(shutil.which(name, path=_PATH) is None for name in _NEEDED):
        return "a Docker of one's own needs apt-get install --no-install-recommends docker.io"
    if _client() is None:
        return "no `docker` here can build with BuildKit: install the plugin buildx"
    return None


@contextmanager
def running(*, deadline: float = 60) -> Iterator[Docker]:
    """Start a daemon; when the block ends, its processes, mounts, cgroups and files are gone.

    Raises:
        DockerUnavailable: a program is missing, or it does not answer within `deadline` seconds.
    """
    client = _client()
    if (why := obstacle()) is not None or client is None:
        raise DockerUnavailable(why or "there is no client")
    directory = Path(tempfile.mkdtemp(prefix="holdfast-docker-"))
    docker = Docker(client, directory / "docker.sock")
    processes = TiedProcesses(directory, {"dockerd": _daemon(directory, docker.socket)})
    try:
        processes.start("dockerd")
        end = time.monotonic() + deadline
        while docker.call("info").returncode != 0:
            if processes.ended() or time.monotonic() > end:
                raise DockerUnavailable(f"dockerd:\n{processes.log_tail('dockerd')}")
            time.sleep(0.1)
        yield docker
    finally:
        processes.stop()
        leftovers.remove(directory)


def _daemon(directory: Path, socket: Path) -> list[str]:
    (directory / "daemon.json").write_text(json.dumps({"features": {"buildkit": True}}))
    apart = ["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child=SIGKILL", "--"]
    return [
        *("/usr/bin/env", f"PATH={_PATH}", *apart, *PRIVATE_RUN),
        *("dockerd", f"--host=unix://{socket}"),
        *(f"--config-file={directory / 'daemon.json'}", f"--cgroup-parent=/{directory.name}"),
        *(f"--data-root={directory / 'data'}", f"--exec-root={directory / 'run'}"),
        *(f"--pidfile={directory / 'pid'}", "--bridge=none", "--iptables=false"),
        *("--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
    ]


def _client() -> str | None:
    """The first client on the path that can build with BuildKit."""
    found = (shutil.which("docker", path=folder) for folder in _PATH.split(":"))
    return next((client for client in found if client is not None and _can_build(client)), None)


def _can_build(client: str) -> bool:
    version = _run([client, "--version"], {"PATH": _PATH}).stdout
    major = re.search(r"version (\d+)\.", version)
    apart = major is None or int(major[1]) >= _BUILDX_IS_APART
    return not apart or _run([client, "buildx", "version"], {"PATH": _PATH}).returncode == 0


def _run(command: Sequence[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=dict(environ), capture_output=True, text=True, check=False, cwd="/"
    )
