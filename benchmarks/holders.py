"""Worker of the footprint: how large a process is with one session, and with many, all of them used.

python benchmarks/holders.py URL SESSIONS resident|allocated

It prints both sizes in bytes: pages of the process that are in memory, or what Python has allocated.
"""

import asyncio
import gc
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import holdfast

POLICY = {"limits": {"maxTokens": 12000}, "retention": {"ttl": "1h"}}


def resident() -> int:
    """Bytes of this process in memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def allocated() -> int:
    """Bytes that Python objects have, as far as they were made since tracing began."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def main(url: str, count: int, size: Callable[[], int]) -> None:
    async with holdfast.connect(url, policy=POLICY) as client:
        memory = client.memory("held")

        async def use(name: str) -> holdfast.Session:
            session = memory.session(name)
            await session.append({"role": "user", "content": "Is anybody there?"})
            assert len(await session.read()) > 0
            return session

        held = [await use("0")]
        for _ in range(20):  # buffers and caches have the size they keep
            await use("0")
        before = size()
        held += [await use(str(at)) for at in range(1, count)]
        print(before, size())
        assert len(held) == count


if __name__ == "__main__":
    if sys.argv[3] == "allocated":
        tracemalloc.start()
    asyncio.run(
        main(sys.argv[1], int(sys.argv[2]), allocated if sys.argv[3] == "allocated" else resident)
    )
