"""What must be true after the demo, each as a check of its own. No printing and no server here.

The measure is the store in this process: the acknowledged messages, appended to it one by one in the
order of their sequence numbers and under the same policies, must give exactly what Redis holds.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.client import Client
from holdfast.planning import plan_backstop
from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.session import Session
from holdfast.store.in_memory import InMemoryStore
from holdfast.values import MemoryAddress, PolicyDocument, Record, Stored

_NAMESPACE, _MEMORY = "replay", "support"


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """A message that the store said it has.

    Attributes:
        agent: who wrote it.
        id: its own.
        seq: its place in the session.
        message: as it was appended.
        tokens: of the session afterwards.
        length: messages of the session afterwards.
        phase: 0 before the policy was edited, 1 after.
    """

    agent: str
    id: str
    seq: int
    message: Any
    tokens: int
    length: int
    phase: int


@dataclass(frozen=True, slots=True)
class Content:
    """What a session holds at one moment.

    Attributes:
        records: all of them, oldest first.
        tokens: its own count.
        length: its own count.
    """

    records: tuple[Record, ...]
    tokens: int
    length: int


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be true.

    Attributes:
        name: what.
        faults: sentences about what is not; empty if all is.
        extent: on how much it was looked at.
    """

    name: str
    faults: tuple[str, ...]
    extent: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is true."""
        return not self.faults


@dataclass(frozen=True, slots=True)
class Replay:
    """What the acknowledged messages should have led to.

    Attributes:
        before: the session when the policy was edited.
        followed: the same, brought under the edited policy.
        after: the session at the end.
        totals: tokens and length after each message, by its sequence number.
    """

    before: Content
    followed: Content
    after: Content
    totals: dict[int, tuple[int, int]]


async def replay(acknowledged: Iterable[Acknowledged], policies: Sequence[Policy]) -> Replay:
    """Append the acknowledged messages to a store in this process.

    Args:
        acknowledged: in any order.
        policies: of both phases.
    """
    store, totals = InMemoryStore(), dict[int, tuple[int, int]]()
    contents: list[Content] = []
    ordered = sorted(acknowledged, key=lambda one: one.seq)
    for phase, policy in enumerate(policies):
        document = PolicyDocument(phase + 1, active=True, document=policy.document().encode())
        store.put_policy(MemoryAddress(_NAMESPACE, _MEMORY), document)
        async with Client(store, namespace=_NAMESPACE) as client:
            session = client.memory(_MEMORY).session("replay")
            for one in ordered:
                if one.phase == phase:
                    done = await session.append(one.message, id=one.id)
                    totals[one.seq] = (done.tokens, done.length)
            contents.append(await content(session))
    before, after = contents
    return Replay(before, _followed(before, policies[1]), after, totals)


async def content(session: Session) -> Content:
    """Return what a session holds now. It must hold at most 1,000 messages."""
    page = await session.read_page(limit=1000)
    status = await session.status()
    return Content(page.records, status.tokens, status.messages)


def places(acknowledged: Sequence[Acknowledged]) -> Check:
    """No message was lost on the way to its place, and none got two."""
    seqs = Counter(one.seq for one in acknowledged)
    ids = Counter(one.id for one in acknowledged)
    missing = sorted(set(range(1, len(acknowledged) + 1)) - seqs.keys())
    faults = [f"#{seq} was given {count} times" for seq, count in seqs.items() if count > 1]
    faults += [f"{name} was acknowledged {count} times" for name, count in ids.items() if count > 1]
    faults += [f"nobody was given #{seq}" for seq in missing]
    extent = f"{len(acknowledged)} messages"
    return Check("every acknowledged message has a place of its own", tuple(faults), extent)


def orders(acknowledged: Sequence[Acknowledged]) -> Check:
    """Each agent's messages stand in the order in which it wrote them."""
    faults: list[str] = []
    last: dict[str, Acknowledged] = {}
    for one in acknowledged:
        before = last.get(one.agent)
        if before is not None and one.seq <= before.seq:
            faults.append(f"{one.id} (#{one.seq}) follows {before.id} (#{before.seq})")
        last[one.agent] = one
    return Check(
        "each agent's messages are in its own order", tuple(faults), f"{len(last)} writers"
    )


def budgets(acknowledged: Sequence[Acknowledged], policies: Sequence[Policy]) -> Check:
    """No acknowledged append left the session above the limit that was in force."""
    limits = [policy.max_tokens or 0 for policy in policies]
    faults = [
        f"{one.tokens} tokens after {one.id}, allowed were {limits[one.phase]}"
        for one in acknowledged
        if one.tokens > limits[one.phase]
    ]
    highest = [
        max((one.tokens for one in acknowledged if one.phase == phase), default=0)
        for phase in range(len(limits))
    ]
    extent = ", then ".join(
        f"{most} of {limit}" for most, limit in zip(highest, limits, strict=True)
    )
    return Check("never above the budget", tuple(faults), f"at most {extent} tokens")


def counts(acknowledged: Sequence[Acknowledged], expected: Replay) -> Check:
    """Each answer named the tokens and the length that the replay has at that point."""
    faults = [
        f"{one.id}: {one.tokens} tokens in {one.length} messages, the replay has "
        f"{expected.totals[one.seq][0]} in {expected.totals[one.seq][1]}"
        for one in acknowledged
        if one.seq in expected.totals and expected.totals[one.seq] != (one.tokens, one.length)
    ]
    return Check("every answer told the exact tokens and length", tuple(faults))


def same(name: str, held: Content, expected: Content) -> Check:
    """What Redis holds is what it should hold: records, groups, tokens and ids, in order."""
    faults: list[str] = []
    kept = {record.seq: record for record in expected.records}
    found = Counter(record.seq for record in held.records)
    faults += [f"#{seq} is lost" for seq in kept if seq not in found]
    faults += [f"#{seq} should have left" for seq in found if seq not in kept]
    faults += [f"#{seq} is there {count} times" for seq, count in found.items() if count > 1]
    for record in held.records:
        other = kept.get(record.seq)
        if other is not None and _told(record) != _told(other):
            faults.append(f"#{record.seq} differs: {_difference(record, other)}")
    if [record.seq for record in held.records] != sorted(record.seq for record in held.records):
        faults.append("the messages are out of order")
    for what, have, want in (
        ("tokens", held.tokens, expected.tokens),
        ("messages", held.length, expected.length),
    ):
        if have != want:
            faults.append(f"the session counts {have} {what}, the replay {want}")
    return Check(name, tuple(faults), f"{len(held.records)} messages, {held.tokens} tokens")


def pairs(looks: Iterable[Sequence[Any]]) -> Check:
    """Whoever read the session never saw a tool call without its result, or a result alone."""
    faults: list[str] = []
    number = 0
    for number, messages in enumerate(looks, start=1):
        calls = {call["id"] for one in messages for call in one.get("tool_calls") or ()}
        results = {one["tool_call_id"] for one in messages if one.get("role") == "tool"}
        faults += [f"look {number}: {call} has no result" for call in sorted(calls - results)]
        faults += [f"look {number}: {call} has no call" for call in sorted(results - calls)]
    return Check("no tool call without its result", tuple(faults), f"in {number} looks")


def _followed(before: Content, policy: Policy) -> Content:
    """Return a session as an edited policy leaves it, while nobody writes."""
    terms = terms_of(policy, revision=2)
    evictable = [_stored(record) for record in before.records if not record.pinned]
    plan = plan_backstop(
        evictable,
        tokens=before.tokens,
        messages=before.length,
        terms=terms,
        keep={before.records[-1].group} if before.records else (),
        now=before.records[-1].ts if before.records else 0,
    )
    gone = {evictable[at].seq for at in plan.evict}
    kept = tuple(record for record in before.records if record.seq not in gone)
    return Content(kept, sum(record.tokens for record in kept), len(kept))


def _stored(record: Record) -> Stored:
    """Return a record for planning. Between the phases no tool call is open, so no flag matters."""
    return Stored(record.tokens, 0, record.seq, record.ts, record.group, record.id, record.item)


def _told(record: Record) -> dict[str, Any]:
    """Return what must be the same wherever a message is kept: all but the time."""
    told = dataclasses.asdict(record)
    del told["ts"]
    return told


def _difference(record: Record, other: Record) -> str:
    have, want = _told(record), _told(other)
    return ", ".join(name for name in have if have[name] != want[name])
