"""`make bench-sidecar`: the sidecar beside the library, and what its injection adds to a pod's admission."""

import argparse
import importlib
import importlib.util
import sys
import time
from pathlib import Path

import sidecar
from measure import Figure, report

HERE = Path(__file__).parent
TOPICS = ("sidecar", "injection")


def main() -> None:
    """Run the benchmarks; exit code 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=10, help="10 for the figures; 1 for a try")
    parser.add_argument(
        "--only", choices=TOPICS, action="append", help="a topic; the file stays as it is"
    )
    arguments = parser.parse_args()
    figures: list[Figure] = []
    for topic in arguments.only or TOPICS:
        began = time.monotonic()
        figures += _run(topic, arguments.scale)
        print(f"{topic}: {time.monotonic() - began:.0f} s", flush=True)
    complete = arguments.only is None and arguments.scale >= 10
    report(figures, HERE / "results-sidecar.json" if complete else None)
    sys.exit(0 if all(line.ok for line in figures) else 1)


def _run(topic: str, scale: int) -> list[Figure]:
    """Measure a topic on servers of its own."""
    if topic == "sidecar":
        return sidecar.bench(scale)
    if importlib.util.find_spec("injection") is None:
        print("injection is not measured: there is no benchmarks/injection.py")
        return []
    return importlib.import_module("injection").bench(scale)


if __name__ == "__main__":
    main()
