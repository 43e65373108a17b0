"""`make bench`: the library beside bare redis-py commands on the same server in the same run.

Nearly every figure is a ratio of medians, or a distribution, measured here and now: absolute times of
shared machines say little. The servers are our own, on loopback, without persistence.
"""

import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import appends
import flushes
import footprint
import reaction
import reads
import startup
import turns
from measure import Figure, run_topics
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
    with running_servers() as servers:
        topics = {name: partial(bench, servers) for name, bench in TOPICS.items()}
        run_topics(__doc__, topics, HERE / "results.json")


if __name__ == "__main__":
    main()
