"""What the sidecar does not load before it is needed."""

import os
import subprocess
import sys


def test_the_sdk_of_mcp_is_loaded_with_the_first_call_and_not_before() -> None:
    program = "import sys, holdfast_sidecar.serving; print(*sys.modules)"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, check=True, text=True
    )
    assert {"holdfast_sidecar.mcp.app", "uvicorn"} <= set(done.stdout.split())
    assert {"mcp", "mcp_types", "tiktoken"}.isdisjoint(done.stdout.split())
