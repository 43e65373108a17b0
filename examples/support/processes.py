"""The agents as processes: started, told when to go on, listened to, and ended."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from checks import Acknowledged
from screen import Screen
from script import AGENTS
from worlds import HERE, WorldFailed

_DEADLINE = 60.0


@dataclass(slots=True)
class Told:
    """What the agents told so far."""

    acknowledged: list[Acknowledged] = field(default_factory=list[Acknowledged])
    phase: int = 0
    looks: list[list[Any]] = field(default_factory=list[list[Any]])


class Agent:
    """One agent's process.

    Args:
        name: which.
        process: running `agent.py`.
        told: where its messages go.
        screen: shows its turns.
    """

    def __init__(
        self, name: str, process: asyncio.subprocess.Process, told: Told, screen: Screen
    ) -> None:
        self.name = name
        self._process = process
        self._told = told
        self._screen = screen
        self._ready = asyncio.Event()
        self._listener = asyncio.create_task(self._listen())

    async def until_ready(self) -> None:
        """Wait until it has answered all it was asked to, and waits for the next phase."""
        waiting = asyncio.create_task(self._ready.wait())
        try:
            async with asyncio.timeout(_DEADLINE):
                await asyncio.wait({waiting, self._listener}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not self._ready.is_set():
            raise WorldFailed(f"the agent {self.name} ended before it was done")
        self._ready.clear()

    def go(self) -> None:
        """Begin the next phase."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")

    async def until_ended(self) -> None:
        """Wait until it ended by itself."""
        async with asyncio.timeout(_DEADLINE):
            await self._listener
            if await self._process.wait() != 0:
                raise WorldFailed(f"the agent {self.name} ended with an error")

    async def stop(self) -> None:
        """End it if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        await self._listener

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        turn: list[dict[str, Any]] = []
        async for text in self._process.stdout:
            line = json.loads(text)
            if "ready" in line:
                self._ready.set()
                continue
            names = ("agent", "id", "seq", "message", "tokens", "length")
            self._told.acknowledged.append(
                Acknowledged(**{name: line[name] for name in names}, phase=self._told.phase)
            )
            turn.append(line)
            if line["part"] == "answer":
                self._screen.turn(turn)
                turn.clear()


@contextlib.asynccontextmanager
async def agents(
    url: str, session: str, phases: Sequence[int], told: Told, screen: Screen
) -> AsyncGenerator[list[Agent]]:
    """Start the agents; each waits for its first phase.

    Args:
        url: of the store.
        session: id of the conversation.
        phases: how many questions each answers in each phase.
        told: where their messages go.
        screen: shows their turns.
    """
    parts = f"--phases={','.join(map(str, phases))}"
    started: list[Agent] = []
    try:
        for name in AGENTS:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(HERE / "agent.py"), name, f"--session={session}", parts),
                env=os.environ | {"HOLDFAST_URL": url},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the demo, which ends them
            )
            started.append(Agent(name, process, told, screen))
        await asyncio.gather(*(agent.until_ready() for agent in started))
        yield started
    finally:
        for agent in started:
            await agent.stop()
