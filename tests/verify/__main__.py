"""Run workers against servers that fail, and check what they recorded: `python -m tests.verify`."""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.verify.case import Kind
from tests.verify.history import OK
from tests.verify.run import Plan, Report, clean, run
from tests.verify.targets import TargetName

_SHARES = {TargetName.STANDALONE: 0.7, TargetName.SENTINEL: 0.15, TargetName.CLUSTER: 0.15}
"""Of the time, where all targets have their turn."""
_SHOWN = 5  # violations of each kind
DURATION = 900.0
"""Seconds of a whole run."""
OPERATIONS, FAULTS = 200_000, 500
"""How many calls and faults a whole run has at least: a smaller one has not looked hard enough."""


def plans(target: str, seconds: float, seed: int) -> list[Plan]:
    """Divide the time between the targets."""
    if target != "all":
        return [Plan(TargetName(target), seconds, seed)]
    return [Plan(name, seconds * share, seed) for name, share in _SHARES.items()]


def table(reports: Sequence[Report]) -> str:
    """Return what happened, as text for people."""
    lines: list[str] = []
    for report in reports:
        total = sum(report.operations.values())
        done = sum(count for (_, outcome), count in report.operations.items() if outcome == OK)
        lines.append(
            f"{report.target}: {total:,} operations ({done:,} succeeded) on {report.sessions:,} sessions in "
            f"{report.seconds:.0f} s, {sum(report.faults.values()):,} faults, "
            f"{len(report.violations)} violations (seed {report.seed})"
        )
        by_call: dict[str, Counter[str]] = {}
        for (call, outcome), count in report.operations.items():
            by_call.setdefault(call, Counter())[outcome] = count
        for call, outcomes in sorted(by_call.items()):
            words = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
            lines.append(f"  {call:10} {words}")
        for kind, count in report.faults.most_common():
            lines.append(f"  {count:6,} x {kind}")
        words = ", ".join(f"{count:,} {what}" for what, count in sorted(report.evidence.items()))
        lines.append(f"  seen: {words}")
        if report.lost:
            lines.append(f"  {report.lost:6,} acknowledged messages lost in failovers")
    operations = sum(sum(report.operations.values()) for report in reports)
    faults = sum(sum(report.faults.values()) for report in reports)
    wrong = sum(len(report.violations) for report in reports)
    lines.append(f"in all: {operations:,} operations, {faults:,} faults, {wrong} violations")
    found = Counter(one.kind for report in reports for one in report.violations)
    lines += [f"  {found[kind]:6} {kind}" for kind in Kind]
    return "\n".join(lines)


def shortage(target: str, seconds: float, reports: Sequence[Report]) -> str | None:
    """Say what a whole run has too few of; None: nothing, or it was not a whole one."""
    if target != "all" or seconds < DURATION:
        return None
    operations = sum(sum(report.operations.values()) for report in reports)
    faults = sum(sum(report.faults.values()) for report in reports)
    if operations >= OPERATIONS and faults >= FAULTS:
        return None
    return (
        f"too small to say anything: {operations:,} operations and {faults:,} faults, and a whole run has at "
        f"least {OPERATIONS:,} and {FAULTS:,}"
    )


def findings(reports: Sequence[Report]) -> str:
    """Return the first violations of each kind, with the calls that show them."""
    lines: list[str] = []
    shown: Counter[Kind] = Counter()
    for report in reports:
        for one in report.violations:
            shown[one.kind] += 1
            if shown[one.kind] > _SHOWN:
                continue
            lines.append(f"{report.target} {one.session}: {one.kind}: {one.sentence}")
            lines += [f"    {event}" for event in one.events]
    return "\n".join(lines)


def as_json(reports: Sequence[Report]) -> list[dict[str, Any]]:
    """Return the reports as JSON values."""
    return [
        {
            "target": report.target,
            "seed": report.seed,
            "seconds": report.seconds,
            "operations": {
                f"{call}: {outcome}": count
                for (call, outcome), count in sorted(report.operations.items())
            },
            "faults": dict(report.faults),
            "sessions": report.sessions,
            "seen": dict(report.evidence),
            "lostInFailovers": report.lost,
            "violations": [
                {
                    "kind": one.kind,
                    "session": one.session,
                    "sentence": one.sentence,
                    "events": [str(event) for event in one.events],
                }
                for one in report.violations
            ],
        }
        for report in reports
    ]


async def run_until_told(plan: Plan, directory: Path) -> Report:
    """Run; SIGTERM ends it in order too: a worker that is stopped just then would never end by itself."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(plan, directory)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return 1 when something is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.verify",
        description=__doc__,
        epilog=f"A whole run ({DURATION:.0f} s or more on all targets) also ends with 1 if it has fewer than "
        f"{OPERATIONS:,} operations or {FAULTS:,} faults; of other runs the size is not judged.",
    )
    parser.add_argument("--seconds", type=float, default=DURATION, help="how long workers work")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is random")
    parser.add_argument("--target", choices=[*TargetName, "all"], default="all")
    parser.add_argument("--report", type=Path, help="a file for all of it, as JSON")
    parser.add_argument(
        "--keep", type=Path, help="a directory for histories; else they are removed"
    )
    given = parser.parse_args(arguments)
    reports: list[Report] = []
    broken = False
    base = (given.keep or Path(tempfile.mkdtemp(prefix="holdfast-verify-"))).resolve()
    try:
        for plan in plans(given.target, given.seconds, given.seed):
            print(f"{plan.target}: {plan.seconds:.0f} s, seed {plan.seed}", flush=True)
            try:
                reports.append(asyncio.run(run_until_told(plan, base / plan.target)))
            except (ExceptionGroup, AssertionError, OSError):
                # What the others find is worth knowing even so.
                traceback.print_exc()
                broken = True
    finally:
        if given.keep is None:
            clean(base)
    if given.report is not None:
        given.report.write_text(json.dumps(as_json(reports), indent=1))
    print(table(reports))
    wrong = any(report.violations for report in reports)
    if wrong:
        print(findings(reports))
    if broken:
        print("not every target could be run: see above")
    short = shortage(given.target, given.seconds, reports)
    if short is not None:
        print(short)
    return int(wrong or broken or short is not None)


if __name__ == "__main__":
    sys.exit(main())
