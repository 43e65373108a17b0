"""Waiting for something to become true, instead of sleeping and hoping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def until(
    condition: Callable[[], bool | Awaitable[bool]],
    what: str,
    *,
    deadline: float = 120.0,
    every: float = 0.01,
) -> None:
    """Return as soon as `condition` holds.

    Args:
        condition: asked again and again; may be a coroutine function.
        what: a name for the condition, for the error.
        deadline: seconds; generous, since a machine under load is no failure.
        every: seconds between two questions: as short as asking is cheap.

    Raises:
        AssertionError: it never held.
    """
    limit = time.monotonic() + deadline
    while True:
        answer = condition()
        if await answer if inspect.isawaitable(answer) else answer:
            return
        if time.monotonic() > limit:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        await asyncio.sleep(every)


def wait(
    condition: Callable[[], bool],
    what: Callable[[], str] | str,
    *,
    deadline: float = 240.0,
    every: float = 0.2,
) -> None:
    """As `until`, for code without an event loop. `what` may be a function, to say how things stand.

    Raises:
        AssertionError: it never held.
    """
    end = time.monotonic() + deadline
    while not condition():
        if time.monotonic() > end:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {deadline:g} s: {said}")
        time.sleep(every)
