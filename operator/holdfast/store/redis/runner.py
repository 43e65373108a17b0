"""Runs scripts and reads, and repeats what is safe to repeat."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from redis.exceptions import NoPermissionError, NoScriptError

from holdfast.breaker import is_away
from holdfast.errors import (
    AmbiguousWrite,
    ConfigurationError,
    HoldfastError,
    StoreUnavailable,
)
from holdfast.policy.units import Duration
from holdfast.store.pool_in_use import PoolInUse
from holdfast.store.redis.carrier import Argument, Broken, Carrier, Command, Reply, key_of
from holdfast.store.redis.replies import concerns_keys, passes, raise_for, refuses_command
from holdfast.store.redis.script import Script, all_scripts
from holdfast.telemetry import Retry, Telemetry
from holdfast.values import Durability

_log = logging.getLogger("holdfast")

FaultOf: TypeAlias = Callable[[Sequence[Reply]], Exception | None]
"""Picks out of the replies of one round trip the error that decides, if there is one."""

Ahead: TypeAlias = tuple[Script, Sequence[bytes], Sequence[Argument]]
"""A script to run in front of another, with its keys and arguments."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
_LONGEST_WAIT, _MOST_REPLICAS = 10_000, 100


class Runner:
    """Runs scripts on one server.

    Repeated by itself is only what wrote nothing: a script the server does not know yet, a connection
    that could not be made, a server that loads or moves; and, where the call says that it may be
    repeated, one whose reply was lost. A call that begins while the server is known to be away fails at
    once; one that was under way goes on for its patience.

    Args:
        carrier: brings commands to the server.
        patience: seconds in which a call is repeated.
        durability: how many replicas confirm what `run_confirmed` runs; None: none.
        telemetry: is told of each repetition; None tells nobody.

    Attributes:
        strict: where they do not, that is an error.

    Raises:
        ConfigurationError: the durability cannot be.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        patience: float,
        durability: Durability | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._carrier = carrier
        self._patience = patience
        self._telemetry = telemetry or Telemetry()
        self._replicas = durability.replicas if durability else 0
        self._wait = _wait_for(durability) if durability else None
        self.strict = durability is not None and durability.strict

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[Argument],
        *,
        repeatable: bool,
        stores: bool = False,
        before: Ahead | None = None,
        repeating: Callable[[], object] | None = None,
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
            repeating: called where it is sent again and the first one may be carried out yet.

        Raises:
            AmbiguousWrite: the reply was lost, and the script is not repeatable; or it stores and no
                repetition was answered either.
            StoreUnavailable: nothing was written.
            AccessDenied, ScriptsMissing, UnknownKeys, CorruptRecord.
        """
        reply, _ = await self._run(
            evalsha(script, keys, arguments),
            repeatable=repeatable,
            stores=stores,
            before=before,
            repeating=repeating,
            confirm=False,
        )
        return reply

    async def run_confirmed(
        self,
        script: Script,
        keys: Sequence[bytes],
        arguments: Sequence[Argument],
        *,
        repeatable: bool,
        stores: bool = False,
        before: Ahead | None = None,
        repeating: Callable[[], object] | None = None,
        again: Callable[[], Sequence[Argument]] | None = None,
    ) -> tuple[list[Any], bool]:
        """Run a script as `run` does, and wait for replicas if so agreed. One round trip.

        Returns its reply, and whether enough replicas have what it wrote. They are asked on the same
        connection, right behind it: the server waits for what was written until then.

        `again` gives the script's ARGV from the first repetition on that may find the call carried out.
        """
        return await self._run(
            evalsha(script, keys, arguments),
            repeatable=repeatable,
            stores=stores,
            before=before,
            repeating=repeating,
            confirm=self._wait is not None,
            again=None if again is None else lambda: evalsha(script, keys, again()),
        )

    async def _run(
        self,
        main: Command,
        *,
        repeatable: bool,
        stores: bool,
        before: Ahead | None,
        repeating: Callable[[], object] | None,
        confirm: bool,
        again: Callable[[], Command] | None = None,
    ) -> tuple[list[Any], bool]:
        commands = [main]
        if before is not None:
            commands.insert(0, evalsha(*before))
        at = len(commands) - 1
        if confirm and self._wait is not None:
            commands.append(self._wait)
        replies = await self._repeat(
            commands,
            repeatable=repeatable,
            stores=stores,
            fault_of=lambda replies: _first_fault(replies[at : at + 1]),
            repeating=repeating,
            again=None if again is None else lambda: [*commands[:at], again(), *commands[at + 1 :]],
        )
        if before is not None and isinstance(replies[0], Exception):
            try:
                await self._repeat(commands[:1], repeatable=True)
            except HoldfastError as error:
                _log.warning("script %s not run, %s: %s", before[0].name, error.code, error.message)
        durable = not confirm or (isinstance(replies[-1], int) and replies[-1] >= self._replicas)
        return replies[at], durable

    async def read(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands that write nothing, in one round trip, and return their replies."""
        return await self._repeat(commands, repeatable=True)

    async def ask(self, commands: Sequence[Command]) -> list[Reply]:
        """Run commands that write nothing and that a server need not allow or know. One round trip.

        Where it does not, its refusal stands in the list as an exception.
        """
        return await self._repeat(commands, repeatable=True, fault_of=_unless_refused)

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

    async def wait(self, key: bytes, seconds: float) -> bytes | str | None:
        """Wait for what somebody pushes to a list; None when the time is up or the connection breaks."""
        try:
            reply = await self._carrier.block((b"BLPOP", key, f"{seconds:.3f}"), seconds)
        except (Broken, StoreUnavailable):
            await asyncio.sleep(min(seconds, _FIRST_PAUSE))
            return None
        return None if reply is None else reply[1]

    async def _repeat(
        self,
        commands: Sequence[Command],
        *,
        repeatable: bool,
        stores: bool = False,
        fault_of: FaultOf | None = None,
        repeating: Callable[[], object] | None = None,
        again: Callable[[], Sequence[Command]] | None = None,
    ) -> list[Reply]:
        began = time.monotonic()
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
                    if repeating is not None:
                        repeating()
                    if again is not None:
                        commands = again()
                if deadline is None and is_away(failure):
                    raise failure  # only what was under way before is still repeated
                now = time.monotonic()
                # A connection of the caller's pool was waited for, by this call or by one before it.
                first = began if isinstance(failure, PoolInUse) else now
                deadline = deadline or first + self._patience
                if now + pause > deadline:
                    self._give_up(failure)
            except HoldfastError as error:
                if in_doubt:
                    raise _ambiguous() from error
                raise
            self._telemetry.retried(_reason(failure))
            await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _attempt(
        self, commands: Sequence[Command], fault_of: FaultOf
    ) -> tuple[list[Reply], Exception | None]:
        """Send the commands, and return the replies, or what went wrong where that may pass.

        Once, and again where the server did not know a script and knows it now: at once, and however little
        time is left. A server that takes over is not known to lack them before it is asked.
        """
        try:
            replies = await self._carrier.exchange(commands)
            fault = fault_of(replies)
            if isinstance(fault, NoScriptError):
                refused = await self._load(commands, replies)
                if refused is None:
                    self._telemetry.retried(Retry.SCRIPTS)
                    replies = await self._carrier.exchange(commands)
                    fault = fault_of(replies)
                elif not isinstance(refused, NoPermissionError):
                    fault = refused
        except (Broken, StoreUnavailable) as error:
            return [], error
        if fault is None:
            return replies, None
        if not isinstance(fault, NoScriptError) and not passes(fault):
            raise_for(fault)
        return [], fault

    async def _load(
        self, commands: Sequence[Command], replies: Sequence[Reply]
    ) -> Exception | None:
        """Load all scripts on the server that does not know one; return why it would not.

        Raises:
            StoreUnavailable: the connection broke. The call itself has written nothing.
        """
        loads = [(b"SCRIPT", b"LOAD", script.body) for script in all_scripts()]
        near = _who_said(NoScriptError, commands, replies)
        try:
            return _first_fault(await self._carrier.exchange(loads, near=near))
        except Broken as error:
            raise StoreUnavailable("the server does not answer in time") from error

    def _give_up(self, failure: Exception) -> None:
        if isinstance(failure, Broken):
            raise StoreUnavailable("the server does not answer in time") from failure
        if isinstance(failure, StoreUnavailable):
            raise failure
        raise_for(failure)


def _reason(failure: Exception) -> Retry:
    if isinstance(failure, Broken):
        return Retry.LOST
    if isinstance(failure, StoreUnavailable):
        return Retry.UNREACHABLE
    return Retry.SCRIPTS if isinstance(failure, NoScriptError) else Retry.SERVER


def _wait_for(durability: Durability) -> Command:
    try:
        timeout = Duration.of(durability.timeout).milliseconds
    except (TypeError, ValueError):
        timeout = 0
    if not 0 < timeout <= _LONGEST_WAIT or not 0 < durability.replicas <= _MOST_REPLICAS:
        raise ConfigurationError(
            "the durability cannot be: replicas is 1..100, and timeout a duration such as '100ms' of "
            "at most 10 s"
        )
    return (b"WAIT", durability.replicas, timeout)


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


def _who_said(
    error: type[Exception], commands: Sequence[Command], replies: Sequence[Reply]
) -> bytes:
    """Return a key on the server that gave such a reply."""
    keys = [key_of(command) for command in commands]
    said = (key for key, reply in zip(keys, replies, strict=True) if isinstance(reply, error))
    return next((key for key in [*said, *keys] if key is not None), b"")


def _common_fault(replies: Sequence[Reply]) -> Exception | None:
    faults = (reply for reply in replies if isinstance(reply, Exception))
    return next((fault for fault in faults if not concerns_keys(fault)), None)


def _unless_refused(replies: Sequence[Reply]) -> Exception | None:
    faults = (reply for reply in replies if isinstance(reply, Exception))
    return next((fault for fault in faults if not refuses_command(fault)), None)


def evalsha(script: Script, keys: Sequence[bytes], arguments: Sequence[Argument]) -> Command:
    """Return the command that runs a script."""
    return (script.command, script.sha, len(keys), *keys, *arguments)
