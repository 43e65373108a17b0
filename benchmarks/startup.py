"""What a fresh process waits for: the import, and the first append."""

import random
import statistics
import subprocess
import sys
import time

from measure import Figure, figure
from scene import Servers

IMPORT = """
import time
began = time.monotonic()
import holdfast
print(time.monotonic() - began)
"""
CONNECT = """
import time
began = time.monotonic()
from holdfast import connect
print(time.monotonic() - began)
"""
LOADED = """
import sys
import holdfast
print(sum(name in sys.modules for name in ("redis", "tiktoken")))
"""
APPEND = """
import asyncio, sys, time
import holdfast

async def main(url):
    policy = {"limits": {"maxTokens": 12000}, "retention": {"ttl": "1h"}}
    async with holdfast.connect(url, policy=policy) as client:
        await client.memory("fresh").session("one").append({"role": "user", "content": "hello"})
        print(time.monotonic())

asyncio.run(main(sys.argv[1]))
"""


def bench(servers: Servers, scale: int) -> list[Figure]:
    """Start processes in a new order each round; the first round only fills the disk's cache."""
    took: dict[str, list[float]] = {"import": [], "connect": [], "append": []}
    for at in range(max(3, scale) + 1):
        for name in random.sample(list(took), len(took)):
            seconds = _seconds(name, servers.valkey)
            if at:
                took[name].append(seconds * 1000)
    import_, connect, append = (statistics.median(times) for times in took.values())
    warm = f"{len(took['import'])} processes, files in the cache"
    return [
        figure("import holdfast", import_, "ms", "<= 150", warm),
        figure("from holdfast import connect", connect, "ms", None, f"{warm}; loads pydantic"),
        figure("import holdfast: redis and tiktoken loaded", _run(LOADED), "modules", "<= 0"),
        figure(
            "first append in a fresh process",
            append,
            "ms",
            "<= 900",
            f"{warm}; from the start of the process to the answer, interpreter included",
        ),
    ]


def _seconds(name: str, url: str) -> float:
    if name != "append":
        return _run(IMPORT if name == "import" else CONNECT)
    began = time.monotonic()  # one clock for all processes of the machine
    return _run(APPEND, url) - began


def _run(program: str, *arguments: str) -> float:
    command = [sys.executable, "-c", program, *arguments]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
