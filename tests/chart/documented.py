"""The table of values in the chart's README, made from the comments of `values.yaml`.

python -m tests.chart.documented write
"""

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.harness.helm import CHART

_BEGIN = "<!-- values: written by `python -m tests.chart.documented write` -->\n"
_END = "<!-- end of values -->\n"


@dataclass(frozen=True, slots=True)
class Value:
    """A documented value."""

    path: str
    default: Any
    text: str


def read(path: Path) -> list[Value]:
    """Return the values of a file that have a comment `# --` above them."""
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    found: list[Value] = []
    names: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and comment:
            comment.append(stripped.removeprefix("# "))
        elif match := re.match(r"( *)([A-Za-z]+):", line):
            depth = len(match[1])
            names = [(at, name) for at, name in names if at < depth] + [(depth, match[2])]
            if comment:
                parts = [name for _, name in names]
                default = values
                for part in parts:
                    default = default[part]
                found.append(Value(".".join(parts), default, " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def table(values: Iterable[Value]) -> str:
    """Return the table, in Markdown."""
    lines = ["| value | default | |", "|---|---|---|"]
    for value in values:
        default = json.dumps(value.default)
        text = value.text.replace("|", "\\|")
        lines.append(f"| `{value.path}` | `{default}` | {text} |")
    return "\n".join(lines) + "\n"


def with_table(readme: str, values: Iterable[Value]) -> str:
    """Return the README with the table as it should be."""
    before, _, rest = readme.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{table(values)}\n{_END}{after}"


def main() -> int:
    """Write the table into the README."""
    if sys.argv[1:] != ["write"]:
        print(__doc__, file=sys.stderr)
        return 2
    path = CHART / "README.md"
    path.write_text(
        with_table(path.read_text(encoding="utf-8"), read(CHART / "values.yaml")), encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
