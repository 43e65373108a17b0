"""Of the branches of the library, how many its tests took: reads what `coverage json` writes.

`coverage report` counts lines and branches as one figure, in which lines outweigh branches by four to
one. What is promised is about branches alone.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

_NAMED = 10  # modules in the message


def told(report: Mapping[str, Any], least: float) -> tuple[bool, str]:
    """Return whether at least this many percent of all branches were taken, and a message.

    Raises:
        KeyError: branches were not measured.
        ZeroDivisionError: nothing was.
    """
    taken, there = (report["totals"][name] for name in ("covered_branches", "num_branches"))
    share = 100 * taken / there
    message = f"{taken} of {there} branches: {share:.2f} %"
    if share >= least:
        return True, message
    missing = {name: file["summary"]["missing_branches"] for name, file in report["files"].items()}
    most = sorted(filter(missing.get, missing), key=lambda name: (-missing[name], name))[:_NAMED]
    return False, "\n".join(
        [
            f"{message}, and not {least:g} %. The most that are missing:",
            *(f"{missing[name]:5} {name}" for name in most),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("least", type=float, help="percent")
    enough, said = told(json.load(sys.stdin), parser.parse_args().least)
    print(said)
    sys.exit(not enough)
