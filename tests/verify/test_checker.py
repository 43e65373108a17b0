"""A rule about appends and turns accuses a history that breaks it, and lets one pass that only looks so."""

import pytest

from tests.verify import append_rules, checker, turn_rules
from tests.verify.case import Case, Kind, Rules
from tests.verify.handmade import (
    FAILOVER,
    KEEPS,
    LOST_REPLY,
    MS,
    A,
    B,
    C,
    append,
    call,
    enter,
    entry,
    image,
    kinds,
    page,
)
from tests.verify.history import Fault, History, Op


class TestLost:
    rule = staticmethod(append_rules.lost_appends)

    def test_what_was_acknowledged_is_gone(self) -> None:
        stored = image(entry(1, "a"), entry(3, "c"))
        assert kinds(self.rule, A, B, C, image=stored) == [Kind.LOST]

    def test_everything_is_there(self) -> None:
        stored = image(entry(1, "a"), entry(2, "b"), entry(3, "c"))
        assert kinds(self.rule, A, B, C, image=stored) == []

    def test_a_number_that_nobody_has(self) -> None:
        assert kinds(self.rule, A, C, image=image(entry(1, "a"), entry(3, "c"))) == [Kind.LOST]

    def test_what_is_in_doubt_may_be_gone(self) -> None:
        doubt = append("b", 0, 10, **LOST_REPLY)
        assert kinds(self.rule, A, doubt, image=image(entry(1, "a"))) == []

    def test_a_failover_may_lose_what_was_acknowledged_in_it(self) -> None:
        facts = {"image": image(entry(1, "a")), "faults": [FAILOVER]}
        assert kinds(self.rule, A, B, **facts) == []
        assert Case("plain/a", KEEPS, [A, B], **facts).excused == {"b"}

    def test_and_nothing_from_before(self) -> None:
        facts = {"image": image(entry(2, "b")), "faults": [FAILOVER]}
        assert kinds(self.rule, A, B, **facts) == [Kind.LOST]

    def test_where_things_leave_others_have_to_say(self) -> None:
        assert kinds(self.rule, A, B, image=image(entry(2, "b")), rules=Rules()) == []


class TestLostToReaders:
    rule = staticmethod(append_rules.lost_to_readers)

    def test_a_page_without_the_newest(self) -> None:
        assert kinds(self.rule, A, B, page(50, {1: "a"})) == [Kind.LOST]

    def test_an_empty_page(self) -> None:
        assert kinds(self.rule, A, B, page(50, {}, after=1)) == [Kind.LOST]
        assert kinds(self.rule, A, B, page(50, {}, after=2)) == []

    def test_a_page_that_began_before_the_newest_was_acknowledged(self) -> None:
        assert kinds(self.rule, A, B, page(10.5, {1: "a"})) == []

    def test_a_page_with_a_hole(self) -> None:
        assert kinds(self.rule, A, B, C, page(50, {1: "a", 3: "c"})) == [Kind.LOST]

    def test_a_first_page(self) -> None:
        assert kinds(self.rule, A, B, page(50, {1: "a"}, more=True)) == []

    def test_a_read_shows_markers_only(self) -> None:
        read = call(Op.READ, 50, 51, seen=((0, "a"), (0, "b")), process="r")
        assert kinds(self.rule, A, B, read) == []
        read = call(Op.READ, 50, 51, seen=((0, "a"),), process="r")
        assert kinds(self.rule, A, B, read) == [Kind.LOST]


class TestDuplicated:
    rule = staticmethod(append_rules.duplicated_appends)

    def test_stored_twice(self) -> None:
        assert kinds(self.rule, A, image=image(entry(1, "a"), entry(2, "a"))) == [Kind.DUPLICATED]

    def test_in_doubt_and_stored_twice(self) -> None:
        doubt = append("a", 0, 0, **LOST_REPLY)
        stored = image(entry(1, "a"), entry(2, "a"))
        assert kinds(self.rule, doubt, image=stored) == [Kind.DUPLICATED]

    def test_shown_twice(self) -> None:
        assert kinds(self.rule, A, page(50, {1: "a", 2: "a"})) == [Kind.DUPLICATED]

    def test_acknowledged_under_two_numbers(self) -> None:
        again = append("a", 2, 50, id="i")
        stored = image(entry(1, "a"))
        assert kinds(self.rule, A, again, image=stored) == [Kind.DUPLICATED]

    def test_a_repetition_is_told_the_first_number(self) -> None:
        first, again = append("a b", 1, 0, id="i"), append("a b", 1, 50, id="i", duplicate=True)
        stored = image(entry(1, "a"), entry(2, "b"))
        assert kinds(self.rule, first, again, image=stored) == []

    def test_one_number_for_two(self) -> None:
        assert kinds(self.rule, A, append("b", 1, 10)) == [Kind.DUPLICATED]

    def test_a_failover_gives_numbers_out_again(self) -> None:
        stored = image(entry(1, "a"), entry(2, "c"))
        again = append("c", 2, 60)
        assert kinds(self.rule, A, B, again, image=stored, faults=[FAILOVER]) == []


class TestReordered:
    rule = staticmethod(append_rules.reordered_appends)

    def test_a_later_call_has_the_lower_number(self) -> None:
        assert kinds(self.rule, append("a", 2, 0), append("b", 1, 10)) == [Kind.REORDERED]

    def test_calls_at_the_same_time_come_in_any_order(self) -> None:
        assert kinds(self.rule, append("a", 2, 0, 20), append("b", 1, 10, 30)) == []

    def test_a_repetition_has_an_old_number(self) -> None:
        again = append("a", 1, 50, id="i", duplicate=True)
        assert kinds(self.rule, append("a", 1, 0, id="i"), B, again) == []

    def test_what_a_failover_lost_may_get_the_same_number_again(self) -> None:
        lost, again = append("b", 2, 10, id="i"), append("b", 2, 40, id="i")
        stored = image(entry(1, "a"), entry(2, "b"))
        assert kinds(self.rule, A, lost, again, image=stored, faults=[FAILOVER]) == []
        assert kinds(self.rule, A, lost, again, image=stored) == [Kind.REORDERED]

    def test_a_batch_counts_to_its_last(self) -> None:
        batch = append("a b c", 1, 0)
        assert kinds(self.rule, batch, append("d", 3, 10)) == [Kind.REORDERED]
        assert kinds(self.rule, batch, append("d", 4, 10)) == []

    def test_a_list_that_is_not_in_order(self) -> None:
        stored = image(entry(2, "b"), entry(1, "a"))
        assert kinds(self.rule, A, B, image=stored) == [Kind.REORDERED]

    def test_a_page_that_is_not_in_order(self) -> None:
        assert kinds(self.rule, A, B, page(50, {2: "b", 1: "a"})) == [Kind.REORDERED]

    def test_stored_under_another_number(self) -> None:
        assert kinds(self.rule, A, image=image(entry(7, "a"))) == [Kind.REORDERED]


class TestUnsent:
    rule = staticmethod(append_rules.unsent_records)

    def test_what_nobody_sent_is_stored(self) -> None:
        assert kinds(self.rule, image=image(entry(1, "a"))) == [Kind.UNSENT]

    def test_what_was_refused_is_stored(self) -> None:
        refused = append("a", 0, 0, outcome="StoreUnavailable")
        assert kinds(self.rule, refused, image=image(entry(1, "a"))) == [Kind.UNSENT]

    def test_what_was_refused_to_a_lost_turn_is_read(self) -> None:
        refused = append("a", 0, 0, outcome="LeaseLost")
        assert kinds(self.rule, refused, page(50, {1: "a"})) == [Kind.LOST_LEASE]

    @pytest.mark.parametrize("end", [None, 1.0], ids=["killed", "connection lost"])
    def test_what_is_in_doubt_may_be_stored(self, end: float | None) -> None:
        doubt = append("a", 0, 0, end, **LOST_REPLY)
        assert kinds(self.rule, doubt, image=image(entry(1, "a"))) == []

    def test_what_was_refused_first_and_repeated(self) -> None:
        refused = append("a", 0, 0, outcome="StoreUnavailable", id="i")
        again = append("a", 1, 10, id="i")
        assert kinds(self.rule, refused, again, image=image(entry(1, "a"))) == []


class TestLostLease:
    rule = staticmethod(turn_rules.lost_leases)
    OLD = enter(100, 0, 1, n=1)
    NEW = enter(200, 2, 3, n=1, process="w1")

    def test_an_older_turn_wrote_after_a_newer_one(self) -> None:
        calls = [append("a", 1, 4, turn=1, process="w1"), append("b", 2, 5, turn=1)]
        assert kinds(self.rule, self.OLD, self.NEW, *calls) == [Kind.LOST_LEASE]

    def test_one_after_the_other(self) -> None:
        calls = [append("a", 1, 1.5, turn=1), append("b", 2, 5, turn=1, process="w1")]
        assert kinds(self.rule, self.OLD, self.NEW, *calls) == []

    def test_a_repetition_is_answered_whoever_asks(self) -> None:
        calls = [append("a", 2, 4, turn=1, process="w1")]
        calls += [append("b", 1, 5, turn=1, duplicate=True, id="i")]
        assert kinds(self.rule, self.OLD, self.NEW, *calls) == []

    def test_a_turn_goes_on_over_a_clear(self) -> None:
        clear = call(Op.CLEAR, 3, 4, process="w1")
        assert kinds(self.rule, self.OLD, clear, append("a", 1, 5, turn=1)) == [Kind.LOST_LEASE]

    def test_a_clear_that_a_failover_may_have_lost(self) -> None:
        clear, write = call(Op.CLEAR, 10, 11, process="w1"), append("a", 1, 40, turn=1)
        assert kinds(self.rule, self.OLD, clear, write) == [Kind.LOST_LEASE]
        assert kinds(self.rule, self.OLD, clear, write, faults=[FAILOVER]) == []

    def test_a_clear_at_the_same_time_or_of_its_own(self) -> None:
        beside = call(Op.CLEAR, 3, 6, process="w1")
        assert kinds(self.rule, self.OLD, beside, append("a", 1, 5, turn=1)) == []
        own = call(Op.CLEAR, 3, 4, turn=1, n=50)
        assert kinds(self.rule, self.OLD, own, append("a", 1, 5, turn=1)) == []


class TestTwoHolders:
    rule = staticmethod(turn_rules.two_holders)
    OLD, NEW = TestLostLease.OLD, TestLostLease.NEW

    @pytest.mark.parametrize("op", [Op.CHECK, Op.PIN])
    def test_an_older_turn_is_answered_after_a_newer_one_began(self, op: Op) -> None:
        assert kinds(self.rule, self.OLD, self.NEW, call(op, 4, 5, turn=1)) == [Kind.TWO_HOLDERS]

    def test_it_was_asked_before_that(self) -> None:
        assert kinds(self.rule, self.OLD, self.NEW, call(Op.CHECK, 2.5, 5, turn=1)) == []

    def test_it_was_refused(self) -> None:
        refused = call(Op.CHECK, 4, 5, turn=1, outcome="LeaseLost")
        assert kinds(self.rule, self.OLD, self.NEW, refused) == []

    def test_a_failover_may_lose_the_newer_turn(self) -> None:
        check = call(Op.CHECK, 50, 51, turn=1)
        failover = Fault("failover", "server", 2 * MS, 30 * MS, loses=True)
        stored = image(entry(1, "a"))
        write = append("a", 1, 40, turn=1)
        calls = [self.OLD, self.NEW, write]
        assert kinds(self.rule, *calls, check, image=stored, faults=[failover]) == []
        assert kinds(self.rule, *calls, image=stored) == [Kind.TWO_HOLDERS]
        later = Fault("failover", "server", 60 * MS, 90 * MS, loses=True)
        assert kinds(self.rule, *calls, image=stored, faults=[later]) == [Kind.TWO_HOLDERS]

    def test_one_fence_for_two(self) -> None:
        other = enter(100, 2, 3, n=1, process="w1")
        assert kinds(self.rule, self.OLD, other) == [Kind.TWO_HOLDERS]

    def test_a_fence_that_goes_back(self) -> None:
        later = enter(50, 20, 30, n=1, process="w1")
        assert kinds(self.rule, self.OLD, later) == [Kind.TWO_HOLDERS]
        beside = enter(50, 0.5, 30, n=1, process="w1")
        assert kinds(self.rule, self.OLD, beside) == []


class TestWaiters:
    rule = staticmethod(turn_rules.waiters_out_of_order)

    def test_one_who_came_later_is_served_first(self) -> None:
        first = enter(200, 0, 100, n=1, queued=1 * MS)
        second = enter(100, 5, 50, n=1, queued=6 * MS, process="w1")
        assert kinds(self.rule, first, second) == [Kind.WAITERS]

    def test_one_after_the_other(self) -> None:
        first = enter(100, 0, 50, n=1, queued=1 * MS)
        second = enter(200, 5, 100, n=1, queued=6 * MS, process="w1")
        assert kinds(self.rule, first, second) == []

    def test_who_came_first_is_not_known(self) -> None:
        first = enter(200, 0, 100, n=1, queued=6 * MS)
        second = enter(100, 5, 50, n=1, queued=7 * MS, process="w1")
        assert kinds(self.rule, first, second) == []

    def test_one_who_did_not_take_it_in_time_is_passed_over(self) -> None:
        first = enter(200, 0, 2500, n=1, queued=1 * MS)
        second = enter(100, 5, 50, n=1, queued=6 * MS, process="w1")
        assert kinds(self.rule, first, second) == []
        stopped = enter(200, 0, 2500, n=1, queued=2400 * MS)
        second = enter(100, 2410, 2450, n=1, queued=2415 * MS, process="w1")
        assert kinds(self.rule, stopped, second) == []

    def test_one_that_has_waited_as_long_as_it_meant_to(self) -> None:
        first = enter(200, 0, 900, n=1, queued=1 * MS, detail="wait=200ms")
        second = enter(100, 5, 850, n=1, queued=6 * MS, process="w1", detail="wait=200ms")
        assert kinds(self.rule, first, second) == []
        patient = enter(200, 0, 900, n=1, queued=1 * MS, detail="wait=10s")
        assert kinds(self.rule, patient, second) == [Kind.WAITERS]


def test_every_rule_is_applied_to_every_session() -> None:
    stored = image(entry(1, "a"), entry(2, "a"))
    found, lost = checker.check(History([A]), {"plain/a": stored}, lambda _: Rules())
    assert {one.kind for one in found} == {Kind.DUPLICATED, Kind.REORDERED}
    assert lost == 0


def test_only_of_what_is_kept_a_failover_is_known_to_have_lost_it() -> None:
    history = History([A, B], faults=[FAILOVER])
    stored = {"plain/a": image(entry(1, "a"))}
    assert checker.check(history, stored, lambda _: KEEPS) == ([], 1)
    assert checker.check(history, stored, lambda _: Rules()) == ([], 0)


def test_what_there_was_to_judge_is_counted() -> None:
    stored = image(entry(1, "a"), entry(2, "a"))
    assert checker.evidence(History([A]), [stored])["records recounted"] == 2
