"""What people see of the demo."""

import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from checks import Check

_BAR = 24
_MOST_FAULTS = 3


class Screen:
    """Prints the demo as it goes.

    Args:
        limit: tokens of the first policy, the full length of every bar.
    """

    def __init__(self, limit: int) -> None:
        self._scale = limit
        self._limit = limit
        self._waits: defaultdict[str, list[float]] = defaultdict(list)
        self._evicted = 0
        self._blocks = _can_print("█·│")

    def opening(self, world: str, session: str, agents: Sequence[str], policy: str) -> None:
        """Say what is going to happen."""
        _say(
            "Holdfast: three agents, each a process of its own, answer in one conversation at a time.",
            "",
            f"  runs on   {world}",
            f"  session   {session}, shared by {', '.join(agents)}",
            f"  policy    {policy}",
            "",
            "Each line is a turn: question, tool call, its result, answer. Nobody else writes meanwhile.",
            "The first turn of a process takes longer: it loads the tokenizer.",
            "",
            f"  {'agent':<9} {'about':<34} {'wrote':<10} {'waited':>7}  "
            f"{'tokens in the session':<{_BAR + 8}} left",
        )

    def turn(self, lines: Sequence[dict[str, Any]]) -> None:
        """Show a turn, from what its four messages were answered with."""
        first, last = lines[0], lines[-1]
        evicted = sum(line["evicted"] for line in lines)
        self._evicted += evicted
        self._waits[first["agent"]].append(first["waited"])
        wrote = f"#{first['seq']}-{last['seq']}"
        waited = f"{first['waited'] * 1000:.0f} ms"
        left = f"-{evicted}" if evicted else ""
        text = (
            f"  {first['agent']:<9} {first['title']:<34} {wrote:<10} {waited:>7}  "
            f"{self._bar(last['tokens'])} {last['tokens']:>5}  {left:>4}"
        )
        _say(text.rstrip())

    def edit(self, changes: Iterable[tuple[str, str]], limit: int) -> None:
        """Show what is edited."""
        _say("", "Nobody writes now, and somebody edits memory.yaml:", "")
        for old, new in changes:
            _say(f"  - {old}", f"  + {new}")
        self._limit = limit

    def followed(
        self, seconds: float, rows: Iterable[tuple[str, object, object]], sentence: str
    ) -> None:
        """Show what became of the session that was there already."""
        _say("", f"  {'':<18} {'before':>10} {f'{seconds:.1f} s later':>14}")
        for name, before, after in rows:
            _say(f"  {name:<18} {before!s:>10} {after!s:>14}")
        _say("", f"  The operator says: {sentence}", "", "The same processes go on:", "")

    def closing(self, written: int, kept: Sequence[int], by_edit: int) -> None:
        """Sum up: what was written, kept and left, and how long the agents waited."""
        _say(
            "",
            f"  {written} messages were written, {len(kept)} are kept ({ranges(kept)}). "
            f"{self._evicted + by_edit} left to keep the budget, {by_edit} of them",
            "  when the policy was edited: oldest first, whole exchanges of call and result, never the "
            "system message.",
            "",
        )
        for agent, waits in sorted(self._waits.items()):
            _say(
                f"  {agent:<9} waited for its turn {statistics.median(waits) * 1000:.0f} ms "
                f"(median), {max(waits) * 1000:.0f} ms at most"
            )

    def checks(self, checks: Sequence[Check], seconds: float) -> None:
        """List the checks."""
        _say("", "What must be true:", "")
        for check in checks:
            extent = f" ({check.extent})" if check.extent else ""
            _say(f"  {'ok' if check.ok else 'FAILED':<7} {check.name}{extent}")
            for fault in check.faults[:_MOST_FAULTS]:
                _say(f"          {fault}")
            if len(check.faults) > _MOST_FAULTS:
                _say(f"          and {len(check.faults) - _MOST_FAULTS} more")
        failed = sum(not check.ok for check in checks)
        result = f"{failed} of {len(checks)} FAILED" if failed else f"all {len(checks)} hold"
        _say("", f"{result[0].upper()}{result[1:]}. {seconds:.0f} s in all.")

    def _bar(self, tokens: int) -> str:
        full, empty, mark = "█·│" if self._blocks else "#.|"
        filled = round(tokens / self._scale * _BAR)
        limit = round(self._limit / self._scale * _BAR)
        room = empty * (limit - filled) + mark + " " * (_BAR - limit)
        return full * filled + room


def ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers as ranges: `#1, #40-63`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1][1:] = [number]
        else:
            parts.append([number])
    return ", ".join(
        "-".join(f"#{end}" if at == 0 else str(end) for at, end in enumerate(part))
        for part in parts
    )


def span(seconds: float) -> str:
    """Write a time as hours and minutes."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _say(*lines: str) -> None:
    for line in lines:
        print(line, flush=True)
