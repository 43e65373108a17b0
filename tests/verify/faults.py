"""What is done to processes, connections and servers while the workers work."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.harness.processes import Worker, Workers
from tests.harness.proxy import CuttingProxy
from tests.harness.proxy import Fault as Armed
from tests.verify import workload
from tests.verify.history import Fault, Recorder
from tests.verify.profiles import LEASE
from tests.verify.targets import Target

WORKERS: Final = {"worker stopped": 6, "worker killed": 2}
NETWORK: Final = {
    "reply lost": 8,
    "request lost": 5,
    "half a reply": 6,
    "all connections cut": 3,
    "slow network": 3,
    "requests held back": 2,
    "connections refused": 2,
}
_SCRIPT = b"EVALSHA"
_ENDING = 120.0  # seconds that the workers have to end in order


@dataclass(slots=True)
class Crew:
    """The worker processes, each of which is replaced by another when it is killed.

    Attributes:
        count: how many work at the same time.
        settings: of each, but for its address.
        addresses: dealt out in turn.
        directory: of what they print.
    """

    count: int
    settings: Mapping[str, Any]
    addresses: tuple[str, ...]
    directory: Path
    _running: dict[int, tuple[Workers, str]] = field(default_factory=dict[int, tuple[Workers, str]])
    _incarnations: int = 0

    async def start(self) -> None:
        """Start all of them, and wait until they work."""
        await asyncio.gather(*(self._spawn(place) for place in range(self.count)))

    def worker(self, place: int) -> Worker:
        """The process that has a place now."""
        return self._running[place][0][0]

    async def replace(self, place: int) -> None:
        """Kill a worker and start another in its place."""
        workers, _ = self._running.pop(place)
        workers[0].kill()
        await workers.__aexit__(None, None, None)
        await self._spawn(place)

    async def finish(self) -> None:
        """Tell them to end, and wait until they have.

        Raises:
            WorkerFailed: one did not, or not in order.
        """
        for workers, _ in self._running.values():
            workers[0].cont()
            workers[0].send("over")
        await asyncio.gather(*(workers.wait(_ENDING) for workers, _ in self._running.values()))

    async def close(self) -> None:
        """Kill those that are left."""
        for workers, _ in self._running.values():
            await workers.__aexit__(None, None, None)
        self._running.clear()

    async def _spawn(self, place: int) -> None:
        self._incarnations += 1
        name = f"w{place}-{self._incarnations}"
        directory = self.directory / name
        directory.mkdir()
        url = self.addresses[place % len(self.addresses)]
        arguments = {"name": name, "settings": {**self.settings, "url": url}}
        workers = Workers(workload.work, 1, directory, arguments=arguments)
        await workers.__aenter__()
        self._running[place] = workers, name
        await workers[0].next_report()


class Injector:
    """Does one thing after another to the workers, to their connections and to the servers.

    Args:
        target: the servers.
        crew: the workers.
        recorder: of what was done.
        chance: what decides.
        session: returns the key of a session that is worked on now.
        kinds: faults by how often, of all that there are; None: of all.
        pause: seconds between two of one kind of victim, on average.
    """

    def __init__(
        self,
        target: Target,
        crew: Crew,
        recorder: Recorder,
        chance: Random,
        session: Callable[[], str],
        *,
        kinds: Mapping[str, int] | None = None,
        pause: float = 1.0,
    ) -> None:
        self._target = target
        self._crew = crew
        self._recorder = recorder
        self._chance = chance
        self._session = session
        self._kinds = kinds
        self._pause = pause

    async def run(self, over: asyncio.Event) -> None:
        """Go on until told to stop; whatever was begun is undone then."""
        lanes: list[tuple[Mapping[str, int], Callable[[str], Awaitable[None]]]] = [
            (WORKERS, self._strike_worker),
            (self._target.faults, self._strike_server),
        ]
        if self._target.proxy is not None:
            lanes.append((NETWORK, self._strike_network))
        async with asyncio.TaskGroup() as running:
            for kinds, strike in lanes:
                chosen = kinds if self._kinds is None else _some(kinds, self._kinds)
                if chosen:
                    running.create_task(self._lane(chosen, strike, over))

    async def _lane(
        self,
        kinds: Mapping[str, int],
        strike: Callable[[str], Awaitable[None]],
        over: asyncio.Event,
    ) -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), self._chance.uniform(0, 2 * self._pause))
                return
            await strike(self._chance.choices(list(kinds), list(kinds.values()))[0])

    async def _strike_worker(self, kind: str) -> None:
        place = self._chance.randrange(self._crew.count)
        async with self._noted(kind, f"worker {place}"):
            if kind == "worker killed":
                await self._crew.replace(place)
                return
            worker = self._crew.worker(place)
            worker.stop()
            try:
                # The longest is longer than a turn lasts.
                await asyncio.sleep(self._chance.choice((0.05, 0.2, 0.5, 1.0, LEASE * 1.2)))
            finally:
                worker.cont()

    async def _strike_server(self, kind: str) -> None:
        async with self._noted(kind, "", loses=kind in self._target.loses) as noted:
            noted["target"] = await self._target.strike(kind, self._chance, self._session())

    async def _strike_network(self, kind: str) -> None:
        proxy = self._target.proxy
        assert proxy is not None
        async with self._noted(kind, "proxy") as noted:
            noted["times"] = await self._break(kind, proxy)

    async def _break(self, kind: str, proxy: CuttingProxy) -> int:
        times = self._chance.choice((1, 1, 2, 3))
        match kind:
            case "reply lost":
                return await _fired(proxy.cut_after_request(_SCRIPT, times=times))
            case "request lost":
                return await _fired(proxy.cut_before_request(_SCRIPT, times=times))
            case "half a reply":
                delivered = self._chance.randrange(1, 30)
                return await _fired(proxy.half_reply(_SCRIPT, delivered, times=times))
            case "all connections cut":
                return min(1, proxy.cut_all())
            case "slow network":
                proxy.delay(self._chance.uniform(0.005, 0.15))
                await asyncio.sleep(self._chance.uniform(0.2, 1.0))
                proxy.delay(0)
            case "requests held back":
                # For longer than a turn lasts: they reach the server when others have it.
                proxy.delay(LEASE * 1.2)
                await asyncio.sleep(0.03)
                proxy.delay(0)
                await asyncio.sleep(LEASE * 1.2)
            case _:
                proxy.refuse()
                proxy.cut_all()
                await asyncio.sleep(self._chance.uniform(0.05, 0.8))
                await proxy.accept()
        return 1

    @contextlib.asynccontextmanager
    async def _noted(
        self, kind: str, target: str, *, loses: bool = False
    ) -> AsyncGenerator[dict[str, Any]]:
        facts: dict[str, Any] = {"target": target, "times": 1}
        begin = time.monotonic_ns()
        try:
            yield facts
        finally:
            if facts["times"]:
                end = time.monotonic_ns()
                self._recorder.write(Fault(kind, begin=begin, end=end, loses=loses, **facts))


def _some(kinds: Mapping[str, int], chosen: Mapping[str, int]) -> dict[str, int]:
    return {kind: chosen[kind] for kind in kinds if kind in chosen}


async def _fired(fault: Armed) -> int:
    """Wait until an armed fault has struck as often as it may, for a second at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            while fault.left or fault.fired == 0:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.005)
    fault.left = 0
    return fault.fired
