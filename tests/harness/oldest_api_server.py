"""The API server of the oldest Kubernetes that the chart asks for, beside etcd and kubectl of the tests.

    KUBEBUILDER_ASSETS=$(python -m tests.harness.oldest_api_server)

puts a folder with the three into the cache, or says where it is: tests that ask for a control plane use
it then. Its version is that of `go-oldest/go.mod`. No run builds it by itself, since it takes minutes.
"""

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.harness import kubernetes_binaries
from tests.harness.kubernetes_binaries import ControlPlaneUnavailable

_MODULE = Path(__file__).parent / "go-oldest"
_PACKAGE = "k8s.io/kubernetes/cmd/kube-apiserver"
_STAMP = "k8s.io/component-base/version"
_GO = {"GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}


def version() -> str:
    """The version that is built, such as `v1.30.14`."""
    text = (_MODULE / "go.mod").read_text(encoding="utf-8")
    found = re.search(r"(?m)^\s*(?:require )?k8s\.io/kubernetes (v\d+\.\d+\.\d+)", text)
    assert found is not None, "go.mod requires it"
    return found[1]


def ensure(environ: Mapping[str, str] = os.environ) -> Path:
    """Find the folder, or build what is in it (minutes, once).

    Raises:
        ControlPlaneUnavailable: Go is missing or too old, or the build failed.
    """
    without_choice = {key: text for key, text in environ.items() if key != "KUBEBUILDER_ASSETS"}
    others = kubernetes_binaries.ensure(without_choice)
    newest = kubernetes_binaries.cache_folder(environ)
    name = newest.name.replace(kubernetes_binaries.kubernetes_version(), version())
    folder = newest.with_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file gives it back
        if not os.access(folder / "kube-apiserver", os.X_OK):
            _build(folder, environ)
        for program in (others.etcd, others.kubectl):
            link = folder / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    return folder


def _build(folder: Path, environ: Mapping[str, str]) -> None:
    print(f"building kube-apiserver {version()}, once (some minutes)", file=sys.stderr)
    major, minor, _ = version().removeprefix("v").split(".")
    stamps = {"gitVersion": version(), "gitMajor": major, "gitMinor": minor}
    flags = " ".join(["-s -w", *(f"-X {_STAMP}.{name}={text}" for name, text in stamps.items())])
    unfinished = folder / ".kube-apiserver.unfinished"
    command = ["go", "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", flags]
    done = subprocess.run(
        [*command, "-o", str(unfinished), _PACKAGE],
        cwd=_MODULE,
        env={**environ, **_GO, "GOOS": "", "GOARCH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = "\n".join(done.stderr.splitlines()[-20:])
        raise ControlPlaneUnavailable(f"go could not build kube-apiserver {version()}:\n{lines}")
    unfinished.replace(folder / "kube-apiserver")


if __name__ == "__main__":
    try:
        print(ensure())
    except ControlPlaneUnavailable as error:
        sys.exit(str(error))
