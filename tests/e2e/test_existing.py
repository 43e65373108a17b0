"""The stories run on a cluster that somebody has, and leave it as it was except for the definitions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.own import own_cluster
from tests.e2e.product import HOME, PLATFORM
from tests.harness.image import ImageUnavailable
from tests.harness.node.cluster import Cluster
from tests.harness.node.programs import Programs
from tests.harness.parts import missing

ROOT = Path(__file__).parents[2]
STORY = "tests/e2e/test_jobs.py"


def run_elsewhere(cluster: Cluster, parts: Programs) -> str:
    """Run a story as a person does who says where the cluster and the image are."""
    assert cluster.node is not None
    environ = {
        **os.environ,
        "PATH": f"{parts.kubernetes.kubectl.parent}:{os.environ.get('PATH', os.defpath)}",
        "KUBECONFIG": str(cluster.kubeconfig),
        "HOLDFAST_IMAGE": cluster.images.holdfast,
        "HOLDFAST_VALKEY_IMAGE": cluster.images.valkey,
    }
    done = subprocess.run(
        # A cluster of somebody's is reached from where they are; that of a node, from its network.
        [*cluster.node.network, sys.executable, "-m", "pytest", "-q", STORY],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_a_story_runs_on_a_cluster_of_ones_own(node_programs: Programs):
    if os.environ.get("HOLDFAST_IMAGE"):
        pytest.skip("it runs on one already")
    try:
        with own_cluster(node_programs) as cluster:
            assert "1 passed" in run_elsewhere(cluster, node_programs)
            for namespace in (HOME, PLATFORM):
                assert not cluster.exists("namespace", namespace)
            kinds = "deployments,mutatingwebhookconfigurations,validatingadmissionpolicies"
            left = cluster.kubectl("get", kinds, "--all-namespaces", "--output=name").split()
            assert [name for name in left if "holdfast" in name] == []
            assert cluster.exists("crd", "memoryresources.holdfast.dev")
    except ImageUnavailable as error:
        missing("the image", str(error))
