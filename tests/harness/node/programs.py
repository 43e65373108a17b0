"""What a whole node needs on this machine, and what is said where it is not there."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness import kubernetes_binaries
from tests.harness.kubernetes_binaries import KubernetesBinaries

_COMMANDS: Mapping[str, str] = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "mount": "mount",
    "ip": "iproute2",
    "iptables": "iptables",
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
}
_PLUGINS = ("ptp", "host-local", "portmap", "loopback")
_PLUGIN_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")

INSTEAD = (
    "to run them on a cluster of your own instead, for example one of kind: `kind create cluster"
    " --kubeconfig FILE`, build the image, `kind load docker-image IMAGE`, and"
    " `KUBECONFIG=FILE HOLDFAST_IMAGE=IMAGE make test-e2e`"
)


class NodeUnavailable(Exception):
    """A node cannot be brought up on this machine; the sentence says why and what to do instead."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Everything a node is made of, as absolute paths.

    Attributes:
        kubernetes: the control plane's.
        node: the others of Kubernetes, by name.
        system: those of the operating system, by name.
        plugins: the folder with the plugins that connect pods (CNI).
    """

    kubernetes: KubernetesBinaries
    node: Mapping[str, Path]
    system: Mapping[str, str]
    plugins: Path


def ensure() -> Programs:
    """Find every program; builds what is missing of Kubernetes (minutes, once).

    Raises:
        NodeUnavailable: this is not Linux, or not root, or something is not installed.
        ControlPlaneUnavailable: Kubernetes cannot be built.
    """
    if why := obstacle():
        raise NodeUnavailable(f"{why}; {INSTEAD}")
    return Programs(
        kubernetes=kubernetes_binaries.ensure(),
        node=kubernetes_binaries.ensure_node(),
        system={name: _which(name) or "" for name in _COMMANDS},
        plugins=_plugins() or Path(),
    )


def obstacle() -> str | None:
    """Say why no node can be brought up here; None when one can."""
    if sys.platform != "linux":
        return "a whole node runs on Linux only"
    if os.geteuid() != 0:
        return "a whole node needs root: it makes namespaces, mounts and cgroups"
    packages = {package for name, package in _COMMANDS.items() if _which(name) is None}
    if _plugins() is None:
        packages.add("containernetworking-plugins")
    if packages:
        names = " ".join(sorted(packages))
        return f"a whole node needs more programs: apt-get install --no-install-recommends {names}"
    return _forbidden()


_TRIALS: Mapping[str, str] = {
    "mount an overlay in {folder}: let TMPDIR name a folder on a disk": (
        'mkdir "$1/up" "$1/work" "$1/all" &&'
        ' mount -t overlay try -o "lowerdir=/var/lib,upperdir=$1/up,workdir=$1/work" "$1/all"'
    ),
    "mount over a setting of the kernel": "mount --bind /proc/version /proc/sys/kernel/panic",
    "make a bridge": "ip link add try type bridge",
    "make a pair of network links": "ip link add try0 type veth peer name try1",
    "write rules of a firewall": (
        "iptables -w -t nat -N TRY &&"
        " iptables -w -t nat -A TRY -m comment --comment try -m statistic --mode random"
        " --probability 0.5 -j RETURN &&"
        " iptables -w -t filter -A INPUT -m conntrack --ctstate NEW -m mark --mark 1 -j ACCEPT"
    ),
    "make a cgroup": (
        "for group in /sys/fs/cgroup /sys/fs/cgroup/*/; do"
        ' if [ -e "$group/cgroup.procs" ]; then'
        ' mkdir "$group/$2" && rmdir "$group/$2" && break; fi; done'
    ),
}
"""What a node does to the machine or in namespaces of its own, each as small as can be."""


def _forbidden() -> str | None:
    """Try what a node needs: a container that is called root may still not do all of it."""
    with tempfile.TemporaryDirectory(prefix="holdfast-try-") as folder:
        unshare = [_which("unshare") or "", "--net", "--mount", "--pid", "--fork", "--mount-proc"]
        lines = [f"({trial}) || exit {at}" for at, trial in enumerate(_TRIALS.values(), 10)]
        script = "\n".join([f"PATH={shlex.quote(_path())}; export PATH", *lines])
        command = [*unshare, "sh", "-c", script, "sh", folder, Path(folder).name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    said = done.stderr.strip()
    if not 0 <= done.returncode - 10 < len(_TRIALS):
        return f"this root may not make namespaces ({said})"
    what = list(_TRIALS)[done.returncode - 10].format(folder=tempfile.gettempdir())
    return f"this root cannot {what} ({said})"


def _path() -> str:
    # The folders of the system's programs, also where a user's path leaves them out.
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def _which(name: str) -> str | None:
    return shutil.which(name, path=_path())


def _plugins() -> Path | None:
    folders = (Path(folder) for folder in _PLUGIN_FOLDERS)
    return next(
        (folder for folder in folders if all((folder / name).is_file() for name in _PLUGINS)), None
    )
