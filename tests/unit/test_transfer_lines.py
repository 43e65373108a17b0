"""The lines of an export: what is not written, since no import would take it."""

import json

import pytest

from holdfast.errors import ImportRefused
from holdfast.policy.enums import EvictionPolicy, FlushingStrategy
from holdfast.store.in_memory.state import TurnState, status_of
from holdfast.transfer_lines import header_line, read_header, read_record
from holdfast.values import Departed, Remembered, Status

KEY = "0123456789abcdef01a"


def status(last_seq: int) -> Status:
    """Return counters that say so."""
    return status_of(None, TurnState(), 0)._replace(exists=True, last_seq=last_seq)


def line(last_seq: int, ids: list[Remembered], history: list[Departed]) -> str:
    """Return a header."""
    return header_line(status(last_seq), ids, history, memory="team-a/support", session=None)


def test_what_is_numbered_higher_than_the_session_is_left_out() -> None:
    """As where a server evicted the counters alone."""
    other = KEY.replace("0", "1")
    ids = [Remembered(KEY, 4, 1), Remembered(other, 5, 1)]
    history = [Departed(1, "pop", 3, 3, 1, 5), Departed(2, "clear", 2, 4, 3, 5)]
    header = json.loads(line(3, ids, history))
    assert header["ids"] == [[KEY, 4, 1]]
    assert [entry["rule"] for entry in header["history"]] == ["pop"]


def test_what_no_session_writes_is_left_out() -> None:
    good = Departed(1, "pop", 1, 3, 2, 5, 0, ((1, 1), (3, 3)))
    odd = [
        good._replace(rule="x"),
        good._replace(first=0),
        good._replace(ranges=((3, 3), (1, 1))),
        good._replace(summary=9),
    ]
    header = read_header(1, line(3, [], [*odd, good]))
    assert list(header.departed()) == [good]


@pytest.mark.parametrize(
    "rule",
    [
        *(one.value for one in FlushingStrategy),
        *(one.value for one in EvictionPolicy),
        *("pop", "clear", "replace", "fold", "orphan", "several", "import", "withheld"),
        *("share:longTerm", "share:shortTerm", "share:system", "share:my-facts-2", "block:0"),
    ],
)
def test_each_rule_is_known(rule: str) -> None:
    entry = Departed(5, rule, 1, 2, 2, 9, 2, ((1, 2),))
    assert list(read_header(1, line(2, [], [entry])).departed()) == [entry]


def test_a_refusal_says_type_and_place_alone() -> None:
    first = line(2, [], [])
    with pytest.raises(ImportRefused, match=r"Unexpected value - at `\$\.format`") as refusal:
        read_header(1, first.replace("holdfast.dev", "SECRET"))
    assert "SECRET" not in str(refusal.value)
    with pytest.raises(ImportRefused, match=r"Expected `int`, got `str` - at `\$\.seq`") as refusal:
        read_record(7, '{"seq":"SECRET"}')
    assert refusal.value.line == 7
    assert "SECRET" not in str(refusal.value)
