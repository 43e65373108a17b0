"""Reads beside bare commands of redis-py."""

from appends import LOOPS
from measure import Call, Figure, alternating, figure, microseconds, ratio, run_on
from scene import BODY, FULL, Scene, Servers


def bench(servers: Servers, scale: int) -> list[Figure]:
    """Measure on both event loops."""
    figures: list[Figure] = []
    for name, loop in LOOPS.items():
        figures += run_on(loop, reads(servers.valkey, name, scale))
    return figures


async def reads(url: str, loop: str, scale: int) -> list[Figure]:
    """Read 200 messages beside an LRANGE of the same list, and the last 20 beside an RPUSH."""
    async with Scene(url) as scene:
        session = scene.client.memory("bench").session("read")
        await scene.fill("read")
        key = "mem:{local/bench/read}:log"
        assert len(await session.read()) == await scene.raw.llen(key) == FULL
        calls: dict[str, Call] = {
            "lrange": lambda: scene.raw.lrange(key, 0, -1),
            "rpush": lambda: scene.raw.rpush("floor:read", BODY),
            "all": session.read,
            "last": lambda: session.read(limit=20),
        }
        rounds = await alternating(calls, rounds=7, each=40 * scale)
    floor = {name: f"p50 {microseconds(rounds, name):.0f} us" for name in ("lrange", "rpush")}
    return [
        figure(
            f"read of 200, decoded, {loop}",
            ratio(rounds, "all", "lrange"),
            "x",
            "<= 2.1",
            f"beside raw LRANGE, {floor['lrange']}",
        ),
        figure(
            f"read of the last 20, decoded, {loop}",
            ratio(rounds, "last", "rpush"),
            "x",
            "<= 1.7",
            f"beside RPUSH, {floor['rpush']}",
        ),
    ]
