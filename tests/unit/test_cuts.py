"""Parts of sessions in which some records cannot be read."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import CorruptRecord
from holdfast.store.redis.cuts import newest_of, part_of

FINE, TORN, FOREIGN = "fine", "torn", "foreign"


def stored(seq: int, state: str) -> bytes:
    if state == FOREIGN:
        return b"something else"
    return f'[1,0,{seq},5,{seq},null,{{"n":{seq}'.encode() + (b"}]" if state == FINE else b"")


@st.composite
def sessions(draw: st.DrawFn) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """Numbers and states of the records in both lists."""
    states = draw(st.lists(st.sampled_from([FINE, FINE, FINE, TORN, FOREIGN]), max_size=30))
    lists: tuple[list[tuple[int, str]], list[tuple[int, str]]] = [], []
    for seq, state in enumerate(states, 1):
        lists[draw(st.integers(0, 1))].append((seq, state))
    return lists


def beginning(records: Sequence[tuple[int, str]], after: int, count: int) -> list[bytes]:
    """What the script returns: from the first number above on, if every number can be read."""
    at = next(
        (at for at, (seq, state) in enumerate(records) if state != FOREIGN and seq > after),
        len(records),
    )
    return [stored(*one) for one in records[at : at + count]]


def readable(lists: Sequence[Sequence[tuple[int, str]]]) -> list[int]:
    return sorted(seq for one in lists for seq, state in one if state == FINE)


@given(lists=sessions(), limit=st.integers(1, 8))
def test_a_walk_gives_every_record_that_can_be_read_once_or_says_that_it_cannot(
    lists: tuple[list[tuple[int, str]], list[tuple[int, str]]], limit: int
) -> None:
    seen: list[int] = []
    after = 0
    while True:
        try:
            part = part_of(*(beginning(one, after, limit + 1) for one in lists), limit=limit)
        except CorruptRecord:
            assert any(FOREIGN in {state for _, state in one} for one in lists)
            return
        assert len(part.records) <= limit
        seen += [record.seq for record in part.records]
        if part.next is None:
            break
        assert part.next > after
        after = part.next
    assert seen == readable(lists)


@given(lists=sessions(), count=st.integers(1, 8))
def test_the_newest_are_as_many_as_were_asked_for_whatever_stands_between(
    lists: tuple[list[tuple[int, str]], list[tuple[int, str]]], count: int
) -> None:
    asked = count
    while True:
        ends = [[stored(*one) for one in records[-asked:]] for records in lists]
        found = newest_of(*ends, asked=asked, count=count)
        if found is not None:
            break
        asked *= 2
        assert asked <= 64
    assert [record.seq for record in found] == readable(lists)[-count:]


def test_what_was_left_out_is_counted() -> None:
    log = [stored(1, FINE), stored(2, TORN), stored(3, FOREIGN), stored(4, FINE)]
    assert part_of(log, [], limit=10).corrupt == 2
    found = newest_of(log, [], asked=10, count=1)
    assert found is not None
    assert found.corrupt == 2


def test_where_no_number_can_be_read_nobody_can_tell_what_follows() -> None:
    with pytest.raises(CorruptRecord):
        part_of([stored(1, FOREIGN)] * 3, [], limit=2)
