"""The operator's work at the API server: how soon objects are Ready, and what is written for that."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api import Api, reason
from measure import Figure, figure, seconds_until

from tests.harness.operator_process import OperatorProcess
from tests.harness.servers import Server

_DEADLINE = 300.0
_MEBI = 2**20
_IDLE = 0.1  # seconds of CPU time in a second


@dataclass(frozen=True, slots=True)
class Stage:
    """What is measured.

    Attributes:
        api: of the API server.
        operator: the process.
        server: where sessions are kept.
        scale: 10 for the figures that were promised, 1 for a try.
    """

    api: Api
    operator: OperatorProcess
    server: Server
    scale: int

    @property
    def backend(self) -> dict[str, Any]:
        """The spec of a backend on the server."""
        return {"endpoints": [f"127.0.0.1:{self.server.port}"]}

    def resource(self, backend: str = "shared") -> dict[str, Any]:
        """The spec of a memory."""
        return {"backendRef": {"name": backend}, "retention": {"ttl": "24h"}}

    def all_ready(self, prefix: str, number: int) -> bool:
        """Whether so many memories with names that begin so are Ready."""
        found = [
            reason(one)
            for one in self.api.all("memoryresources")
            if one["metadata"]["name"].startswith(prefix)
        ]
        return len(found) == number and set(found) == {"Available"}


def bench(stage: Stage) -> list[Figure]:
    """Measure one object, many at once, a restart, and rest; each bounded by a deadline."""
    stage.api.create("memorybackends", "shared", stage.backend)
    found: list[Figure] = []
    for part in (_waiting, _one, _many, _kinds, _restart, _rest):
        began = time.perf_counter()
        found += part(stage)
        print(f"  {part.__name__[1:]}: {time.perf_counter() - began:.0f} s", flush=True)
    return found


def rounds(stage: Stage) -> list[Figure]:
    """Let an operator that looks every second look as often as one does in an hour."""
    number, window = 10 * stage.scale, 6 * stage.scale
    stage.api.create("memorybackends", "shared", stage.backend)
    stage.api.create_all("memoryresources", [f"many-{n}" for n in range(number)], stage.resource())
    seconds_until(lambda: stage.all_ready("many-", number), deadline=_DEADLINE, every=0.25)
    time.sleep(window / 4)  # until what is kept once is kept
    first, before = _resident(stage.operator.pid), stage.api.writes()
    time.sleep(window)
    grown = (_resident(stage.operator.pid) - first) / _MEBI
    note = f"{number} memories, {window} looks at each"
    return [
        figure("growth of resident memory over an hour's rounds", grown, "MiB", "<= 2", note),
        figure(
            "API writes over an hour's rounds", stage.api.writes() - before, "writes", "<= 0", note
        ),
    ]


def _one(stage: Stage) -> list[Figure]:
    """Apply memories one by one to a warm operator."""
    took: list[float] = []
    for number in range(10 * stage.scale + 1):
        name = f"one-{number}"
        stage.api.create("memoryresources", name, stage.resource())
        took.append(seconds_until(lambda name=name: _is_ready(stage, name), every=0.005))
    took = sorted(took[1:])  # the first one waits for the connection
    note = f"{len(took)} one after the other, asked every 5 ms"
    p99 = took[min(len(took) - 1, int(len(took) * 0.99))]
    return [
        figure("apply to Ready, one memory, p50", statistics.median(took), "s", "<= 0.3", note),
        figure("apply to Ready, one memory, p99", p99, "s", "<= 1", note),
    ]


def _is_ready(stage: Stage, name: str) -> bool:
    body = stage.api.get("memoryresources", name)
    return body is not None and reason(body) == "Available"


def _waiting(stage: Stage) -> list[Figure]:
    """Let memories wait for a backend that comes later."""
    number = 10 * stage.scale
    names = [f"waiting-{at}" for at in range(number)]
    stage.api.create_all("memoryresources", names, stage.resource("late"))
    seconds_until(
        lambda: (
            {
                reason(one)
                for one in stage.api.all("memoryresources")
                if one["metadata"]["name"].startswith("waiting-")
            }
            == {"BackendNotFound"}
        ),
        deadline=_DEADLINE,
        every=0.2,
    )
    stage.api.create("memorybackends", "late", stage.backend)

    def backend_ready() -> bool:
        body = stage.api.get("memorybackends", "late")
        return body is not None and reason(body) == "Available"

    seconds_until(backend_ready, deadline=_DEADLINE, every=0.005)
    # Reading the list is work for the API server, and for this process beside it.
    took = seconds_until(lambda: stage.all_ready("waiting-", number), deadline=_DEADLINE, every=0.1)
    name = f"backend Ready to its {number} waiting memories Ready"
    return [figure(name, took, "s", "<= 1", "the list is read every 100 ms")]


def _many(stage: Stage) -> list[Figure]:
    """Create many memories at once."""
    number = 100 * stage.scale
    before, begin = stage.api.writes(), time.perf_counter()
    stage.api.create_all("memoryresources", [f"many-{n}" for n in range(number)], stage.resource())
    created = time.perf_counter() - begin
    seconds_until(lambda: stage.all_ready("many-", number), deadline=_DEADLINE, every=0.5)
    took = time.perf_counter() - begin
    until_idle(stage.operator.pid)
    writes = (stage.api.writes() - before - number) / number
    return [
        figure(
            f"{number} memories created at once to all Ready",
            took,
            "s",
            "<= 20",
            f"creating them took {created:.1f} s of it",
        ),
        figure(
            "writes to the API server for each of them",
            writes,
            "writes",
            "<= 4",
            "objects of ours and events, by apiserver_request_total, without their creation",
        ),
    ]


def _kinds(stage: Stage) -> list[Figure]:
    """Create some objects of other kinds at once."""
    number = stage.scale
    order = {"memoryRef": {"name": "one-1"}, "session": "nobody", "ttlAfterFinished": "1h"}
    found: list[Figure] = []
    for kind, spec, end in (
        ("memorybackends", stage.backend, "Available"),
        ("memoryerasures", order, "Erased"),
    ):
        before = stage.api.writes()
        names = {f"kind-{at}" for at in range(number)}
        stage.api.create_all(kind, names, spec)
        seconds_until(
            lambda kind=kind, names=names, end=end: (
                [reason(one) for one in stage.api.all(kind) if one["metadata"]["name"] in names]
                == [end] * number
            ),
            deadline=60,
        )
        until_idle(stage.operator.pid)
        writes = (stage.api.writes() - before - number) / number
        name = f"writes to the API server for each of {number} {kind}"
        found.append(figure(name, writes, "writes", "<= 4", "counted as those for memories"))
    return found


def _restart(stage: Stage) -> list[Figure]:
    """Start the operator anew when nothing changed."""
    # As many as the target is about: those of the other parts go first.
    for one in stage.api.all("memoryresources"):
        if not one["metadata"]["name"].startswith("many-"):
            stage.api.delete("memoryresources", one["metadata"]["name"])
    number = 100 * stage.scale
    seconds_until(
        lambda: len(stage.api.all("memoryresources")) == number, deadline=_DEADLINE, every=0.25
    )
    until_idle(stage.operator.pid)
    stage.operator.terminate()
    before = stage.api.writes()
    stage.operator.start()
    idle = until_idle(stage.operator.pid)
    resident = _resident(stage.operator.pid) / _MEBI
    note = f"{number} memories, all Ready"
    return [
        figure("restart to idle", idle, "s", "<= 10", f"{note}; idle: under 0.1 s of CPU a second"),
        figure("writes after a restart", stage.api.writes() - before, "writes", "<= 0", note),
        figure("resident memory after a restart", resident, "MiB", "<= 140", note),
    ]


def _rest(stage: Stage) -> list[Figure]:
    """Let time pass, with the server there and with it away."""
    window = 3 * stage.scale  # `rounds` sees an hour of looks
    before = stage.api.writes()
    first = _resident(stage.operator.pid)
    time.sleep(window)
    at_rest = (stage.api.writes() - before) * 60 / window
    grown = (_resident(stage.operator.pid) - first) / _MEBI
    stage.server.pause()
    seconds_until(
        lambda: "Available" not in {reason(one) for one in stage.api.all("memoryresources")},
        deadline=_DEADLINE,
        every=0.5,
    )
    time.sleep(2)  # for what was on its way
    before = stage.api.writes()
    time.sleep(window)
    down = (stage.api.writes() - before) * 60 / window
    stage.server.resume()
    seconds_until(
        lambda: stage.all_ready("many-", 100 * stage.scale), deadline=_DEADLINE, every=0.5
    )
    note = f"over {window} s"
    return [
        figure("API writes a minute at rest", at_rest, "writes", "<= 0", note),
        figure("growth of resident memory meanwhile", grown, "MiB", None, note),
        figure("API writes a minute with the server away", down, "writes", "<= 0", note),
    ]


def until_idle(pid: int) -> float:
    """Wait for a second in which a process does next to nothing; return the seconds until it began."""
    begin = time.perf_counter()
    spent = _spent(pid)
    while time.perf_counter() - begin < _DEADLINE:
        time.sleep(1)
        now = _spent(pid)
        if now - spent < _IDLE:
            return time.perf_counter() - begin - 1
        spent = now
    raise TimeoutError("the operator did not come to rest in time")


def _spent(pid: int) -> float:
    """Return the seconds of CPU time that a process used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
