"""Attack a sidecar at length: `python -m tests.attacks`; `make verify-sidecar`.

Requests made from the document until there were as many as asked, with a new seed for each round, and
then the fuzzer of bodies, heads and values. Exit code 1 when anything was found.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.attacks import generated
from tests.attacks.bodies import Fuzzer
from tests.attacks.document import Document
from tests.harness.servers import Product, running_server
from tests.harness.sidecar_apart import SidecarApart, many_files

PHASES = "examples,coverage,fuzzing,stateful"
_ROUNDS = 40


def main() -> None:
    """Run both, and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="requests by schemathesis")
    parser.add_argument("--examples", type=int, default=2_000, help="of each kind, by the fuzzer")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    many_files()
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        (directory / "sidecar").mkdir()
        with (
            running_server(Product.VALKEY, directory / "valkey") as server,
            SidecarApart.running(
                directory / "sidecar", server.url, policy=generated.POLICY
            ) as sidecar,
        ):
            sidecar.wait_until_ready()
            wrong = from_document(sidecar, arguments.cases, arguments.seed)
            wrong += by_hand(sidecar, arguments.examples)
            if "Traceback" in sidecar.log:
                wrong.append(f"the sidecar logged what nobody expected:\n{sidecar.tail(60)}")
            print(f"the sidecar had {sidecar.most_resident:.0f} MiB at most")
    for one in wrong:
        print(one)
    print(f"{len(wrong)} findings")
    sys.exit(1 if wrong else 0)


def from_document(sidecar: SidecarApart, cases: int, seed: int) -> list[str]:
    """Run schemathesis until it has made so many requests."""
    made, wrong, began = 0, list[str](), time.monotonic()
    for at in range(_ROUNDS):
        if made >= cases:
            break
        outcome = generated.run(
            sidecar.url, sidecar.directory, seed=seed + at, phases=PHASES, examples=60
        )
        made += outcome.cases
        wrong += (*outcome.failures, *outcome.errors)
        if outcome.failures or outcome.errors:
            print(outcome.output)
        print(f"{made:,} requests of {cases:,}, {time.monotonic() - began:.0f} s", flush=True)
    return wrong


def by_hand(sidecar: SidecarApart, examples: int) -> list[str]:
    """Run the fuzzer."""
    document = Document(sidecar.ask("GET", "/openapi.json").json)
    fuzzer = Fuzzer(sidecar.socket, document.statuses, examples=examples)
    wrong: list[str] = []
    for kind in (fuzzer.bodies, fuzzer.requests, fuzzer.values):
        try:
            kind()
        except AssertionError as error:
            wrong.append(f"{kind.__name__}: {error}")
    told = ", ".join(f"{count:,} x {status}" for status, count in sorted(fuzzer.statuses.items()))
    print(f"{fuzzer.sent:,} requests by the fuzzer: {told}")
    return wrong


if __name__ == "__main__":
    main()
