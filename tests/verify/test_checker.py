"""Each rule accuses a history that breaks it, and lets an innocent one that looks much like it pass."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from holdfast.values import Flag
from tests.harness.meta import Meta
from tests.verify import append_rules, checker, content_rules, state_rules, turn_rules
from tests.verify.case import SLOT_MOVED, Case, Kind, Rules, Violation
from tests.verify.history import OK, Begin, Call, End, Fault, History, Op, Summarised
from tests.verify.images import Entry, Image, Past

MS = 1_000_000
SECOND = 1000 * MS
Rule = Callable[[Case], Iterator[Violation]]
KEEPS = Rules(keeps=True)
LOST_REPLY = {"outcome": "AmbiguousWrite"}


def call(op: Op, begin: float, end: float | None, **facts: Any) -> Call:
    """A call from and to a time in milliseconds; `process` is whose."""
    process = facts.pop("process", "w0")
    number = facts.pop("n", int(begin * 1000) + 1)
    outcome = facts.pop("outcome", OK)
    named = [name for name in facts if name in End.__struct_fields__ and name != "detail"]
    told = {name: facts.pop(name) for name in named}
    begun = Begin(number, int(begin * MS), f"{process}/0", "plain/a", op, **facts)
    ended = None if end is None else End(number, int(end * MS), outcome, **told)
    return Call(process, begun, ended)


def append(marker: str, seq: int, begin: float, end: float | None = -1, **facts: Any) -> Call:
    """An append of messages, one for each word of `marker`."""
    until = begin + 1 if end == -1 else end
    facts = {"seq": seq, **facts}
    if facts.get("outcome", OK) != OK:
        del facts["seq"]
    return call(Op.APPEND, begin, until, markers=tuple(marker.split()), **facts)


def enter(fence: int, begin: float, end: float, *, n: int, **facts: Any) -> Call:
    return call(Op.ENTER, begin, end, fence=fence, n=n, **facts)


def page(begin: float, seen: Mapping[int, str], *, after: int = 0, more: bool = False) -> Call:
    told = tuple(seen.items())
    detail = f"after={after}"
    made = call(Op.PAGE, begin, begin + 1, seen=told)
    begun = Begin(made.begun.n, made.begun.at, "r/0", "plain/a", Op.PAGE, detail=detail)
    ended = End(made.begun.n, made.result.at, OK, seen=told, detail="more" if more else "")
    return Call("r", begun, ended)


def entry(seq: int, marker: str, **facts: Any) -> Entry:
    return Entry(
        **{"tokens": 2, "flags": 0, "seq": seq, "group": seq, "marker": marker, "size": 10, **facts}
    )


def summary(seq: int, marker: str) -> Entry:
    return entry(seq, marker, flags=int(Flag.SUMMARY | Flag.PINNED))


def image(
    *log: Entry, pin: tuple[Entry, ...] = (), past: tuple[Past, ...] = (), **meta: Any
) -> Image:
    """A session whose counters are true unless said otherwise."""
    entries = [*log, *pin]
    facts = {
        "next": max((one.seq for one in entries), default=0) + 1,
        "messages": len(entries),
        "tokens": sum(one.tokens for one in entries),
        "size": sum(one.size for one in entries),
        "pinned": len(pin),
        "pinned_tokens": sum(one.tokens for one in pin),
        "expires_at": 77,
        **meta,
    }
    return Image("plain/a", 0, Meta(**facts), log, pin, past, {"meta": 77, "log": 77})


def kinds(rule: Rule, *calls: Call, rules: Rules = KEEPS, **facts: Any) -> list[Kind]:
    """What a rule says of a session."""
    ordered = sorted(calls, key=lambda one: one.begin)
    return [found.kind for found in rule(Case("plain/a", rules, ordered, **facts))]


A, B, C = append("a", 1, 0), append("b", 2, 10), append("c", 3, 20)
FAILOVER = Fault("failover", "server", 5 * MS, 30 * MS, loses=True)


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
