"""What is tried: deaths at points, refusals and faults of the API server, faults of Redis."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeAlias

from tests.chaos.doom import Side
from tests.chaos.ground import guarded
from tests.chaos.life import BINDING, Found, Ground, Life, Place
from tests.chaos.operators import Fate
from tests.chaos.phases import EMPTIED, all_phases
from tests.chaos.refusals import RefusingServer
from tests.harness.operator_process import ACCOUNT, HOME
from tests.harness.pipe import Pipe
from tests.harness.proxy import CuttingProxy
from tests.harness.sentinels import NAME, Sentinels
from tests.harness.servers import Server
from tests.harness.waiting import until

_HANGS: Final = 12.0
"""Seconds: longer than a request of the operator's waits."""
_MOST: Final = 200
"""More exchanges than any phase has: each is done with before that many were tried."""
_SERVED: Final = 30.0
"""Seconds within which a server that was restarted has its users again: each object is looked at in 60."""
_FROZEN: Final = 7.0
"""Seconds: longer than an exchange with Redis waits."""
_AWAY: Final = 2.0


@dataclass(slots=True)
class Row:
    """A row of the table.

    Attributes:
        name: of the scenario.
        lives: how many were lived.
        points: exchanges at which one was to die.
        deaths: how many did.
        faults: how many faults struck.
        violations: sentences.
    """

    name: str
    lives: int = 0
    points: int = 0
    deaths: int = 0
    faults: int = 0
    violations: list[str] = field(default_factory=list[str])

    def count(self, found: Found, *, points: int = 0, faults: int = 0) -> None:
        """Add what came of a life."""
        self.lives += 1
        self.points += points
        self.deaths += found.deaths.total()
        self.faults += faults
        self.violations += found.violations


Trial: TypeAlias = Callable[[Ground, Path], Awaitable[Row]]


# Deaths


class Deaths:
    """Lives with a death at each point, until every phase is survived.

    Args:
        ground: what the lives share.
        side: before or after the exchange.
        deaths: of operators at the same point, one after the other.
    """

    def __init__(self, ground: Ground, side: Side, *, deaths: int = 1) -> None:
        self._ground = ground
        self._side = side
        self._deaths = deaths
        self._left = {phase.name for phase in all_phases()}
        self._rows = {phase.name: Row(f"{phase.name}, death {side}") for phase in all_phases()}

    async def try_all(self, *, at_once: int) -> list[Row]:
        """Try points from 0 on, and return a row for each phase."""
        numbers = iter(range(_MOST))
        await asyncio.gather(*(self._try_next(numbers) for _ in range(at_once)))
        return self.rows

    @property
    def rows(self) -> list[Row]:
        """What came of each phase so far."""
        return list(self._rows.values())

    async def _try_next(self, numbers: Iterator[int]) -> None:
        while self._left:
            number = next(numbers, None)
            if number is None:
                return
            await self.try_one(number)
            wrong = sum(len(row.violations) for row in self.rows)
            left = ", ".join(sorted(self._left))
            print(f"death {self._side} {number}: {wrong} violations; left: {left}", flush=True)

    async def try_one(self, number: int) -> None:
        """Live a life with a death at this point of each phase."""
        phases, left = all_phases(), set(self._left)
        # The last phases that are done with need not be lived through again.
        while phases and phases[-1].name not in left:
            phases.pop()
        life = Life(self._ground, Fate(die_at=number, side=self._side), deaths=self._deaths)
        found = await life.live(phases)
        for phase in phases:
            row, name = self._rows[phase.name], phase.name
            wrong = [one for one in found.violations if one.startswith(f"{name}:")]
            if name not in left or not (wrong or name in found.points):
                continue
            row.lives += 1
            row.points += 1
            row.deaths += found.deaths[name]
            row.violations += [f"at {number}: {sentence}" for sentence in wrong]
            if wrong:
                print("\n".join(wrong), flush=True)
            if name in found.survived:
                self._left.discard(name)


# Faults of the API server


async def refusals(ground: Ground, directory: Path, *, rate: float = 0.25, lives: int = 4) -> Row:
    """Refuse writes with 409, 429 and 5xx; of the last, half were carried out."""
    row = Row(f"API server: {rate:.0%} of writes get 409, 429, 5xx")
    async with RefusingServer() as server:

        async def live(seed: int) -> None:
            fate = Fate(refuse=rate, refusals=server.url, seed=seed)
            row.count(await Life(ground, fate).live(all_phases()))

        await asyncio.gather(*map(live, range(lives)))
        row.faults = server.refused
    return row


async def refusals_and_deaths(ground: Ground, directory: Path) -> Row:
    """Refuse writes, and kill who is refused as well."""
    row = Row("API server: refusals and deaths")
    async with RefusingServer() as server:

        async def live(number: int) -> None:
            fate = Fate(number, Side.AFTER, refuse=0.2, refusals=server.url, seed=number)
            found = await Life(ground, fate, deaths=2).live(all_phases())
            row.count(found, points=len(all_phases()))

        await asyncio.gather(*map(live, (2, 5, 9, 14)))
        row.faults = server.refused
    return row


async def restarted(ground: Ground, directory: Path) -> Row:
    """Restart the API server in the middle of every phase."""
    row = Row("API server: restarted")

    async def strike(life: Life) -> None:
        await life.reached(2)
        await asyncio.to_thread(ground.plane.restart_api_server)
        row.faults += 1

    row.count(await Life(ground, Fate(), disturb=strike).live(all_phases()))
    return row


async def hung(ground: Ground, directory: Path) -> Row:
    """Let the API server hang in the middle of every phase, for longer than a request waits."""
    row = Row("API server: hung")

    async def strike(life: Life) -> None:
        await life.reached(1)
        ground.plane.pause()
        try:
            await asyncio.sleep(_HANGS)
        finally:
            ground.plane.resume()
        row.faults += 1

    row.count(await Life(ground, Fate(), disturb=strike).live(all_phases()))
    return row


async def cut_watches(ground: Ground, directory: Path) -> Row:
    """Cut every connection to the API server again and again, watches among them."""
    row = Row("API server: connections and watches cut")
    own = await asyncio.to_thread(ground.plane.kubeconfig_for, HOME, ACCOUNT)
    upstream = int(ground.plane.url.rpartition(":")[2])
    async with Pipe(upstream) as pipe:
        text = own.read_text("utf-8").replace(f":{upstream}", f":{pipe.port}")
        kubeconfig = directory / "through-the-pipe.kubeconfig"
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(text, "utf-8")

        async def strike(life: Life) -> None:
            for exchanges in (1, 3, 5):
                with suppress(TimeoutError):  # a phase may be done with less
                    await asyncio.wait_for(life.reached(exchanges), 5)
                pipe.refuse()
                await pipe.accept()
                row.faults += 1

        life = Life(ground, Fate(), kubeconfig=kubeconfig, disturb=strike)
        row.count(await life.live(all_phases()))
    return row


# Faults of Redis

Strike: TypeAlias = Callable[[Life, Server, CuttingProxy], Awaitable[int]]
"""Does something to a server in the middle of a phase; returns how many faults that were."""


async def _on_a_server_of_its_own(
    name: str, strike: Strike, ground: Ground, directory: Path, *, restarts: bool = False
) -> Row:
    """Live a life whose operators reach a server of its own through a proxy, and strike in each phase."""
    row = Row(f"Redis: {name}")
    home = directory / name.replace(" ", "-")
    async with guarded(home, persist=restarts) as server, CuttingProxy(server.port) as proxy:

        async def disturb(life: Life) -> None:
            row.faults += await strike(life, server, proxy)

        place = Place.on(server, through=proxy.port)
        life = Life(ground, Fate(), place=place, disturb=disturb, forgetful=restarts)
        row.count(await life.live(all_phases()))
    return row


async def _serves_the_workload(life: Life) -> None:
    """Wait until the workload is let in, if it has a login: well before all objects had their turn."""
    if life.logins and await life.get(BINDING):

        async def let_in() -> bool:
            login = await life.entries()
            there = bool(await life.get(BINDING))
            return not there or (bool(login) and bool(await life.let_in(login)))

        await until(let_in, "the workload is let in again", deadline=_SERVED)


async def redis_restarted(ground: Ground, directory: Path) -> Row:
    """Restart the server, which keeps its data."""

    async def strike(life: Life, server: Server, proxy: CuttingProxy) -> int:
        await life.reached(3)
        await server.restart()
        await _serves_the_workload(life)
        return 1

    return await _on_a_server_of_its_own(
        "restarted with its data", strike, ground, directory, restarts=True
    )


async def redis_read_only(ground: Ground, directory: Path) -> Row:
    """Make the server a replica of nobody, as in the middle of a failover, and a primary again."""

    async def strike(life: Life, server: Server, proxy: CuttingProxy) -> int:
        async with await life.raw() as redis:
            await redis.execute_command("REPLICAOF", "127.0.0.1", "1")
            await asyncio.sleep(_AWAY)
            await redis.execute_command("REPLICAOF", "NO", "ONE")
        return 1

    return await _on_a_server_of_its_own("read-only", strike, ground, directory)


async def redis_full(ground: Ground, directory: Path) -> Row:
    """Let the server refuse what needs memory, and give it room again."""

    async def strike(life: Life, server: Server, proxy: CuttingProxy) -> int:
        async with await life.raw() as redis:
            await redis.config_set("maxmemory", 1)
            await asyncio.sleep(_AWAY)
            await redis.config_set("maxmemory", 0)
        return 1

    return await _on_a_server_of_its_own("full", strike, ground, directory)


async def redis_slow(ground: Ground, directory: Path) -> Row:
    """Answer every request 20 ms late."""

    async def strike(life: Life, server: Server, proxy: CuttingProxy) -> int:
        before = proxy.delayed
        proxy.delay(0.02)
        await life.reached(3)
        return proxy.delayed - before

    return await _on_a_server_of_its_own("slow", strike, ground, directory)


async def redis_frozen(ground: Ground, directory: Path) -> Row:
    """Freeze the server for longer than an exchange waits."""

    async def strike(life: Life, server: Server, proxy: CuttingProxy) -> int:
        await life.reached(2)
        server.pause()
        try:
            await asyncio.sleep(_FROZEN)
        finally:
            server.resume()
        return 1

    return await _on_a_server_of_its_own("frozen", strike, ground, directory)


async def redis_replies_lost(ground: Ground, directory: Path) -> Row:
    """Cut the connection between execution and reply: of scripts, of users, of scans."""

    async def strike(life: Life, server: Server, proxy: CuttingProxy) -> int:
        faults = [
            proxy.cut_after_request(b"EVALSHA", times=2),
            proxy.cut_after_request(b"SETUSER", times=1),
            proxy.cut_after_request(b"ZSCAN", times=1),
        ]
        await life.reached(4)
        for fault in faults:
            fault.left = 0
        return sum(fault.fired for fault in faults)

    return await _on_a_server_of_its_own("replies lost", strike, ground, directory)


async def redis_emptied(ground: Ground, directory: Path) -> Row:
    """Lose all data, under operators that die where they notice."""
    row = Row("Redis: emptied")
    create, *_, delete = all_phases()

    async def live(number: int | None) -> None:
        async with guarded(directory / f"emptied-{number}") as server:
            life = Life(ground, Fate(die_at=number), place=Place.on(server))
            found = await life.live([create, EMPTIED, delete])
            row.count(found, points=0 if number is None else 3, faults=1)

    await asyncio.gather(*map(live, (None, 0, 2, 4)))
    return row


async def redis_failed_over(ground: Ground, directory: Path) -> Row:
    """Kill the primary of a Sentinel set in the middle of every phase."""
    row = Row("Redis: failed over")
    # One failover is what is asked for: a second one, of a replica without data, would lose them all.
    async with Sentinels(directory / "sentinels", down_after=3000) as sentinels:

        async def port() -> int:
            return (await sentinels.primary()).port

        async def strike(life: Life) -> None:
            await life.reached(2)
            # What is not copied yet is lost with any primary; that is no fault of the operator.
            await sentinels.in_step()
            primary, replica = await sentinels.primary(), await sentinels.replica()
            await primary.kill()
            await sentinels.agreed(replica)
            await primary.start()
            await _serves_the_workload(life)
            row.faults += 1

        endpoints = [f"127.0.0.1:{one}" for one in sentinels.ports]
        spec = {"mode": "Sentinel", "endpoints": endpoints, "sentinel": {"masterName": NAME}}
        url = sentinels.url.replace("://", "://{login}@")
        phases = [replace(phase, writes=False) for phase in all_phases()]
        life = Life(ground, Fate(), place=Place(spec, url, port), disturb=strike, forgetful=True)
        row.count(await life.live(phases))
    return row


APART: Final[tuple[Trial, ...]] = (restarted, hung)
"""Faults of what all lives share: one after the other, and nothing beside them."""
TOGETHER: Final[tuple[Trial, ...]] = (
    refusals,
    refusals_and_deaths,
    cut_watches,
    redis_restarted,
    redis_read_only,
    redis_full,
    redis_slow,
    redis_frozen,
    redis_replies_lost,
    redis_emptied,
    redis_failed_over,
)
