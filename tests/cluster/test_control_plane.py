"""The control plane that the cluster tests stand on does what a cluster does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.waiting import wait

pytestmark = pytest.mark.cluster

READER = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules:
- {apiGroups: [""], resources: [configmaps], verbs: [get, list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects:
- {kind: ServiceAccount, name: reader}
"""


def test_serves_the_version_that_is_pinned(control_plane: ControlPlane):
    assert control_plane.version().startswith("v1.36.")


def test_every_namespace_is_a_new_one(control_plane: ControlPlane):
    first, second = control_plane.namespace("twin"), control_plane.namespace("twin")
    assert first != second
    assert control_plane.kubectl("get", "namespace", first, second, "-o", "name").split() == [
        f"namespace/{first}",
        f"namespace/{second}",
    ]


def test_a_service_account_may_do_what_its_role_says(control_plane: ControlPlane, namespace: str):
    control_plane.apply(READER, namespace=namespace)
    control_plane.kubectl("create", "configmap", "settings", f"--namespace={namespace}")
    reader = control_plane.kubeconfig_for(namespace, "reader")
    assert "configmap/settings" in control_plane.kubectl(
        "get", "configmaps", "-o", "name", kubeconfig=reader
    )
    with pytest.raises(KubectlError, match="cannot delete resource"):
        control_plane.kubectl("delete", "configmap", "settings", kubeconfig=reader)


def test_a_service_account_without_a_role_is_refused(control_plane: ControlPlane, namespace: str):
    control_plane.kubectl("create", "serviceaccount", "nobody", f"--namespace={namespace}")
    nobody = control_plane.kubeconfig_for(namespace, "nobody")
    with pytest.raises(KubectlError) as refusal:
        control_plane.kubectl("get", "configmaps", "-o", "name", kubeconfig=nobody)
    assert "(Forbidden)" in refusal.value.stderr
    assert f'User "system:serviceaccount:{namespace}:nobody"' in refusal.value.stderr


def test_data_outlives_a_restart_of_the_api_server(control_plane: ControlPlane, namespace: str):
    control_plane.restart_api_server()
    assert control_plane.kubectl("get", "namespace", namespace)


def test_a_paused_api_server_answers_when_it_is_resumed(control_plane: ControlPlane):
    control_plane.pause()
    try:
        with pytest.raises(KubectlError):
            control_plane.kubectl("get", "--raw", "/readyz", "--request-timeout=1s")
    finally:
        control_plane.resume()
    assert control_plane.kubectl("get", "--raw", "/readyz") == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends them, on Linux alone")
def test_the_servers_end_with_the_process_that_started_them(
    control_plane: ControlPlane, tmp_path: Path
):
    del control_plane  # the programs are built once it is there
    start = (
        "import os, pathlib, signal, sys\n"
        "from tests.harness.control_plane import ControlPlane\n"
        "ControlPlane.start(pathlib.Path(sys.argv[1]))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", start, tmp_path],
        cwd=Path(__file__).parents[2],
        env=os.environ,
        check=False,
    )
    assert (tmp_path / "kube-apiserver.log").exists()
    wait(
        lambda: not _commands_naming(tmp_path), lambda: str(_commands_naming(tmp_path)), every=0.05
    )


def _commands_naming(directory: Path) -> list[bytes]:
    """Command lines of running processes that name this directory."""
    lines: list[bytes] = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(process.read_bytes())
        except OSError:
            continue  # it ended in between
    return [line for line in lines if os.fsencode(directory) in line]
