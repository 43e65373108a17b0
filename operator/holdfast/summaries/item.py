"""A summary as it stands in a session."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from holdfast.formats import JSON

_TITLE: Final = "Summary of earlier conversation"
_HEADER: Final = re.compile(re.escape(_TITLE) + r" \([^)]*\): ?")


def summary_item(
    text: str, *, role: str, messages: int, first_ts: int, last_ts: int
) -> dict[str, str]:
    """Return the item that takes the place of what a summary covers.

    Args:
        text: the summary.
        role: that it is read with: a `SummaryRole`, or the same word in any case.
        messages: how many it stands for, those of the summaries folded into it included.
        first_ts: time of the first of them, milliseconds since 1970.
        last_ts: time of the last of them.
    """
    first, last = _minute(first_ts), _minute(last_ts)
    span = first if first == last else f"{first} to {last}"
    count = f"{messages} message{'' if messages == 1 else 's'}"
    return {"role": role.lower(), "content": f"{_TITLE} ({span}, {count}): {text}"}


def summary_text(item: JSON) -> str:
    """Return the text that `summary_item` was given; for any other item whatever text it holds."""
    content = item.get("content") if isinstance(item, Mapping) else item
    if not isinstance(content, str):
        return ""
    header = _HEADER.match(content)
    return content[header.end() :] if header else content


def _minute(ts: int) -> str:
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%dT%H:%MZ}"
