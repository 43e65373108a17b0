"""Where the programs of a control plane come from, and what is said when they cannot be had."""

from pathlib import Path

import pytest

from tests.harness import kubernetes_binaries
from tests.harness.kubernetes_binaries import ControlPlaneUnavailable

PROGRAMS = ("kube-apiserver", "etcd", "kubectl")


def executable(path: Path, text: str = "#!/bin/sh\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_assets_come_before_the_cache(tmp_path: Path):
    environ = {"HOLDFAST_CACHE": str(tmp_path), "KUBEBUILDER_ASSETS": str(tmp_path / "assets")}
    for folder in (tmp_path / "assets", kubernetes_binaries.cache_folder(environ)):
        for program in PROGRAMS:
            executable(folder / program)
    found = kubernetes_binaries.ensure(environ)
    assert found.kube_apiserver == tmp_path / "assets" / "kube-apiserver"
    assert found.etcd == tmp_path / "assets" / "etcd"
    assert found.kubectl == tmp_path / "assets" / "kubectl"


def test_incomplete_assets_are_an_error_that_names_what_is_missing(tmp_path: Path):
    executable(tmp_path / "etcd")
    with pytest.raises(ControlPlaneUnavailable, match=r"no executable kube-apiserver, kubectl$"):
        kubernetes_binaries.ensure({"KUBEBUILDER_ASSETS": str(tmp_path)})


def test_the_cache_is_per_version(tmp_path: Path):
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    folder = kubernetes_binaries.cache_folder(environ)
    assert folder.parent == tmp_path / "holdfast"
    assert kubernetes_binaries.kubernetes_version() in folder.name
    assert kubernetes_binaries.find(environ) is None
    for program in PROGRAMS:
        executable(folder / program)
    assert kubernetes_binaries.ensure(environ).etcd == folder / "etcd"


def test_without_go_one_sentence_says_what_to_do(tmp_path: Path):
    environ = {"HOLDFAST_CACHE": str(tmp_path), "PATH": str(tmp_path)}
    with pytest.raises(ControlPlaneUnavailable) as unavailable:
        kubernetes_binaries.ensure(environ)
    assert str(unavailable.value) == (
        f"building Kubernetes {kubernetes_binaries.kubernetes_version()} needs Go 1.26 or newer and"
        " there is none on PATH: install it, or let KUBEBUILDER_ASSETS name a folder with"
        " kube-apiserver, etcd and kubectl"
    )


def test_an_older_go_is_not_tried(tmp_path: Path):
    executable(tmp_path / "go", "#!/bin/sh\necho go1.22.7\n")
    environ = {"HOLDFAST_CACHE": str(tmp_path), "PATH": str(tmp_path)}
    with pytest.raises(ControlPlaneUnavailable, match=r"the one on PATH is go1\.22\.7:"):
        kubernetes_binaries.ensure(environ)


def test_a_failed_build_says_why_and_leaves_nothing_that_could_be_run(tmp_path: Path):
    executable(
        tmp_path / "go",
        '#!/bin/sh\nif [ "$1" = env ]; then echo go1.26.0; exit; fi\n'
        "echo no space left on device >&2; exit 1\n",
    )
    environ = {"HOLDFAST_CACHE": str(tmp_path), "PATH": str(tmp_path)}
    with pytest.raises(ControlPlaneUnavailable, match="no space left on device"):
        kubernetes_binaries.ensure(environ)
    assert kubernetes_binaries.find(environ) is None
