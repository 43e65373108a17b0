"""What a summariser is, and what it is asked."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, cast

from holdfast.errors import ConfigurationError
from holdfast.summaries.thread import in_thread
from holdfast.tokens import TokenCounter


@dataclass(frozen=True, slots=True)
class SummaryMessage:
    """One message as a summariser reads it.

    Attributes:
        role: `system`, `developer`, `user`, `assistant` or `tool`; `other` when it does not say.
        text: what is in it, never empty: texts as they are, tool calls and their results marked,
            pictures, sound and files by name.
        ts: time of the append, milliseconds since 1970.
    """

    role: str
    text: str
    ts: int


@dataclass(frozen=True, slots=True)
class SummaryRequest:
    """What is to be summarised.

    Attributes:
        messages: oldest first.
        previous: earlier summaries that the new one replaces, oldest first; None without any.
        max_tokens: most tokens the summary may have, 1 or more.
        counter: counts them.
        confidential: something in it is confidential, so a summary of it is.
    """

    messages: tuple[SummaryMessage, ...]
    previous: str | None
    max_tokens: int
    counter: TokenCounter
    confidential: bool = False


class Summarizer(Protocol):
    """What writes summaries."""

    @property
    def name(self) -> str:
        """Who writes, as it stands beside each summary: the model's name, for one that calls one."""
        ...

    async def summarize(self, request: SummaryRequest) -> str:
        """Write one summary. May raise anything; is cancelled when it takes too long."""
        ...


SummarizerLike: TypeAlias = Summarizer | Callable[[SummaryRequest], str | Awaitable[str]]
"""What `as_summarizer` takes: a summariser, or a function of the request, `async` or not."""

_MAX_NAME: Final = 128


def as_summarizer(given: SummarizerLike) -> Summarizer:
    """Return what was given as a summariser.

    Args:
        given: an object with `summarize(request)`, or a function of the request. Either may be
            `async`; a plain one runs in a thread of its own. Its `name`, if it has one, else the
            function's or the class's, says who wrote a summary.

    Raises:
        ConfigurationError: it is neither.
    """
    method: object = getattr(given, "summarize", None)
    function: object = method if callable(method) else given
    if not callable(function):
        raise ConfigurationError(
            f"a summarizer is a function of the request or an object with summarize(request), not "
            f"{type(given).__name__}"
        )
    own: object = getattr(given, "name", None)
    named = isinstance(own, str) and own != ""
    if named and method is function and inspect.iscoroutinefunction(function):
        return cast("Summarizer", given)
    name = own if isinstance(own, str) and own else _name_of(given)
    return _Called(name[:_MAX_NAME], cast("Callable[[SummaryRequest], object]", function))


def _name_of(given: object) -> str:
    name: object = getattr(given, "__name__", None)
    if not isinstance(name, str):
        return type(given).__name__
    return "function" if name == "<lambda>" else name


@dataclass(frozen=True, slots=True)
class _Called:
    """A function as a summariser."""

    name: str
    function: Callable[[SummaryRequest], object]

    async def summarize(self, request: SummaryRequest) -> str:
        """Call the function; what it returns is looked at by `checked`."""
        call: object = getattr(self.function, "__call__", None)  # noqa: B004 - of an object
        if inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call):
            answer = self.function(request)
        else:
            answer = await in_thread(self.function, request)
        if inspect.isawaitable(answer):  # also of a lambda that calls an async function
            answer = await answer
        return cast("str", answer)
