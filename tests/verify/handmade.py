"""Histories made by hand, for the tests of the rules."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from holdfast.values import Flag
from tests.harness.meta import Meta
from tests.verify.case import Case, Kind, Rules, Violation
from tests.verify.history import OK, Begin, Call, End, Fault, Op
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
