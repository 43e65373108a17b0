"""Kill the operator at every point, let its servers fail, and check: `python -m tests.chaos`."""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.doom import Side
from tests.chaos.ground import ground
from tests.chaos.life import Ground
from tests.chaos.trials import APART, TOGETHER, Deaths, Row, Trial
from tests.harness.control_plane import ControlPlane

_SHOWN = 5  # violations of each scenario


def table(rows: Sequence[Row]) -> str:
    """Return what was tried, as text for people."""
    width = max(len(row.name) for row in rows)
    heads = ("lives", "points", "deaths", "faults", "violations")
    lines = [f"{'scenario':{width}}  " + "  ".join(f"{head:>7}" for head in heads)]
    for row in rows:
        figures = (row.lives, row.points, row.deaths, row.faults, len(row.violations))
        lines.append(f"{row.name:{width}}  " + "  ".join(f"{figure:7,}" for figure in figures))
    return "\n".join(lines)


def findings(rows: Sequence[Row]) -> str:
    """Return the first violations of each scenario."""
    return "\n".join(
        f"{row.name}: {sentence}" for row in rows for sentence in row.violations[:_SHOWN]
    )


async def run(plane: ControlPlane, directory: Path, *, at_once: int, only: str) -> list[Row]:
    """Try everything, or what has a word in its name."""
    rows: list[Row] = []
    async with ground(plane, directory) as shared:
        if only in "deaths":
            for side, deaths in ((Side.BEFORE, 1), (Side.AFTER, 2)):
                started = time.monotonic()
                rows += await Deaths(shared, side, deaths=deaths).try_all(at_once=at_once)
                print(f"deaths {side}: {time.monotonic() - started:.0f} s", flush=True)
        places = asyncio.Semaphore(at_once)

        async def beside(trial: Trial) -> Row:
            async with places:
                return await _tried(trial, shared, directory)

        rows += await asyncio.gather(
            *(beside(trial) for trial in TOGETHER if only in trial.__name__)
        )
        for trial in APART:
            if only in trial.__name__:
                rows.append(await _tried(trial, shared, directory))
    return rows


async def _tried(trial: Trial, shared: Ground, directory: Path) -> Row:
    started = time.monotonic()
    try:
        row = await trial(shared, directory)
    except (AssertionError, ExceptionGroup, OSError):
        # What the others find is worth knowing even so.
        row = Row(trial.__name__, violations=[traceback.format_exc()])
    wrong = len(row.violations)
    print(f"{row.name}: {wrong} violations, {time.monotonic() - started:.0f} s", flush=True)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--at-once", type=int, default=8, help="lives side by side (default: 8)")
    parser.add_argument(
        "--only", default="", metavar="WORD", help="only trials with this in the name"
    )
    parser.add_argument("--keep", type=Path, help="a directory for logs and traces; else removed")
    given = parser.parse_args(arguments)
    base = given.keep or Path(tempfile.mkdtemp(prefix="holdfast-chaos-"))
    started = time.monotonic()
    try:
        with ControlPlane.start(base / "plane") as plane:
            work = run(plane, base / "ground", at_once=given.at_once, only=given.only)
            rows = asyncio.run(work)
    finally:
        if given.keep is None:
            with contextlib.suppress(OSError):
                shutil.rmtree(base)
    print(table(rows))
    wrong = sum(len(row.violations) for row in rows)
    lives, deaths, faults = (
        sum(getattr(row, figure) for row in rows) for figure in ("lives", "deaths", "faults")
    )
    seconds = time.monotonic() - started
    print(
        f"in all: {lives} lives, {deaths} deaths, {faults} faults, {wrong} violations in {seconds:.0f} s"
    )
    if wrong:
        print(findings(rows))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
