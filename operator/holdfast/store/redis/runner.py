"""Runs scripts and reads, and repeats what is safe to repeat."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoPermissionError, NoScriptError, ResponseError

from holdfast.errors import AmbiguousWrite, ScriptsMissing, StoreUnavailable
from holdfast.store.redis.carrier import Argument, Broken, Carrier, Command, Reply
from holdfast.store.redis.replies import PASSING, concerns_keys, raise_for
from holdfast.store.redis.script import Script, all_scripts

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5


class Runner:
    """Runs scripts on one server.

    Repeated by itself is only what wrote nothing: a script the server does not know yet, a connection
    that could not be made, a server that loads or moves; and, where the call says that it may be
    repeated, one whose reply was lost.

    Args:
        carrier: brings commands to the server.
        patience: seconds in which a call is repeated.
    """

    def __init__(self, carrier: Carrier, *, patience: float) -> None:
        self._carrier = carrier
        self._patience = patience

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[Argument],
        *,
        repeatable: bool,
        before: tuple[Script, Sequence[bytes], Sequence[Argument]] | None = None,
    ) -> list[Any]:
        """Run a script and return its reply. One round trip.

        Args:
            script: which.
            keys: all of one hash slot.
            arguments: its ARGV.
            repeatable: running it twice has the effect of running it once.
            before: another one to run in front, in the same round trip.

        Raises:
            AmbiguousWrite: the reply was lost, and the script is not repeatable.
            StoreUnavailable: nothing was written.
            AccessDenied, ScriptsMissing, UnknownKeys, CorruptRecord.
        """
        commands = [evalsha(script, keys, arguments)]
        if before is not None:
            commands.insert(0, evalsha(*before))
        replies = await self._repeat(commands, repeatable=repeatable)
        return replies[-1]

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands that write nothing, in one round trip, and return their replies."""
        return await self._repeat(commands, repeatable=True)

    async def read_at_once(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands as one transaction: their replies are of one moment. One round trip."""
        wrapped: list[Command] = [(b"MULTI",), *commands, (b"EXEC",)]
        replies = (await self._repeat(wrapped, repeatable=True))[-1]
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise_for(reply)
        return replies

    async def each(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that may be repeated and have nothing to do with each other. One round trip.

        Where what is stored under a command's own keys is the fault, its exception stands in the list.
        """
        if not commands:
            return []
        return await self._repeat(commands, repeatable=True, apart=True)

    async def wait(self, key: bytes, seconds: float) -> None:
        """Wait until somebody pushes to a list, or the time is up, or the connection breaks."""
        try:
            await self._carrier.block((b"BLPOP", key, f"{seconds:.3f}"), seconds)
        except (Broken, StoreUnavailable):
            await asyncio.sleep(min(seconds, _FIRST_PAUSE))

    async def _repeat(
        self, commands: Sequence[Command], *, repeatable: bool, apart: bool = False
    ) -> list[Reply]:
        deadline: float | None = None
        pause = _FIRST_PAUSE
        while True:
            try:
                replies = await self._carrier.exchange(commands)
                faults = (reply for reply in replies if isinstance(reply, Exception))
                fault = next((one for one in faults if not (apart and concerns_keys(one))), None)
                if fault is None:
                    return replies
                if not await self._mend(fault):
                    raise_for(fault)
                failure: Exception = fault
            except Broken as error:
                if not repeatable:
                    raise AmbiguousWrite(
                        "the connection broke before the answer: the call may or may not have been "
                        "carried out. Read the session to find out; an append with an id is repeated "
                        "by itself and stored once"
                    ) from error
                failure = error
            except StoreUnavailable as error:
                failure = error
            now = time.monotonic()
            deadline = deadline or now + self._patience
            if now + pause > deadline:
                self._give_up(failure)
            await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _mend(self, fault: Exception) -> bool:
        """Do what makes the call worth repeating; False when nothing would."""
        if isinstance(fault, NoScriptError):
            loads = [(b"SCRIPT", b"LOAD", script.body) for script in all_scripts()]
            replies = await self._carrier.exchange(loads)
            refused = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if refused is not None and not isinstance(refused, NoPermissionError):
                raise_for(refused)
            return True
        return isinstance(fault, PASSING) or str(fault).startswith("BUSY")

    def _give_up(self, failure: Exception) -> None:
        if isinstance(failure, NoScriptError):
            raise ScriptsMissing(
                "the server does not have the scripts of this version and these credentials may not "
                "load them: the operator does, check that it runs"
            ) from failure
        if isinstance(failure, Broken):
            raise StoreUnavailable("the server does not answer in time") from failure
        if isinstance(failure, StoreUnavailable):
            raise failure
        raise_for(failure)


def evalsha(script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
    """Return the command that runs a script."""
    return (b"EVALSHA", script.sha, len(keys), *keys, *arguments)
