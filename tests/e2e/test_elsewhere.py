"""Where no node can be brought up, one sentence says why, and what to do instead."""

import os

import pytest

from tests.harness.node import programs
from tests.harness.node.programs import NodeUnavailable


def said() -> str:
    with pytest.raises(NodeUnavailable) as unavailable:
        programs.ensure()
    return str(unavailable.value)


@pytest.fixture
def as_root_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("os.geteuid", lambda: 0)


@pytest.mark.usefixtures("as_root_on_linux")
@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("sys.platform", "darwin", "a whole node runs on Linux only; "),
        (
            "os.geteuid",
            lambda: 1000,
            "a whole node needs root: it makes namespaces, mounts and cgroups; ",
        ),
    ],
)
def test_it_needs_root_on_linux(
    monkeypatch: pytest.MonkeyPatch, name: str, value: object, why: str
):
    monkeypatch.setattr(name, value)
    assert said().startswith(why)


@pytest.mark.usefixtures("as_root_on_linux")
def test_what_is_not_installed_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda name, **_: None if name == "ctr" else f"/bin/{name}")
    monkeypatch.setattr(programs, "_PLUGIN_FOLDERS", ("/nowhere",))
    assert said().startswith(
        "a whole node needs more programs: apt-get install --no-install-recommends containerd"
        " containernetworking-plugins; "
    )


@pytest.mark.usefixtures("as_root_on_linux")
def test_the_way_to_a_cluster_of_ones_own_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    sentence = said()
    for word in ("kind create cluster", "kind load docker-image", "KUBECONFIG=", "HOLDFAST_IMAGE="):
        assert word in sentence


@pytest.mark.skipif(os.geteuid() != 0, reason="what root may do, only root can try")
def test_what_this_root_may_not_do_is_named(monkeypatch: pytest.MonkeyPatch):
    assert programs.obstacle() is None, "all of it was tried, and is possible"
    trials = {"make a group": "true", "fly in {folder}": "echo no wings >&2; false"}
    monkeypatch.setattr(programs, "_TRIALS", trials)
    sentence = said()
    assert sentence.startswith("this root cannot fly in /")
    assert " (no wings); to run them on a cluster of your own instead" in sentence
