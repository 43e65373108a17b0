"""The store's appends carried by valkey-glide (a client in Rust) beside its own carrier, on one server.

    pip install valkey-glide uvloop     # in an environment that also has the project; it is not a dependency
    PYTHONPATH=. python benchmarks/other_client.py

What came of it is in docs/decisions. Prints a table, writes nothing.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop
from glide import GlideClient, GlideClientConfiguration, NodeAddress
from measure import Call, ratio, together
from redis.exceptions import NoScriptError
from scene import FULL, MEMORY, ONE, POLICY

from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.store.redis import RedisStore
from holdfast.store.redis.carrier import Carrier, Command, Reply
from holdfast.values import Batch, Caller
from tests.harness.servers import Product, running_server

TASKS = (1, 16, 64)


class GlideCarrier:
    """Carries commands over glide's one connection; only what an append needs."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Reply]:  # noqa: ARG002 - one server
        """Send commands one after the other."""
        return [await self._one(command) for command in commands]

    async def _one(self, command: Command) -> Reply:
        arguments = [part if isinstance(part, bytes) else str(part).encode() for part in command]
        try:
            return await self._client.custom_command(arguments)
        except Exception as error:
            if "NOSCRIPT" in str(error) or "NoScript" in str(error):
                return NoScriptError("NOSCRIPT")
            raise

    async def block(self, command: Command, seconds: float) -> Reply | None:  # noqa: ARG002 - the protocol's
        raise AssertionError("an append waits for nothing")

    async def nodes(self) -> Sequence[Carrier]:
        return [self]

    async def primaries(self) -> Sequence[Carrier]:
        return [self]

    async def aclose(self) -> None:
        await self._client.close()


async def main(url: str, port: int, each: int) -> None:
    """Measure throughput and the client's CPU for some numbers of tasks."""
    address = NodeAddress("127.0.0.1", port)
    glide = await GlideClient.create(GlideClientConfiguration([address]))
    stores = {
        "own": RedisStore.from_url(url),
        "glide": RedisStore(GlideCarrier(glide)),
    }
    terms = terms_of(Policy.model_validate(POLICY), 0)
    one = Batch((ONE,))
    for tasks in TASKS:
        calls: dict[str, list[Call]] = {}
        for name, store in stores.items():
            calls[name] = []
            for at in range(tasks):
                session = store.session(MEMORY, f"{name}-{tasks}-{at}")
                await session.append(terms, Batch((ONE,) * FULL), Caller())
                calls[name].append(lambda session=session: session.append(terms, one, Caller()))
        rounds = await together(calls, rounds=7, each=max(1, each // tasks))
        cpu = {name: await _cpu(calls[name], max(1, each // tasks)) for name in calls}
        number = max(1, each // tasks) * tasks
        rates = {name: number / min(spans[name] for spans in rounds) for name in calls}
        print(
            f"{tasks:>3} tasks: own {rates['own']:>7.0f}/s, glide {rates['glide']:>7.0f}/s, "
            f"glide takes {ratio(rounds, 'glide', 'own'):.2f}x as long; CPU of the process per append: "
            f"own {cpu['own'] / number * 1e6:.0f} us, glide {cpu['glide'] / number * 1e6:.0f} us"
        )
    for store in stores.values():
        await store.aclose()


async def _cpu(calls: Sequence[Call], each: int) -> float:
    async def task(call: Call) -> None:
        for _ in range(each):
            await call()

    began = time.process_time()
    await asyncio.gather(*map(task, calls))
    return time.process_time() - began


def bench() -> None:
    """Run a server and measure."""
    with tempfile.TemporaryDirectory() as place, running_server(Product.VALKEY, Path(place)) as one:
        uvloop.run(main(one.url, one.port, int(sys.argv[1]) if len(sys.argv) > 1 else 6400))


if __name__ == "__main__":
    bench()
