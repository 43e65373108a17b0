"""A program's own token counter: off the event loop, within a time, and checked."""

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

from holdfast.errors import ConfigurationError, TokenCountFailed
from holdfast.tokens import Count, TokenCounter, count_texts

MAX_COUNT = 100_000_000
"""Most tokens of a message: as many as the largest limit a policy can set."""
PATIENCE = 30.0
"""Seconds in which a message must be counted."""
MOST_HANGING = 8
"""Counts given up that still occupy a thread, after which no further one is begun."""


class OwnCounter:
    """Asks a counter that the library does not know, and trusts nothing it does.

    Each message is counted on a thread that ends with the process: one that hangs delays neither the
    event loop, nor what else uses its pool of threads, nor the end of the program.

    Args:
        counter: the program's own.
        patience: seconds in which a message must be counted.

    Raises:
        ConfigurationError: it has no name, or no method `count` that can be called from a thread.
    """

    def __init__(self, counter: TokenCounter, *, patience: float = PATIENCE) -> None:
        name = cast("object", getattr(counter, "name", None))
        count = cast("object", getattr(counter, "count", None))
        if not isinstance(name, str) or not callable(count) or inspect.iscoroutinefunction(count):
            raise ConfigurationError(
                "counter is an object with a name and a method count(text) that is no coroutine and "
                "returns a Count, as holdfast.TokenCounter says"
            )
        self.name = name
        self._counter = counter
        self._patience = patience
        self._hanging: list[threading.Thread] = []

    def count(self, text: str) -> Count:
        """Count one text, on the caller's thread.

        Raises:
            TokenCountFailed: the counter raised, or its answer is no count.
        """
        try:
            answer: object = self._counter.count(text)
        except Exception as error:
            raise self._raised(error) from error
        return self._checked(answer)

    async def count_texts(self, texts: Sequence[str]) -> Count:
        """Add up the counts of a message's texts, on a thread of its own.

        Raises:
            TokenCountFailed: the counter raised, its answer is no count, or there was none in time.
        """
        self._hanging = [thread for thread in self._hanging if thread.is_alive()]
        if len(self._hanging) >= MOST_HANGING:
            raise TokenCountFailed(
                f"the counter {self.name!r} hangs: {len(self._hanging)} of its counts were given up "
                "and still go on"
            )
        loop = asyncio.get_running_loop()
        counted: asyncio.Future[Count] = loop.create_future()
        thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._work, texts, loop, counted),
            name="holdfast-counter",
            daemon=True,
        )
        thread.start()
        try:
            async with asyncio.timeout(self._patience):
                return await counted
        except TimeoutError:
            raise TokenCountFailed(
                f"the counter {self.name!r} did not answer within {self._patience:g} s"
            ) from None
        finally:
            if counted.cancelled():
                self._hanging.append(thread)

    def _work(
        self,
        texts: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        counted: "asyncio.Future[Count]",
    ) -> None:
        try:
            outcome: Count | TokenCountFailed = self._checked(count_texts(self, texts))
        except TokenCountFailed as error:
            outcome = error
        except BaseException as error:  # noqa: BLE001 - whoever waits must learn of it, panics included
            outcome = self._raised(error)
            outcome.__cause__ = error
        # Nobody waits any more where the loop is closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_settle, counted, outcome)

    def _raised(self, error: BaseException) -> TokenCountFailed:
        return TokenCountFailed(f"the counter {self.name!r} raised {type(error).__name__}")

    def _checked(self, answer: object) -> Count:
        match answer:
            case (int() as tokens, bool() as exact) if (
                not isinstance(tokens, bool) and 0 <= tokens <= MAX_COUNT
            ):
                return Count(int(tokens), exact)
            case _:
                raise TokenCountFailed(
                    f"the counter {self.name!r} gave no Count of 0 to {MAX_COUNT} tokens"
                )


def _settle(counted: "asyncio.Future[Count]", outcome: Count | TokenCountFailed) -> None:
    if counted.done():
        return  # given up
    if isinstance(outcome, TokenCountFailed):
        counted.set_exception(outcome)
    else:
        counted.set_result(outcome)
