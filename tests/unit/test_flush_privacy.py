"""What a policy's privacy asks of a flush."""

from typing import Any

import pytest

from holdfast.flush_privacy import Redacting, shown_of
from holdfast.policy import Policy
from holdfast.privacy import Redactor
from holdfast.summaries import SummaryRequest
from holdfast.tokens import counter
from holdfast.values import Flag, Stored

ASKED = SummaryRequest((), None, 100, counter("approximate"))


def redactor(**privacy: Any) -> Redactor:
    spec = {"retention": {"ttl": "1h"}, "privacy": privacy}
    return Redactor(Policy.model_validate(spec).privacy)


def record(seq: int, item: Any, flags: int = 0) -> Stored:
    return Stored(1, flags, seq, 5, seq, None, item)


def test_earlier_summaries_are_shown_without_what_may_not_be_stored_today() -> None:
    records = [
        record(1, {"role": "system", "content": "Summary: PIN 4711"}, Flag.SUMMARY),
        record(2, {"role": "user", "content": "PIN 4711 again"}),
        record(3, ["PIN 4711"], Flag.SUMMARY),  # none of ours
    ]
    rules = redactor(redactPatterns=["4711"], nonPersistableTypes=["system"])
    assert [one.item for one in shown_of(records, rules, None)] == [
        {"role": "system", "content": "Summary: PIN [REDACTED]"},
        {"role": "user", "content": "PIN [REDACTED] again"},
        ["PIN [REDACTED]"],
    ]
    assert "4711" in str(records[1].item), "what is stored was changed"


def test_without_rules_all_is_shown_as_it_is() -> None:
    records = [record(1, {"role": "user", "content": "PIN 4711"}), record(2, 7, Flag.SUMMARY)]
    assert shown_of(records, redactor(), None) == records


@pytest.mark.asyncio
@pytest.mark.parametrize("text", ["the PIN is 4711", 7])
async def test_what_is_written_is_redacted_and_what_is_no_text_passes(text: Any) -> None:
    class Writer:
        name = "author"

        async def summarize(self, request: SummaryRequest) -> Any:
            return text

    writer = Redacting(Writer(), redactor(redactPatterns=["4711"]))
    assert writer.name == "author"
    assert await writer.summarize(ASKED) == ("the PIN is [REDACTED]" if text != 7 else 7)
