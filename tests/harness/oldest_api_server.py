"""The API server of the oldest Kubernetes that the chart asks for, beside etcd and kubectl of the tests.

    KUBEBUILDER_ASSETS=$(python -m tests.harness.oldest_api_server)

puts a folder with the three into the cache, or says where it is: tests that ask for a control plane use
it then. Its version is that of `go-oldest/go.mod`. No run builds it by itself, since it takes minutes.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.harness import kubernetes_binaries
from tests.harness.go_modules import GoModule, building_in
from tests.harness.kubernetes_binaries import ControlPlaneUnavailable, build_kubernetes

_MODULE = GoModule("go-oldest")
_PACKAGE = "k8s.io/kubernetes/cmd/kube-apiserver"


def version() -> str:
    """The version that is built, such as `v1.30.14`."""
    return _MODULE.pinned(r"k8s\.io/kubernetes (v\d+\.\d+\.\d+)")


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
    server = folder / "kube-apiserver"
    with building_in(folder):
        if not os.access(server, os.X_OK):
            print(f"building {server.name} {version()}, once (some minutes)", file=sys.stderr)
            build_kubernetes(_MODULE, _PACKAGE, server, version(), environ)
        for program in (others.etcd, others.kubectl):
            link = folder / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    return folder


if __name__ == "__main__":
    try:
        print(ensure())
    except ControlPlaneUnavailable as error:
        sys.exit(str(error))
