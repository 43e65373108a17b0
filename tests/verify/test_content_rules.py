"""A rule about content and state accuses a history that breaks it, and lets one pass that only looks so."""

from typing import ClassVar

import pytest

from tests.harness.meta import Meta
from tests.verify import content_rules, state_rules
from tests.verify.case import SLOT_MOVED, Kind, Rules
from tests.verify.handmade import (
    FAILOVER,
    MS,
    A,
    B,
    C,
    append,
    call,
    entry,
    image,
    kinds,
    page,
    summary,
)
from tests.verify.history import Fault, Op, Summarised
from tests.verify.images import Image, Past


class TestCameBack:
    rule = staticmethod(content_rules.what_came_back)
    CLEAR = call(Op.CLEAR, 5, 6, process="w1")

    def test_it_is_stored(self) -> None:
        assert kinds(self.rule, A, self.CLEAR, image=image(entry(1, "a"))) == [Kind.CAME_BACK]

    def test_it_is_read(self) -> None:
        assert kinds(self.rule, A, self.CLEAR, page(50, {1: "a"})) == [Kind.CAME_BACK]
        assert kinds(self.rule, A, self.CLEAR, page(5.5, {1: "a"})) == []

    def test_it_is_in_a_summary(self) -> None:
        written = {
            "s1": Summarised("s1", ("a",), ()),
            "s2": Summarised("s2", (), ("s1",)),
        }
        facts = {"image": image(pin=(summary(1, "s2"),)), "summaries": written}
        assert kinds(self.rule, A, self.CLEAR, **facts) == [Kind.CAME_BACK]
        assert kinds(self.rule, A, **facts) == []

    def test_a_late_retry_after_a_clear_puts_nothing_back(self) -> None:
        again = append("a", 1, 50, id="i", duplicate=True)
        assert kinds(self.rule, A, self.CLEAR, again, image=image()) == []
        stored = image(entry(9, "a"))
        assert kinds(self.rule, A, self.CLEAR, again, image=stored) == [Kind.CAME_BACK]

    def test_after_an_erasure_it_is_a_new_message(self) -> None:
        erase = call(Op.ERASE, 5, 6, process="w1")
        stored = image(entry(1, "a"))
        assert kinds(self.rule, A, erase, append("a", 1, 50, id="i"), image=stored) == []
        assert kinds(self.rule, A, erase, image=stored) == [Kind.CAME_BACK]

    def test_after_a_clear_and_an_erasure_it_is_a_new_message(self) -> None:
        """A clear keeps the ids, and the erasure after it forgets them."""
        erase = call(Op.ERASE, 10, 11, process="w1")
        again = append("a", 1, 50, id="i")
        stored = image(entry(1, "a"))
        assert kinds(self.rule, A, self.CLEAR, erase, again, image=stored) == []
        assert kinds(self.rule, A, self.CLEAR, erase, image=stored) == [Kind.CAME_BACK]

    def test_written_beside_the_clear(self) -> None:
        assert kinds(self.rule, append("a", 1, 4, 7), self.CLEAR, image=image(entry(1, "a"))) == []

    def test_a_failover_may_lose_a_clear_or_an_id(self) -> None:
        stored = image(entry(1, "a"))
        early = append("a", 1, 0, id="i")
        lost_clear = call(Op.CLEAR, 10, 11, process="w1")
        assert kinds(self.rule, early, lost_clear, image=stored) == [Kind.CAME_BACK]
        assert kinds(self.rule, early, lost_clear, image=stored, faults=[FAILOVER]) == []
        late, after = append("a", 1, 6, id="i"), call(Op.CLEAR, 40, 41, process="w1")
        assert kinds(self.rule, late, after, image=stored, faults=[FAILOVER]) == []
        cut = append("a", 1, 29, None, id="i", process="w2")
        assert kinds(self.rule, early, cut, after, image=stored, faults=[FAILOVER]) == []

    def test_but_none_from_before_or_after_it(self) -> None:
        early, after = append("a", 1, 0), call(Op.CLEAR, 40, 41, process="w1")
        facts = {"faults": [FAILOVER]}
        assert kinds(self.rule, early, after, page(50, {1: "a"}), **facts) == [Kind.CAME_BACK]
        before = call(Op.CLEAR, 3, 4, process="w1")
        stored = image(entry(1, "a"))
        assert kinds(self.rule, early, before, image=stored, **facts) == [Kind.CAME_BACK]
        assert (
            kinds(self.rule, early, before, page(20, {1: "a"}), **facts) == []
        )  # of the old primary

    def test_nobody_knows_whether_it_was_cleared(self) -> None:
        doubt = call(Op.CLEAR, 5, 6, process="w1", outcome="AmbiguousWrite")
        assert kinds(self.rule, A, doubt, image=image(entry(1, "a"))) == []


class TestVanished:
    rule = staticmethod(content_rules.what_vanished)
    RULES = Rules()
    SUMMARISED = Past("HybridSummary", 1, 2, {1, 2})
    WRITTEN: ClassVar = {"s1": Summarised("s1", ("a", "b"), ())}

    def test_what_is_in_no_summary(self) -> None:
        stored = image(entry(3, "c"), pin=(summary(2, "s1"),), past=(self.SUMMARISED,))
        written = {"s1": Summarised("s1", ("b",), ())}
        found = kinds(self.rule, A, B, C, rules=self.RULES, image=stored, summaries=written)
        assert found == [Kind.VANISHED]

    def test_what_is_in_one(self) -> None:
        stored = image(entry(3, "c"), pin=(summary(2, "s1"),), past=(self.SUMMARISED,))
        facts = {"image": stored, "summaries": self.WRITTEN, "rules": self.RULES}
        assert kinds(self.rule, A, B, C, **facts) == []

    def test_what_left_uncounted(self) -> None:
        stored = image(entry(2, "b"), entry(3, "c"))
        assert kinds(self.rule, A, B, C, rules=self.RULES, image=stored) == [Kind.VANISHED]
        counted = image(entry(2, "b"), entry(3, "c"), dropped=1)
        assert kinds(self.rule, A, B, C, rules=self.RULES, image=counted) == []

    def test_what_is_counted_and_did_not_leave(self) -> None:
        stored = image(entry(1, "a"), entry(2, "b"), dropped=1)
        assert kinds(self.rule, A, B, rules=self.RULES, image=stored) == [Kind.COUNTERS]

    @pytest.mark.parametrize(("rule", "dropped"), [("FIFO", 1), ("pop", 0), ("clear", 0)])
    def test_what_the_history_names(self, rule: str, dropped: int) -> None:
        stored = image(entry(2, "b"), past=(Past(rule, 1, 1, {1}),), dropped=dropped)
        assert kinds(self.rule, A, B, rules=self.RULES, image=stored) == []

    def test_a_younger_one_left_first(self) -> None:
        stored = image(entry(1, "a"), entry(3, "c"), dropped=1)
        in_order = Rules(in_order=True)
        assert kinds(self.rule, A, B, C, rules=in_order, image=stored) == [Kind.LOST]
        assert kinds(self.rule, A, B, C, rules=self.RULES, image=stored) == []

    def test_what_is_counted_where_there_is_room_for_all(self) -> None:
        stored = image(entry(2, "b"), dropped=1)
        assert kinds(self.rule, A, B, rules=Rules(spacious=True), image=stored) == [Kind.VANISHED]

    def test_a_summary_from_before_a_clear(self) -> None:
        cleared = Past("clear", 2, 3, {2, 3})
        stored = image(past=(self.SUMMARISED, cleared), next=4)
        facts = {"image": stored, "summaries": self.WRITTEN, "rules": self.RULES}
        assert kinds(self.rule, A, B, C, **facts) == []


class TestCounters:
    rule = staticmethod(state_rules.untrue_counters)

    @pytest.mark.parametrize("name", ["messages", "tokens", "size", "pinned", "pinned_tokens"])
    def test_one_is_wrong(self, name: str) -> None:
        log, pin = entry(1, "a"), entry(2, "b", flags=2)
        assert kinds(self.rule, image=image(log, pin=(pin,), **{name: 9})) == [Kind.COUNTERS]
        assert kinds(self.rule, probes=[image(log, pin=(pin,), **{name: 9})]) == [Kind.COUNTERS]
        assert kinds(self.rule, image=image(log, pin=(pin,))) == []

    def test_a_number_that_is_still_to_come(self) -> None:
        assert kinds(self.rule, image=image(entry(5, "a"), next=5)) == [Kind.COUNTERS]

    def test_records_without_counters(self) -> None:
        stored = Image("plain/a", 0, None, [entry(1, "a")])
        assert kinds(self.rule, image=stored) == [Kind.COUNTERS]

    def test_the_store_noticed(self) -> None:
        assert kinds(self.rule, append("a", 1, 0, torn=True)) == [Kind.COUNTERS]


class TestExpiry:
    rule = staticmethod(state_rules.missing_expiries)

    @pytest.mark.parametrize(
        ("at", "found"), [(-1, [Kind.NO_EXPIRY]), (78, [Kind.NO_EXPIRY]), (77, [])]
    )
    def test_a_key(self, at: int, found: list[Kind]) -> None:
        stored = Image("plain/a", 0, Meta(expires_at=77), (), (), (), {"meta": 77, "log": at})
        assert kinds(self.rule, image=stored) == found

    def test_a_key_that_moved_to_another_node(self) -> None:
        stored = Image("plain/a", 0, Meta(expires_at=77), (), (), (), {"meta": 77, "log": 80})
        move = Fault(SLOT_MOVED, "slot 1", 0, 5 * MS)
        assert kinds(self.rule, image=stored, faults=[move]) == []
        assert kinds(self.rule, image=stored) == [Kind.NO_EXPIRY]

    def test_a_key_of_no_session(self) -> None:
        assert [found.kind for found in state_rules.immortal(["x"])] == [Kind.NO_EXPIRY]


class TestUnexpected:
    rule = staticmethod(state_rules.unexpected_errors)

    @pytest.mark.parametrize("code", ["unexpected KeyError", "CorruptRecord", "AcknowledgedLost"])
    def test_what_has_no_cause(self, code: str) -> None:
        assert kinds(self.rule, append("a", 0, 0, outcome=code)) == [Kind.UNEXPECTED]

    def test_a_turn_that_is_over_where_there_was_none(self) -> None:
        flush = call(Op.FLUSH, 0, 1, outcome="LeaseLost")
        assert kinds(self.rule, flush) == [Kind.UNEXPECTED]

    def test_what_faults_do(self) -> None:
        lost = append("a", 0, 0, outcome="AcknowledgedLost")
        assert kinds(self.rule, lost, faults=[FAILOVER]) == []
        assert kinds(self.rule, append("a", 0, 0, outcome="StoreUnavailable")) == []
