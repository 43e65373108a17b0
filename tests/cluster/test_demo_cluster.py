"""The demo on a real API server: one of its own, and the one of the current kubeconfig."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.harness.control_plane import ControlPlane

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def run_demo(*arguments: str, variables: Mapping[str, str] | None = None) -> str:
    """Run the demo to its good end and return what it said."""
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "support" / "demo.py"), *arguments],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8", **(variables or {})},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "All 9 hold." in done.stdout
    return done.stdout


def test_on_an_api_server_of_its_own(control_plane: ControlPlane) -> None:
    assert f"Kubernetes {control_plane.version()} and the operator" in run_demo("--cluster")


def test_on_the_cluster_of_the_current_kubeconfig(control_plane: ControlPlane) -> None:
    path = f"{control_plane.kubectl_path.parent}{os.pathsep}{os.environ['PATH']}"
    variables = {
        "KUBECONFIG": str(control_plane.admin_kubeconfig),
        "KUBECONFIG_CONTEXT": "current",
        "PATH": path,
    }
    said = run_demo("--cluster", variables=variables)
    assert "the cluster of the context tests" in said
    namespaces = json.loads(control_plane.kubectl("get", "namespaces", "-o=json"))["items"]
    left = [
        one["metadata"]["name"]
        for one in namespaces
        if re.fullmatch(r"holdfast-demo-[0-9a-f]{6}", one["metadata"]["name"])
        and "deletionTimestamp" not in one["metadata"]
    ]
    assert left == []
    kinds = "memoryresources,memorybackends"
    objects = json.loads(control_plane.kubectl("get", kinds, "--all-namespaces", "-o=json"))[
        "items"
    ]
    assert not [one for one in objects if one["metadata"]["namespace"].startswith("holdfast-demo-")]
