"""What a whole node needs on this machine, and what is said where it is not there."""

import os
import shutil
import subprocess
import sys
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


def _forbidden() -> str | None:
    """Try the namespaces: a container that is called root may still not make any."""
    command = [
        _which("unshare") or "",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "true",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return f"this root may not make namespaces ({done.stderr.strip()})"


def _which(name: str) -> str | None:
    # The folders of the system's programs, also where a user's path leaves them out.
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _plugins() -> Path | None:
    folders = (Path(folder) for folder in _PLUGIN_FOLDERS)
    return next(
        (folder for folder in folders if all((folder / name).is_file() for name in _PLUGINS)), None
    )
