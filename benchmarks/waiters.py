"""Worker of the lease benchmark: tasks that take turns on one session and print when they had it.

python benchmarks/waiters.py URL SESSION TASKS TURNS

Of each turn it prints the fence and three times by the machine's monotonic clock, in seconds: when the
task asked, when its body began, and when it gave the turn back.
"""

import asyncio
import json
import sys
import time

import holdfast

SECTION = 0.001  # seconds a turn is held
POLICY = {
    "limits": {"maxTokens": 12000},
    "retention": {"ttl": "1h"},
    "locking": {"waitTimeout": "30s"},
}


async def waiter(
    session: holdfast.Session, count: int, turns: list[tuple[int, float, float, float]]
) -> None:
    for _ in range(count):
        asked = time.monotonic()
        async with session.turn() as turn:
            began = time.monotonic()
            await asyncio.sleep(SECTION)
            ended = time.monotonic()
        turns.append((turn.fence, asked, began, ended))


async def main(url: str, name: str, tasks: int, count: int) -> None:
    async with holdfast.connect(url, policy=POLICY) as client:
        memory = client.memory("bench")
        sessions = [memory.session(name) for _ in range(tasks)]

        async def take(count: int) -> list[tuple[int, float, float, float]]:
            turns: list[tuple[int, float, float, float]] = []
            await asyncio.gather(*(waiter(session, count, turns) for session in sessions))
            return turns

        await take(3)  # opens the connections
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        turns = await take(count)
        print(json.dumps(turns), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
