"""What is accepted from a summariser, whoever wrote it."""

import asyncio
from typing import Final

from holdfast.errors import HoldfastError, SummaryFailed
from holdfast.summaries.protocol import Summarizer, SummaryRequest
from holdfast.summaries.thread import in_thread

TIMEOUT: Final = 120.0
"""Seconds that any summariser has."""


async def checked(
    summarizer: Summarizer, request: SummaryRequest, *, seconds: float = TIMEOUT
) -> str:
    """Let a summariser write, and return its text if it can be used.

    Args:
        summarizer: whoever writes.
        request: what it is asked.
        seconds: how long it has.

    Returns:
        The text without surrounding whitespace: not empty, at most `request.max_tokens` long.

    Raises:
        SummaryFailed: it failed, took too long, or wrote nothing usable. A text that is too long is
            refused: cut anywhere, it would say something its writer did not.
        ConfigurationError: it cannot work as it is set up.
    """
    name = summarizer.name
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            return await _accepted(await summarizer.summarize(request), name, request)
    except HoldfastError:
        raise
    except Exception as error:
        if scope.expired():
            raise SummaryFailed(
                f"the summarizer {name!r} did not answer within {seconds:g} s"
            ) from None
        raise SummaryFailed(f"the summarizer {name!r} failed ({type(error).__name__})") from error


async def _accepted(text: object, name: str, request: SummaryRequest) -> str:
    if not isinstance(text, str):
        raise SummaryFailed(
            f"the summarizer {name!r} returned {type(text).__name__} instead of a text"
        )
    text = text.strip()
    if not text:
        raise SummaryFailed(f"the summarizer {name!r} returned an empty text")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SummaryFailed(
            f"the summarizer {name!r} returned a text that is no valid Unicode"
        ) from None
    # The text may be of any length, and the counter slow.
    tokens = (await in_thread(request.counter.count, text)).tokens
    if tokens > request.max_tokens:
        raise SummaryFailed(
            f"the summarizer {name!r} returned {tokens} tokens, {request.max_tokens} were allowed"
        )
    return text
