"""A program that is told to end while it is loaded ends, instead of being killed when its time is over."""

import subprocess
import sys

import pytest

EARLY = """
import signal
from {package} import __main__ as program

program.options = lambda *_: signal.raise_signal(signal.SIGTERM)
program.main([])
"""


@pytest.mark.parametrize("package", ["holdfast_sidecar", "holdfast_webhook"])
def test_a_signal_before_there_is_anything_to_end_is_handled(package: str):
    """As the first process of a container: there, one that nobody handles does not even end it."""
    done = subprocess.run(
        [sys.executable, "-c", EARLY.format(package=package)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
