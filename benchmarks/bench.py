"""`make bench`: the library beside bare redis-py commands on the same server in the same run.

Nearly every figure is a ratio of medians, or a distribution, measured here and now: absolute times of
shared machines say little. The servers are our own, on loopback, without persistence.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import appends
import flushes
import footprint
import reaction
import reads
import startup
import turns
from measure import Figure, report
from scene import Servers

from tests.harness.servers import Product, find_redis, running_server

HERE = Path(__file__).parent
TOPICS: Mapping[str, Callable[[Servers, int], list[Figure]]] = {
    "appends": appends.bench,
    "reads": reads.bench,
    "turns": turns.bench,
    "flushes": flushes.bench,
    "footprint": footprint.bench,
    "startup": startup.bench,
    "operator": reaction.bench,
}


@contextmanager
def running_servers() -> Generator[Servers]:
    """Run the embedded Valkey, and Redis where it is installed."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        valkey = stack.enter_context(running_server(Product.VALKEY, directory / "valkey"))
        redis = None
        if find_redis() is not None:
            redis = stack.enter_context(running_server(Product.REDIS, directory / "redis")).url
        else:
            print("only Valkey is measured: there is no redis-server 7 on PATH")
        yield Servers(valkey.url, redis)


def main() -> None:
    """Run the benchmarks; exit code 1 when a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=10, help="how many operations; 1 for a try")
    parser.add_argument(
        "--only", choices=TOPICS, action="append", help="a topic; results.json stays as it is"
    )
    arguments = parser.parse_args()
    figures: list[Figure] = []
    with running_servers() as servers:
        for name in arguments.only or TOPICS:
            began = time.monotonic()
            figures += TOPICS[name](servers, arguments.scale)
            print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
    report(figures, None if arguments.only else HERE / "results.json")
    sys.exit(0 if all(line.ok for line in figures) else 1)


if __name__ == "__main__":
    main()
