"""`make bench-image`: how large the image is, and how long its programs take to start in a container."""

import argparse
import random
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from measure import Figure, figure, report

from tests.harness import image
from tests.harness.unpacked import Unpacked

HERE = Path(__file__).parent
MB = 1_000_000
FLOOR = "python"
OPERATOR = "holdfast-operator, all that it loads"
NOT_COMPILED: Mapping[str, str] = {"PYTHONPYCACHEPREFIX": "/nowhere"}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=10, help="10 for the figures; 1 for a try")
    scale = parser.parse_args().scale
    built = image.ensure()
    with tempfile.TemporaryDirectory() as folder:
        unpacked = Unpacked.of(built.archive, Path(folder, "image"))
        figures = [*_sizes(unpacked), *_starts(unpacked, rounds=2 * scale)]
    report(figures, HERE / "results-image.json" if scale >= 10 else None)
    sys.exit(0 if all(line.ok for line in figures) else 1)


def _sizes(unpacked: Unpacked) -> list[Figure]:
    ours = unpacked.layers[-1].stat().st_size
    content = {entry.name: entry.size for entry, _ in unpacked.entries(len(unpacked.layers) - 1)}
    parts = {
        "compiled files": "opt/holdfast/pycache/",
        "the Kubernetes client": next(name for name in content if name.endswith("/kubernetes")),
        "vocabularies": next(name for name in content if name.endswith("/vocabularies")),
    }
    return [
        figure(
            "our layer, compressed", ours / MB, "MB", None, "what a node that has the base pulls"
        ),
        figure("our layer, unpacked", sum(content.values()) / MB, "MB", None, "bytes of its files"),
        *(
            figure(f"of that, {part}", _below(content, prefix) / MB, "MB")
            for part, prefix in parts.items()
        ),
    ]


def _below(content: Mapping[str, int], prefix: str) -> int:
    return sum(size for name, size in content.items() if name.startswith(prefix))


def _starts(unpacked: Unpacked, *, rounds: int) -> list[Figure]:
    """Start containers in a new order each round; the first round only fills the disk's cache."""
    project = tomllib.loads((image.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    programs = sorted(project["project"]["scripts"])
    commands: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {
        FLOOR: (["python", "-c", "pass"], {}),
        # There is no API server to be found, so it ends where it would begin to talk to one.
        OPERATOR: (["holdfast-operator"], {}),
        f"{OPERATOR}, not compiled": (["holdfast-operator"], NOT_COMPILED),
        **{f"{program} --help": ([program, "--help"], {}) for program in programs},
    }
    took: dict[str, list[float]] = {name: [] for name in commands}
    for at in range(max(3, rounds) + 1):
        for name in random.sample(list(commands), len(commands)):
            arguments, environ = commands[name]
            began = time.monotonic()
            unpacked.run(arguments, environ=environ)
            if at:
                took[name].append((time.monotonic() - began) * 1000)
    medians = {name: statistics.median(times) for name, times in took.items()}
    floor = medians.pop(FLOOR)
    note = f"over an empty Python in a container ({floor:.0f} ms); {len(took[OPERATOR])} containers"
    return [
        figure(f"start of {name}", median - floor, "ms", None, note)
        for name, median in medians.items()
    ]


if __name__ == "__main__":
    main()
