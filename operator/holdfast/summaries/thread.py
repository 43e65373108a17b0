"""A call in a thread of its own, awaited."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")


async def in_thread(function: Callable[[Argument], Result], argument: Argument) -> Result:
    """Call the function in a thread of its own and return what it returns.

    For functions that may hang: the event loop's pool has few threads, and the process waits for all of
    them at its end. This one ends with the process.

    Raises:
        Exception: what the function raised.
        RuntimeError: it raised what would end a thread or an iteration: named by its class.
    """
    outcome: Future[Result] = Future()
    context = contextvars.copy_context()

    def work() -> None:
        if not outcome.set_running_or_notify_cancel():
            return  # nobody waited until the thread had begun
        try:
            outcome.set_result(context.run(function, argument))
        except BaseException as error:  # noqa: BLE001 - a thread has nobody else to tell
            plain = isinstance(error, Exception) and not isinstance(error, StopIteration)
            outcome.set_exception(error if plain else RuntimeError(type(error).__name__))

    threading.Thread(target=work, name="holdfast-summarizer", daemon=True).start()
    return await asyncio.wrap_future(outcome)
