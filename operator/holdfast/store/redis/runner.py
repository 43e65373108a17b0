"""Runs scripts and reads, and repeats what is safe to repeat."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from redis.exceptions import NoPermissionError, NoScriptError

from holdfast.errors import AmbiguousWrite, HoldfastError, StoreUnavailable
from holdfast.store.redis.carrier import Argument, Broken, Carrier, Command, Reply
from holdfast.store.redis.replies import PASSING, concerns_keys, raise_for
from holdfast.store.redis.script import Script, all_scripts

_log = logging.getLogger("holdfast")

FaultOf: TypeAlias = Callable[[Sequence[Reply]], Exception | None]
"""Picks out of the replies of one round trip the error that decides, if there is one."""

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
        stores: bool = False,
        before: tuple[Script, Sequence[bytes], Sequence[Argument]] | None = None,
    ) -> list[Any]:
        """Run a script and return its reply. One round trip.

        Args:
            script: which.
            keys: all of one hash slot.
            arguments: its ARGV.
            repeatable: running it twice has the effect of running it once.
            stores: what it writes is the caller's, who has to know when it is in doubt.
            before: a repeatable one to run in front, in the same round trip. It alone failing is
                logged: what was asked for is done, and must be neither repeated nor denied.

        Raises:
            AmbiguousWrite: the reply was lost, and the script is not repeatable; or it stores and no
                repetition was answered either.
            StoreUnavailable: nothing was written.
            AccessDenied, ScriptsMissing, UnknownKeys, CorruptRecord.
        """
        main = evalsha(script, keys, arguments)
        if before is None:
            return (await self._repeat([main], repeatable=repeatable, stores=stores))[0]
        ahead = evalsha(*before)
        replies = await self._repeat(
            [ahead, main], repeatable=repeatable, stores=stores, fault_of=_last_fault
        )
        if isinstance(replies[0], Exception):
            try:
                await self._repeat([ahead], repeatable=True)
            except HoldfastError as error:
                _log.warning("script %s not run, %s: %s", before[0].name, error.code, error.message)
        return replies[1]

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands that write nothing, in one round trip, and return their replies."""
        return await self._repeat(commands, repeatable=True)

    async def read_at_once(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands as one transaction: their replies are of one moment. One round trip."""
        wrapped: list[Command] = [(b"MULTI",), *commands, (b"EXEC",)]
        return (await self._repeat(wrapped, repeatable=True))[-1]

    async def each(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that may be repeated and have nothing to do with each other. One round trip.

        Where what is stored under a command's own keys is the fault, its exception stands in the list.
        """
        if not commands:
            return []
        return await self._repeat(commands, repeatable=True, fault_of=_common_fault)

    async def wait(self, key: bytes, seconds: float) -> None:
        """Wait until somebody pushes to a list, or the time is up, or the connection breaks."""
        try:
            await self._carrier.block((b"BLPOP", key, f"{seconds:.3f}"), seconds)
        except (Broken, StoreUnavailable):
            await asyncio.sleep(min(seconds, _FIRST_PAUSE))

    async def _repeat(
        self,
        commands: Sequence[Command],
        *,
        repeatable: bool,
        stores: bool = False,
        fault_of: FaultOf | None = None,
    ) -> list[Reply]:
        deadline: float | None = None
        pause = _FIRST_PAUSE
        in_doubt = False
        while True:
            try:
                replies, failure = await self._attempt(commands, fault_of or _first_fault)
                if failure is None:
                    return replies
                if isinstance(failure, Broken):
                    if not repeatable:
                        raise _ambiguous() from failure
                    in_doubt = in_doubt or stores
                now = time.monotonic()
                deadline = deadline or now + self._patience
                if now + pause > deadline:
                    self._give_up(failure)
            except HoldfastError as error:
                if in_doubt:
                    raise _ambiguous() from error
                raise
            await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _attempt(
        self, commands: Sequence[Command], fault_of: FaultOf
    ) -> tuple[list[Reply], Exception | None]:
        """Send the commands once; return the replies, or what went wrong where that may pass."""
        try:
            replies = await self._carrier.exchange(commands)
            fault = fault_of(replies)
            if fault is None:
                return replies, None
            hopeless = await self._mend(fault)
        except (Broken, StoreUnavailable) as error:
            return [], error
        if hopeless is not None:
            raise_for(hopeless)
        return [], fault

    async def _mend(self, fault: Exception) -> Exception | None:
        """Do what makes the call worth repeating; return the error when nothing would.

        Raises:
            StoreUnavailable: the connection broke. The call itself has written nothing.
        """
        if isinstance(fault, NoScriptError):
            loads = [(b"SCRIPT", b"LOAD", script.body) for script in all_scripts()]
            try:
                refused = _first_fault(await self._carrier.exchange(loads))
            except Broken as error:
                raise StoreUnavailable("the server does not answer in time") from error
            return None if isinstance(refused, NoPermissionError) else refused
        passing = isinstance(fault, PASSING) or str(fault).startswith("BUSY")
        return None if passing else fault

    def _give_up(self, failure: Exception) -> None:
        if isinstance(failure, Broken):
            raise StoreUnavailable("the server does not answer in time") from failure
        if isinstance(failure, StoreUnavailable):
            raise failure
        raise_for(failure)


def _ambiguous() -> AmbiguousWrite:
    return AmbiguousWrite(
        "the connection broke before the answer: the call may or may not have been carried out. Read "
        "the session to find out; an append with an id is repeated by itself and stored once"
    )


def _first_fault(replies: Sequence[Reply]) -> Exception | None:
    for reply in replies:
        if isinstance(reply, Exception):
            return reply
        if isinstance(reply, list):  # of a transaction, whose commands fail on their own
            for part in cast("list[Reply]", reply):
                if isinstance(part, Exception):
                    return part
    return None


def _last_fault(replies: Sequence[Reply]) -> Exception | None:
    return _first_fault(replies[-1:])


def _common_fault(replies: Sequence[Reply]) -> Exception | None:
    faults = (reply for reply in replies if isinstance(reply, Exception))
    return next((fault for fault in faults if not concerns_keys(fault)), None)


def evalsha(script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
    """Return the command that runs a script."""
    return (script.command, script.sha, len(keys), *keys, *arguments)
