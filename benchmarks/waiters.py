"""Worker of the lease benchmark: tasks that take turns on one session and print how long they waited.

python benchmarks/waiters.py URL SESSION TASKS TURNS
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


async def waiter(session: holdfast.Session, turns: int, waits: list[float]) -> None:
    for _ in range(turns):
        begin = time.perf_counter()
        async with session.turn():
            waits.append(time.perf_counter() - begin)
            await asyncio.sleep(SECTION)


async def main(url: str, name: str, tasks: int, turns: int) -> None:
    async with holdfast.connect(url, policy=POLICY) as client:
        memory = client.memory("bench")
        sessions = [memory.session(name) for _ in range(tasks)]
        await sessions[0].length()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        waits: list[float] = []
        begin = time.perf_counter()
        await asyncio.gather(*(waiter(session, turns, waits) for session in sessions))
        print(json.dumps({"waits": waits, "seconds": time.perf_counter() - begin}), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
