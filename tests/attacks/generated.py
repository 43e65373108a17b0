"""Requests made from the OpenAPI document by schemathesis, with answers checked against it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
POLICY = {
    "model": {"tokenizer": "approximate"},
    "limits": {"maxTokens": 20_000},
    "retention": {"ttl": "1h"},
    "locking": {"mode": "Enforced", "waitTimeout": "20ms", "leaseTTL": "3s"},
}
"""Of the memory `support`, under which a session is soon full and a turn is felt."""
SHORT = 8
"""Examples of each operation, for a run of some hundred requests."""
_DEADLINE = 3600


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found.

    Attributes:
        cases: requests that were made.
        failures: a line for each kind, with the operations that it was seen at.
        errors: requests that had no answer, and what could not be made.
        output: all that was printed.
    """

    cases: int
    failures: tuple[str, ...]
    errors: tuple[str, ...]
    output: str


def run(url: str, directory: Path, *, seed: int, phases: str, examples: int) -> Outcome:
    """Run schemathesis once against a sidecar.

    Args:
        url: of the sidecar.
        directory: for the report.
        seed: of everything that is made.
        phases: such as `examples,coverage,fuzzing,stateful`.
        examples: of each operation, at most.
    """
    report = directory / f"report-{seed}.json"
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "--no-color",
        f"--config-file={HERE / 'schemathesis.toml'}",
        "run",
        f"{url}/openapi.json",
        f"--url={url}",
        f"--phases={phases}",
        f"--max-examples={examples}",
        f"--seed={seed}",
        "--continue-on-failure",
        "--suppress-health-check=all",
        "--request-timeout=30",
        "--warnings=off",
        "--report=json",
        f"--report-json-path={report}",
    ]
    environment = dict(os.environ) | {
        "SCHEMATHESIS_HOOKS": "tests.attacks.hooks",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(
        command,
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_DEADLINE,
    )
    output = done.stdout + done.stderr
    if not report.exists():
        raise RuntimeError(f"schemathesis made no report:\n{output}")
    told = json.loads(report.read_text())
    return Outcome(
        told["test_cases"]["generated"],
        tuple(f"{one['title']}: {', '.join(one['operations'])}" for one in told["failures"]),
        tuple(str(one) for one in told["errors"]),
        output,
    )
