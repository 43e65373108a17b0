"""The program of `helm test` that converses, through a real sidecar."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.helm import CHART
from tests.harness.servers import Server
from tests.harness.tied_processes import TiedProcesses
from tests.harness.waiting import until

pytest.importorskip("holdfast_sidecar")
pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

PROGRAM = CHART / "files/test/conversation.py"
POLICY = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: holdfast-test}
spec: {backendRef: {name: shared}, retention: {ttl: 10m}}
"""


def converse(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(PROGRAM), "--memory=holdfast-test", *arguments],
        env={**os.environ, "HOLDFAST_URL": f"http+unix://{path}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as attempt:
        return attempt.connect_ex(str(path)) == 0


async def test_it_writes_and_reads_through_a_sidecar(tmp_path: Path, valkey_server: Server):
    (tmp_path / "policy.yaml").write_text(POLICY, encoding="utf-8")
    path = tmp_path / "api.sock"
    command = [
        sys.executable,
        "-m",
        "holdfast_sidecar",
        f"--unix={path}",
        f"--url={valkey_server.url}",
    ]
    command += ["--namespace=helm-test", f"--policy={tmp_path / 'policy.yaml'}"]
    processes = TiedProcesses(tmp_path, {"sidecar": command})
    processes.start("sidecar")
    try:
        await until(lambda: accepts(path), "the sidecar listens")
        done = converse(path)
        assert (done.returncode, done.stdout) == (0, "written and read back through the sidecar\n")
        client = valkey_server.client()
        assert [key async for key in client.scan_iter("mem:{helm-test/holdfast-test/*:log")] == []
        await client.aclose()
    finally:
        processes.stop()


async def test_a_sidecar_that_is_not_there_is_an_error(tmp_path: Path):
    done = converse(tmp_path / "none.sock", "--seconds=0")
    assert done.returncode == 1
    assert done.stdout.startswith("the sidecar: ")
