"""The programs of Kubernetes for the tests: found where they are, or built once from source.

kube-apiserver, etcd and kubectl make a control plane; a whole node needs the others too. Each is
looked for in `KUBEBUILDER_ASSETS`, then in the cache, and is built from Go modules when neither has
it. Versions are those of `go/go.mod`, so a build is always the same build.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.go_modules import BuildFailed, GoModule, build_platform, building_in

_MODULE = GoModule("go")

_PACKAGES: Mapping[str, str] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}

_NODE_PACKAGES: Mapping[str, str] = {
    "kubelet": "k8s.io/kubernetes/cmd/kubelet",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
    "coredns": "holdfast.dev/tests/harness/coredns",
    "pause": "holdfast.dev/tests/harness/pause",
}


class ControlPlaneUnavailable(Exception):
    """The programs of a control plane are not here and cannot be built; one sentence says why."""


@dataclass(frozen=True, slots=True)
class KubernetesBinaries:
    """The programs a control plane is made of, as absolute paths of executable files."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


def find(environ: Mapping[str, str] = os.environ) -> KubernetesBinaries | None:
    """Look for the programs without building anything; None when they have to be built.

    Raises:
        ControlPlaneUnavailable: `KUBEBUILDER_ASSETS` is set and lacks one of them. It is the
            word of whoever runs the tests, so nothing else is tried in its place.
    """
    assets = environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        folder = cache_folder(environ)
        return None if _missing(folder) else _in_folder(folder)
    folder = Path(assets).expanduser().absolute()
    if missing := _missing(folder):
        raise ControlPlaneUnavailable(
            f"KUBEBUILDER_ASSETS names {folder}, which has no executable {', '.join(missing)}"
        )
    return _in_folder(folder)


def ensure(environ: Mapping[str, str] = os.environ) -> KubernetesBinaries:
    """Find the programs, or build the missing ones into the cache (minutes, once).

    Any number of processes may ask at the same time: one builds, the others wait for it.

    Raises:
        ControlPlaneUnavailable: as `find`; or Go is missing or too old; or the build failed.
    """
    if (binaries := find(environ)) is not None:
        return binaries
    folder = cache_folder(environ)
    _build_missing(_PACKAGES, folder, environ)
    return _in_folder(folder)


def ensure_node(environ: Mapping[str, str] = os.environ) -> Mapping[str, Path]:
    """The further programs of a whole node, by name; builds the missing ones (minutes, once).

    Those that are in `KUBEBUILDER_ASSETS` are taken from there: unlike the control plane's, none of
    them has to be, since nobody ships them all.

    Raises:
        ControlPlaneUnavailable: as `ensure`.
    """
    folder = cache_folder(environ)
    assets = Path(environ.get("KUBEBUILDER_ASSETS") or folder).expanduser().absolute()
    absent = _missing(assets, _NODE_PACKAGES)
    _build_missing(absent, folder, environ)
    return {name: (folder if name in absent else assets) / name for name in _NODE_PACKAGES}


def _build_missing(names: Iterable[str], folder: Path, environ: Mapping[str, str]) -> None:
    if not _missing(folder, names):
        return
    if shutil.which("go", path=environ.get("PATH")) is None:
        raise _go_needed("there is none on PATH")
    with building_in(folder):
        missing = _missing(folder, names)
        if missing:
            _check_go_version(environ)
        for program in missing:
            _build(program, folder, environ)


def kubernetes_version() -> str:
    """The version that is built, such as `v1.36.3`: the one `go/go.mod` requires."""
    return _MODULE.pinned(r"k8s\.io/kubernetes (v\d+\.\d+\.\d+)")


def cache_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where built programs are kept: one folder per Kubernetes version and platform."""
    if chosen := environ.get("HOLDFAST_CACHE"):
        cache = Path(chosen)
    else:
        cache = Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "holdfast"
    system, machine = build_platform()
    return cache.expanduser().absolute() / f"kubernetes-{kubernetes_version()}-{system}-{machine}"


def _in_folder(folder: Path) -> KubernetesBinaries:
    return KubernetesBinaries(
        etcd=folder / "etcd", kube_apiserver=folder / "kube-apiserver", kubectl=folder / "kubectl"
    )


def _missing(folder: Path, names: Iterable[str] = _PACKAGES) -> list[str]:
    return [name for name in names if not os.access(folder / name, os.X_OK)]


def _build(program: str, folder: Path, environ: Mapping[str, str]) -> None:
    print(f"building {program}, once (all of them take some minutes)", file=sys.stderr)
    package = {**_PACKAGES, **_NODE_PACKAGES}[program]
    build_kubernetes(_MODULE, package, folder / program, kubernetes_version(), environ)


def build_kubernetes(
    module: GoModule, package: str, program: Path, version: str, environ: Mapping[str, str]
) -> None:
    """Build one program, which says that it is of that version.

    Raises:
        ControlPlaneUnavailable: the build failed.
    """
    major, minor, _ = version.removeprefix("v").split(".")
    told = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    stamps = {f"k8s.io/component-base/version.{name}": text for name, text in told.items()}
    try:
        module.build(package, program, stamps=stamps, environ=environ)
    except BuildFailed as error:
        raise ControlPlaneUnavailable(
            f"go could not build {program.name} {version}:\n{error}"
        ) from None


def _check_go_version(environ: Mapping[str, str]) -> None:
    said = _MODULE.run("env", "GOVERSION", environ=environ).stdout.strip()
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None:
        # A build of Go from its own sources says "devel": whether it will do, the build says.
        return
    major, minor = _go_minimum().split(".")
    if (int(found[1]), int(found[2])) < (int(major), int(minor)):
        raise _go_needed(f"the one on PATH is {said}")


def _go_needed(but: str) -> ControlPlaneUnavailable:
    return ControlPlaneUnavailable(
        f"building Kubernetes {kubernetes_version()} needs Go {_go_minimum()} or newer and {but}:"
        " install it, or let KUBEBUILDER_ASSETS name a folder with kube-apiserver, etcd and kubectl"
    )


def _go_minimum() -> str:
    return _MODULE.pinned(r"(?m)^go (\d+\.\d+)")
