"""A summariser that writes what a test tells it to, when the test lets it."""

import asyncio

from holdfast.summaries import SummaryRequest


class Author:
    """Writes summaries: the text it was given, when it may.

    Attributes:
        text: what it writes; an error is raised instead.
        requests: what it was asked.
        begun: somebody waits for it.
        may: it answers.
    """

    name = "author"

    def __init__(self, text: str | BaseException = "in short", *, waits: bool = False) -> None:
        self.text = text
        self.requests: list[SummaryRequest] = []
        self.begun = asyncio.Event()
        self.may = asyncio.Event()
        if not waits:
            self.may.set()

    async def summarize(self, request: SummaryRequest) -> str:
        """Write as the library asks."""
        self.requests.append(request)
        self.begun.set()
        await self.may.wait()
        if isinstance(self.text, BaseException):
            raise self.text
        return self.text


async def begun(author: Author) -> None:
    """Return when somebody waits for a summary."""
    async with asyncio.timeout(20):
        await author.begun.wait()
