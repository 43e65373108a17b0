"""Writers in a process of their own: `appending.py URL NAMESPACE MEMORY`.

Sixteen tasks append until standard input ends. For every line that comes in, a line of JSON goes out:
how many appends there were since the last one, and their latencies in milliseconds.
"""

import asyncio
import json
import sys
import time

import holdfast

TASKS = 16
SESSIONS = 20  # of each task


async def main(url: str, namespace: str, memory: str) -> None:
    """Append until nobody asks any more."""
    took: list[float] = []
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    loop.add_reader(0, lambda: lines.put_nowait(sys.stdin.buffer.readline()))
    async with holdfast.connect(url, namespace=namespace) as client:
        sessions = [client.memory(memory).session(f"w-{n}") for n in range(TASKS * SESSIONS)]

        async def append(task: int) -> None:
            at = 0
            while True:
                begin = time.perf_counter()
                await sessions[task + TASKS * (at % SESSIONS)].append(
                    {"role": "user", "content": "where is my order?"}
                )
                took.append(time.perf_counter() - begin)
                at += 1

        tasks = [asyncio.create_task(append(task)) for task in range(TASKS)]
        while await lines.get():
            for task in tasks:
                if task.done():
                    task.result()
            found = sorted(took) or [0.0]
            took.clear()
            said = {
                "appends": len(found),
                "p50": found[len(found) // 2] * 1000,
                "p99": found[int(len(found) * 0.99)] * 1000,
            }
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
