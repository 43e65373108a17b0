"""The real Helm for the tests: built once from Go modules, and run with nothing of the caller's.

    python -m tests.harness.helm build

puts the program into the cache, or says where it already is. Its version is that of
`go-helm/go.mod`; `HOLDFAST_HELM` names another one.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.harness import kubernetes_binaries
from tests.harness.go_modules import BuildFailed, GoModule, building_in
from tests.harness.tied_processes import LAZY_COLLECTOR

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/holdfast"
_USUAL = ("holdfast", CHART, "holdfast-system")
"""Release, chart and namespace, where nothing else is said."""

_MODULE = GoModule("go-helm")
_PACKAGE = "helm.sh/helm/v3/cmd/helm"

Values = Mapping[str, Any]


class HelmUnavailable(Exception):
    """Helm is not here and cannot be built; one sentence says why."""


class HelmError(Exception):
    """Helm ended with an error; `stderr` is what it said."""

    def __init__(self, arguments: Sequence[str], returncode: int, stderr: str) -> None:
        super().__init__(f"helm {' '.join(arguments)} ended with {returncode}: {stderr.strip()}")
        self.stderr = stderr


class Helm:
    """Helm with a home of its own, so that no repository and no setting of the caller's counts.

    Args:
        kubeconfig: the cluster; absent: none can be reached, which is enough to render.
        program: the program; absent: the one that `ensure` gives.
    """

    def __init__(self, kubeconfig: Path | None = None, *, program: Path | None = None) -> None:
        self._program = program or ensure()
        self._kubeconfig = kubeconfig
        self._home = tempfile.mkdtemp(prefix="holdfast-helm-")
        weakref.finalize(self, shutil.rmtree, self._home, ignore_errors=True)

    def run(self, *arguments: str, input: str | None = None, timeout: float = 600) -> str:
        """Run Helm and return its output. `timeout` is in seconds.

        Raises:
            HelmError: it ended with an error.
        """
        home = self._home
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": home,
            "HELM_CACHE_HOME": f"{home}/cache",
            "HELM_CONFIG_HOME": f"{home}/config",
            "HELM_DATA_HOME": f"{home}/data",
            "KUBECONFIG": str(self._kubeconfig or Path(home) / "none"),
            **LAZY_COLLECTOR,
        }
        done = subprocess.run(
            [str(self._program), *arguments],
            env=environ,
            input=input or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise HelmError(arguments, done.returncode, done.stderr)
        return done.stdout

    def template(
        self,
        values: Values | None = None,
        *arguments: str,
        release: str = "holdfast",
        namespace: str = "holdfast-system",
        chart: Path = CHART,
    ) -> list[dict[str, Any]]:
        """Render the chart, and return the objects in the order in which Helm would create them."""
        text = self.run(
            "template",
            release,
            str(chart),
            f"--namespace={namespace}",
            *_given(values),
            *arguments,
            input=_text(values),
        )
        return [document for document in yaml.load_all(text, _Loader) if document]

    def install(
        self,
        values: Values | None = None,
        *arguments: str,
        release: str = "holdfast",
        namespace: str = "holdfast-system",
        chart: Path = CHART,
    ) -> str:
        """Install the chart; `--wait` is one of the `arguments` where pods can run."""
        return self._change("install", values, arguments, place=(release, chart, namespace))

    def upgrade(self, values: Values, *arguments: str) -> str:
        """Upgrade the release of the usual name. Without `--reuse-values`, `values` are all there are."""
        return self._change("upgrade", values, arguments, place=_USUAL)

    def uninstall(
        self, *arguments: str, release: str = "holdfast", namespace: str = "holdfast-system"
    ) -> str:
        """Uninstall a release."""
        return self.run("uninstall", release, f"--namespace={namespace}", *arguments)

    def test(
        self, *arguments: str, release: str = "holdfast", namespace: str = "holdfast-system"
    ) -> str:
        """Run the tests of the chart on a release (`helm test --logs`)."""
        return self.run("test", release, f"--namespace={namespace}", "--logs", *arguments)

    def package(self, destination: Path, *, chart: Path = CHART) -> Path:
        """Package a chart into a folder, and return the archive."""
        said = self.run("package", str(chart), f"--destination={destination}")
        return Path(said.rpartition(": ")[2].strip())

    def _change(
        self,
        verb: str,
        values: Values | None,
        arguments: Sequence[str],
        *,
        place: tuple[str, Path, str],
    ) -> str:
        release, chart, namespace = place
        command = [verb, release, str(chart), f"--namespace={namespace}", *_given(values)]
        return self.run(*command, *arguments, input=_text(values))


class _Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it: `=` is a string, which PyYAML alone takes for something else."""


_Loader.add_constructor(
    "tag:yaml.org,2002:value", yaml.constructor.SafeConstructor.construct_yaml_str
)


def _given(values: Values | None) -> list[str]:
    return [] if values is None else ["--values=-"]


def _text(values: Values | None) -> str | None:
    return None if values is None else json.dumps(values)


def ensure(environ: Mapping[str, str] = os.environ) -> Path:
    """Find Helm, or build it into the cache (about a minute, once). One process builds at a time.

    Raises:
        HelmUnavailable: `HOLDFAST_HELM` names nothing that can be run; or Go is missing; or the
            build failed.
    """
    if chosen := environ.get("HOLDFAST_HELM"):
        if not os.access(chosen, os.X_OK):
            raise HelmUnavailable(f"HOLDFAST_HELM names {chosen}, which is no program")
        return Path(chosen).absolute()
    program = _cached(environ)
    if os.access(program, os.X_OK):
        return program
    if shutil.which("go", path=environ.get("PATH")) is None:
        raise HelmUnavailable(
            f"building Helm {helm_version()} needs Go and there is none on PATH: install it, or let"
            " HOLDFAST_HELM name a Helm"
        )
    with building_in(program.parent):
        if not os.access(program, os.X_OK):
            _build(program, environ)
    return program


def built() -> bool:
    """Whether `ensure` would have nothing to build."""
    return bool(os.environ.get("HOLDFAST_HELM")) or os.access(_cached(os.environ), os.X_OK)


def helm_version() -> str:
    """The version that is built, such as `v3.22.0`: the one `go-helm/go.mod` requires."""
    return _pinned("helm.sh/helm/v3")


def _cached(environ: Mapping[str, str]) -> Path:
    kubernetes = kubernetes_binaries.cache_folder(environ)
    system = kubernetes.name.removeprefix(f"kubernetes-{kubernetes_binaries.kubernetes_version()}")
    return kubernetes.with_name(f"helm-{helm_version()}{system}") / "helm"


def _pinned(module: str) -> str:
    return _MODULE.pinned(rf"{re.escape(module)} (v\S+)")


def _build(program: Path, environ: Mapping[str, str]) -> None:
    print("building helm, once (about a minute)", file=sys.stderr)
    # What `helm template` takes for the version of the cluster, and `helm lint` for deprecations.
    minor = _pinned("k8s.io/client-go").split(".")[1]
    stamps = {"helm.sh/helm/v3/internal/version.version": helm_version()}
    for package in ("chartutil", "lint/rules"):
        stamps[f"helm.sh/helm/v3/pkg/{package}.k8sVersionMajor"] = "1"
        stamps[f"helm.sh/helm/v3/pkg/{package}.k8sVersionMinor"] = minor
    try:
        _MODULE.build(_PACKAGE, program, stamps=stamps, environ=environ)
    except BuildFailed as error:
        raise HelmUnavailable(f"go could not build Helm {helm_version()}:\n{error}") from None


def main() -> int:
    """`build`: make sure the program is there, and print where."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.helm")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build Helm if it is missing and print where it is")
    parser.parse_args()
    try:
        print(ensure())
    except HelmUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
