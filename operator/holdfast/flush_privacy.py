"""What a policy's privacy asks of a flush: of what a summariser is shown, and of what it writes."""

from collections.abc import Sequence
from typing import cast

import msgspec

from holdfast.formats import JSON
from holdfast.privacy import Redactor
from holdfast.summaries import Summarizer, SummaryRequest
from holdfast.summaries.thread import in_thread
from holdfast.values import Flag, Stored


def shown_of(records: Sequence[Stored], redactor: Redactor, format: str | None) -> list[Stored]:
    """Return records as a summariser outside may see them: some may be older than the policy.

    Args:
        records: as they are stored; they stay as they are.
        redactor: the policy's.
        format: the memory's message format by name; None finds it by each item's shape.
    """
    messages = [record for record in records if not record.flags & Flag.SUMMARY]
    shown = dict(
        zip(
            (record.seq for record in messages),
            redactor.shown((_copy(record.item) for record in messages), format),
            strict=True,
        )
    )
    return [
        msgspec.structs.replace(record, item=shown[record.seq])
        if record.seq in shown
        else msgspec.structs.replace(record, item=redactor.redact(_copy(record.item)))
        for record in records
    ]


def _copy(item: JSON) -> JSON:
    return msgspec.json.decode(msgspec.json.encode(item))


class Redacting:
    """A summariser whose texts are redacted: a model may say what it should not, or was shown elsewhere.

    Args:
        writer: the summariser.
        redactor: the policy's.
    """

    def __init__(self, writer: Summarizer, redactor: Redactor) -> None:
        self._writer = writer
        self._redactor = redactor

    @property
    def name(self) -> str:
        """Who writes."""
        return self._writer.name

    async def summarize(self, request: SummaryRequest) -> str:
        """Write one summary; whoever asks looks at what kind of a thing it is."""
        text = await self._writer.summarize(request)
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - somebody else's function
            return text
        return cast(
            "str", await in_thread(self._redactor.redact, text)
        )  # which may be of any length
