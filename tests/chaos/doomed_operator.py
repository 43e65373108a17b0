"""The operator, doomed: `python -m tests.chaos.doomed_operator --die-at N --side after <its own arguments>`.

It is the operator that ships, with its own command line; what is changed is changed in this process only.
SIGUSR1 arms the doom anew, SIGUSR2 disarms it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from holdfast_operator.__main__ import main as run_operator
from tests.chaos.doom import Doom, Side, watch_redis, watch_requests
from tests.chaos.plants import PLANTS
from tests.chaos.refusals import Refusals


def parser() -> argparse.ArgumentParser:
    """Return the parser of what is not the operator's own."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.doomed_operator")
    parser.add_argument("--die-at", type=int, metavar="N", help="the exchange, counted from 0")
    parser.add_argument("--side", type=Side, choices=list(Side), default=Side.BEFORE)
    parser.add_argument(
        "--spared", action="store_true", help="count from SIGUSR1 on, not from the start"
    )
    parser.add_argument("--trace", type=Path, default=Path(os.devnull))
    parser.add_argument("--plant", choices=sorted(PLANTS), help="a bug to be found")
    parser.add_argument("--refuse", type=float, default=0.0, metavar="RATE")
    parser.add_argument("--refusals", metavar="URL", help="of the answers")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator until it dies."""
    given, own = parser().parse_known_args(arguments)
    trace = os.open(given.trace, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    doom = Doom(trace, given.die_at, given.side, armed=not given.spared)
    doom.listen()
    refusals = Refusals(given.refusals, given.refuse, given.seed) if given.refuse else None
    watch_requests(doom, refusals)
    watch_redis(doom)
    if given.plant is not None:
        PLANTS[given.plant]()
    return run_operator(own)


if __name__ == "__main__":
    sys.exit(main())
