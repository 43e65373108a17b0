"""The Redis store without a server: what is sent, what answers mean, and what is repeated."""

import asyncio
import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    DataError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from holdfast.client import Client
from holdfast.errors import (
    AccessDenied,
    AcknowledgedLost,
    AmbiguousWrite,
    BudgetExceeded,
    ConfigurationError,
    CorruptRecord,
    HoldfastError,
    IdempotencyConflict,
    LeaseLost,
    QuotaExceeded,
    RecordNotFound,
    ScriptsMissing,
    SessionBusy,
    StoreUnavailable,
    TurnInterrupted,
    UnknownKeys,
)
from holdfast.store.protocol import SessionVanished, StalePolicy
from holdfast.store.redis import RedisStore
from holdfast.store.redis.carrier import Broken, Carrier, Command, PoolCarrier
from holdfast.store.redis.layout import (
    memory_keys,
    pack_caller,
    pack_record,
    pack_terms,
    session_keys,
)
from holdfast.store.redis.replies import (
    META_FIELDS,
    REFUSALS,
    accept,
    milliseconds,
    named,
    pairs_of,
    raise_for,
    read_expiry,
    read_status,
    records_in_order,
    text,
)
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import Script, all_scripts, script
from holdfast.values import (
    Batch,
    Caller,
    Lease,
    MemoryAddress,
    Notes,
    Prepared,
    Refresh,
    Splice,
    Stored,
    Terms,
    Usage,
)
from tests.harness.listener import Listener
from tests.harness.meta import COUNTERS, RULES, SLOW, Meta
from tests.harness.meta import Lease as Held
from tests.harness.waiting import until

MEMORY = MemoryAddress("team-a", "support")
SPEC: dict[str, Any] = {"model": {"tokenizer": "approximate"}, "retention": {"ttl": "1h"}}
TERMS = Terms(
    revision=7,
    max_tokens=1000,
    max_messages=50,
    refuse=True,
    ttl=3_600_000,
    after_clear=11,
    after_flush=12,
    max_lifetime=13,
    refresh=Refresh.READ | Refresh.WRITE,
    lease=30_000,
    grant=2_000,
    enforced=True,
    max_ids=256,
)


# --- what is sent


def test_all_keys_of_a_session_share_one_slot() -> None:
    keys = session_keys(MEMORY, "user:42", "mem")
    assert keys == tuple(
        b"mem:{team-a/support/user:42}:" + name
        for name in (b"meta", b"log", b"pin", b"ids", b"hist", b"q")
    )


def test_the_keys_of_a_memory_itself() -> None:
    keys = memory_keys(MEMORY, "prod")
    assert keys == tuple(
        b"prod:{team-a/support}:" + name for name in (b"policy", b"owner", b"usage", b"sessions")
    )


def test_terms_travel_as_one_argument() -> None:
    numbers = (7, 1000, 50, 1, 3_600_000, 11, 12, 13, 3, 30_000, 2000, 1, 256)
    assert struct.unpack("<13d", pack_terms(TERMS)) == numbers
    # Sessions are counted in the index, which is in another slot.
    names = Terms.__dataclass_fields__.keys() - {"max_sessions"}
    assert len(numbers) == len(names)


def test_what_a_caller_knows_travels_as_one_argument() -> None:
    known = pack_caller(Caller("token-5", 12, 34), create=True)
    assert (struct.unpack("<ddB", known[:17]), known[17:]) == ((12, 34, 1), b"token-5")
    assert pack_caller(Caller(), create=False) == bytes(17)
    sure = Caller("", 12, 34, sure=True)
    assert struct.unpack("<ddB", pack_caller(sure, create=False, again=True)) == (12, 34, 10)


@given(
    item=st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from("ab|,]"), inner),
        max_leaves=6,
    ),
    caller_id=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    notes=st.none() | st.builds(Notes, share=st.text(max_size=3), redacted=st.integers(0, 9)),
    numbers=st.tuples(*[st.integers(0, 2**31)] * 3),
    opens=st.lists(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), max_size=3),
    closes=st.lists(st.from_regex(r"\??[0-9a-f]{16}", fullmatch=True), max_size=3),
)
def test_a_message_becomes_a_record_when_the_script_puts_its_numbers_in_front(
    *,
    item: Any,
    caller_id: str | None,
    notes: Notes | None,
    numbers: tuple[int, int, int],
    opens: list[str],
    closes: list[str],
) -> None:
    tokens, flags, group = numbers
    body = msgspec.json.encode(item)
    head, rest = pack_record(
        Prepared(body, tokens, flags, group, tuple(opens), tuple(closes), id=caller_id, notes=notes)
    )
    assert struct.unpack("<ddd", head[:24]) == numbers
    calls = f"{','.join(opens)}|{','.join(closes)}" if opens or closes else ""
    assert head[24:].decode() == calls
    raw = b"[%d,%d,1,2,3" % (tokens, flags) + rest
    record = msgspec.json.decode(raw, type=Stored)
    assert record == Stored(tokens, flags, 1, 2, 3, caller_id, item, notes)
    behind = b"" if notes is None else b"," + msgspec.json.encode(notes)
    assert rest == b"," + msgspec.json.encode(caller_id) + b"," + body + behind + b"]"


def test_every_script_is_one_text_with_its_pieces() -> None:
    scripts = all_scripts()
    assert [one.name for one in scripts] == sorted(one.name for one in scripts)
    assert {"append", "acquire", "index", "tail"} <= {one.name for one in scripts}
    for one in scripts:
        assert one.body.startswith(b"#!lua"), one.name
        assert not re.search(rb"^\s*--", one.body, re.MULTILINE), one.name
        assert re.fullmatch(rb"[0-9a-f]{40}", one.sha)
        assert script(one.name) is one
    assert b"plan_backstop" in script("append").body


# --- records


def stored(seq: int, item: Any = "hi") -> bytes:
    return Stored(1, 0, seq, 5, seq, None, item).encoded()


def seqs(records: Sequence[Stored]) -> list[int]:
    return [record.seq for record in records]


def test_two_lists_become_one_in_order() -> None:
    records, corrupt = records_in_order(
        [stored(1), stored(4), stored(6)], [stored(2), stored(3), stored(5)]
    )
    assert (seqs(records), corrupt) == ([1, 2, 3, 4, 5, 6], 0)
    assert records[0] == Stored(1, 0, 1, 5, 1, None, "hi")


@pytest.mark.parametrize("lists", [[], [[]], [[], []]])
def test_nothing_is_no_record(lists: list[list[bytes]]) -> None:
    assert records_in_order(*lists) == ([], 0)


@pytest.mark.parametrize("lists", [[[stored(1), stored(2)], []], [[], [stored(1), stored(2)]]])
def test_one_list_is_in_order_by_itself(lists: list[list[bytes]]) -> None:
    assert seqs(records_in_order(*lists)[0]) == [1, 2]


def test_text_of_any_script_is_read_back() -> None:
    item = {"text": "é😀"}
    records, corrupt = records_in_order([stored(2, item), stored(3)], [stored(1)])
    assert (seqs(records), corrupt) == ([1, 2, 3], 0)
    assert records[1].item == item


CORRUPT = {
    "no JSON": b"hello",
    "empty": b"",
    "another JSON value": b'{"role":"user"}',
    "too short": b"[1,2,3]",
    "a text for a number": b'["1",0,2,5,2,null,"x"]',
    "a fraction for a number": b'[1.5,0,2,5,2,null,"x"]',
    "a number for an id": b'[1,0,2,5,2,7,"x"]',
    "cut short": stored(2)[:-1],
    "more after its end": stored(2) + b"x",
    "no UTF-8": b'[1,0,2,5,2,null,"\xff"]',
    "nested too deeply": b"[1,0,2,5,2,null," + b"[" * 200_000 + b"]" * 200_000 + b"]",
    "a number out of range": b"[1,0,2,5,2,null,1e400]",
}


@pytest.mark.parametrize("bad", CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_record_that_is_not_ours_leaves_the_others_alone(bad: bytes, place: int) -> None:
    log = [stored(1), stored(3)]
    log.insert(place, bad)
    records, corrupt = records_in_order(log, [stored(2)])
    assert (seqs(records), corrupt) == ([1, 2, 3], 1)
    assert records_in_order([bad, bad], [bad]) == ([], 3)


# --- counters

NOW = 1_700_000_000_000
META = Meta(
    next=35,
    tokens=1200,
    messages=30,
    size=4096,
    version=41,
    dropped=4,
    pinned=3,
    pinned_tokens=70,
    ids=1,
    epoch=1_700_000_000_000_000,
    created=1_699_999_999_000,
    revision=7,
    expires_at=1_700_003_600_000,
    touched=1_700_000_000_000,
    lease=Held("token-5", 1_700_000_012_500, 88),
    others={"h": "pod-a:1"},
).fields()


def fields(**changes: bytes | None) -> list[bytes | None]:
    """The reply to HMGET of all fields, but for the given ones."""
    return [changes.get(name.decode(), META[name]) for name in META_FIELDS]


def test_the_counters_of_a_session() -> None:
    status = read_status(fields(), now=NOW, waiting=2)
    assert status._asdict() == {
        "exists": True,
        "epoch": 1_700_000_000_000_000,
        "last_seq": 34,
        "tokens": 1200,
        "messages": 30,
        "bytes": 4096,
        "version": 41,
        "dropped": 4,
        "pinned": 3,
        "pinned_tokens": 70,
        "revision": 7,
        "expires_at": 1_700_003_600_000,
        "expiry_rule": "ttl",
        "lease": Lease("pod-a:1", 12.5, 88),
        "lease_token": "token-5",
        "waiting": 2,
    }


def test_maps_are_read_in_either_protocol() -> None:
    pairs = [b"name", b"one", b"port", 1]
    assert named(pairs) == named({b"name": b"one", b"port": 1}) == {"name": b"one", "port": 1}
    assert pairs_of(pairs[:2]) == pairs_of({b"name": b"one"}) == {b"name": b"one"}


def test_a_session_that_never_was() -> None:
    status = read_status([None] * 4, now=NOW)
    assert not status.exists
    assert (status.epoch, status.last_seq, status.tokens, status.messages) == (0, 0, 0, 0)
    assert (status.expires_at, status.expiry_rule) == (0, "")
    assert (status.lease, status.lease_token, status.waiting) == (None, "", 0)


@pytest.mark.parametrize(
    ("lease", "held"),
    [
        (b"token-5|1700000000001|88", True),
        (b"token-5|1700000000000|88", False),
        (b"|1700000012500|88", False),
        (b"|0|88", False),
    ],
)
def test_a_lease_that_ended_is_none(lease: bytes, held: bool) -> None:
    status = read_status(fields(l=lease), now=NOW)
    assert (status.lease is not None) == held
    assert status.lease_token == ("token-5" if held else "")


@pytest.mark.parametrize(
    ("holder", "shown"),
    [(None, None), (b"", None), (b"pod-a", "pod-a"), ("pod-\u00e9".encode()[:-1], "pod-\ufffd")],
)
def test_the_holder_as_far_as_known(holder: bytes | None, shown: str | None) -> None:
    lease = read_status(fields(h=holder), now=NOW).lease
    assert lease is not None
    assert lease.holder == shown


def test_a_session_whose_counters_vanished_is_none() -> None:
    status = read_status(fields(k=None, l=None, h=None), now=NOW)
    assert status == read_status([None] * 4, now=NOW)


@pytest.mark.parametrize("number", range(1, len(RULES)))
def test_what_set_the_expiry(number: int) -> None:
    slow = replace(Meta.read(META), rule=RULES[number]).fields()[b"s"]
    assert read_status(fields(s=slow), now=NOW).expiry_rule == RULES[number]


@pytest.mark.parametrize("slow", [b"\2", b"\2" + META[b"s"][1:], b"\2" + META[b"s"][1:] + b"more"])
@pytest.mark.parametrize("counters", [META[b"k"], META[b"k"] + b"more", b"", None])
def test_the_counters_of_a_newer_version_are_not_guessed(
    slow: bytes, counters: bytes | None
) -> None:
    with pytest.raises(UnknownKeys, match=r"newer version \(layout 2\): upgrade"):
        read_status(fields(k=counters, s=slow), now=NOW)
    with pytest.raises(UnknownKeys, match=r"newer version \(layout 2\): upgrade"):
        read_expiry(slow)


BAD_SLOW = {
    "empty": b"",
    "cut short": META[b"s"][:-1],
    "too long": META[b"s"] + b"x",
    "as text": b"\1|2",
    "all text": b"1|1700000000000000|1699999999000|0|7",
    "text of its length": b"7" * SLOW.size,
    "an older layout": b"\0" + META[b"s"][1:],
    "not a number": SLOW.pack(1, 1, 0, 0, 0, 0, 0, 1, 1, 1, math.nan, 1),
    "without end": SLOW.pack(1, 1, 0, 0, 0, 0, 0, 1, 1, 1, math.inf, math.inf),
}


@pytest.mark.parametrize(
    "changes",
    [
        {"k": b"hello"},
        {"k": b""},
        {"k": b"1|2|3"},
        {"k": META[b"k"][:-1]},
        {"k": META[b"k"] + b"x"},
        {"k": COUNTERS.pack(1, math.nan, 3, 4, 5, 6, 7, 8)},
        {"k": COUNTERS.pack(1, math.inf, 3, 4, 5, 6, 7, 8)},
        {"s": None},
        {"s": SLOW.pack(1, len(RULES), 0, 0, 0, 0, 0, 1, 1, 1, 1, 1)},
        *({"s": slow} for slow in BAD_SLOW.values()),
        {"l": b"token"},
        {"l": b"token|when|88"},
        {"l": b"\xff|1|88"},
    ],
)
def test_counters_that_are_not_ours(changes: dict[str, bytes | None]) -> None:
    with pytest.raises(CorruptRecord, match="something else wrote to the session"):
        read_status(fields(**changes), now=NOW)


def test_when_a_session_expires_and_was_last_renewed() -> None:
    assert read_expiry(META[b"s"]) == (1_700_003_600_000, 1_700_000_000_000)


@pytest.mark.parametrize("slow", BAD_SLOW.values(), ids=BAD_SLOW)
def test_an_expiry_that_is_not_ours(slow: bytes) -> None:
    with pytest.raises(CorruptRecord, match="something else wrote to the session"):
        read_expiry(slow)


def test_the_servers_time() -> None:
    assert milliseconds([b"1700000000", b"999999"]) == 1_700_000_000_999


# --- refusals of the scripts

CALLER = Caller("token-5", 12, 34)


@pytest.mark.parametrize(
    ("reply", "error", "attributes"),
    [
        ([b"BUSY", 12_500, b"pod-a"], SessionBusy, {"holder": "pod-a", "remaining": 12.5}),
        ([b"BUSY", 0, b""], SessionBusy, {"holder": None}),
        ([b"CONFLICT", 17], IdempotencyConflict, {}),
        ([b"EPOCH", 13], LeaseLost, {}),
        ([b"ERASED"], AmbiguousWrite, {}),
        ([b"FULL", 30, 1200], BudgetExceeded, {}),
        ([b"INTERRUPTED"], TurnInterrupted, {}),
        ([b"LAYOUT", 2], UnknownKeys, {}),
        ([b"LAYOUT", 115], CorruptRecord, {}),
        ([b"LEASELOST"], LeaseLost, {}),
        ([b"NORECORD"], RecordNotFound, {}),
        ([b"NOROOM"], BudgetExceeded, {}),
        ([b"REGRESSED", 30], AcknowledgedLost, {"first": 31, "last": 34}),
        ([b"SESSIONS", 12, 10], QuotaExceeded, {"quota": "sessions", "used": 12, "hard": 10}),
        ([b"STALEPOLICY", 9], StalePolicy, {"revision": 9}),
        ([b"VANISHED"], SessionVanished, {}),
    ],
)
def test_a_refusal_is_an_error(
    reply: list[Any], error: type[HoldfastError], attributes: dict[str, Any]
) -> None:
    with pytest.raises(error) as refusal:
        accept(reply, CALLER)
    assert type(refusal.value) is error
    assert {name: getattr(refusal.value, name) for name in attributes} == attributes


def test_every_refusal_is_in_the_table_above() -> None:
    [mark] = [
        mark
        for mark in test_a_refusal_is_an_error.pytestmark  # pyright: ignore[reportFunctionMemberAccess]
        if mark.name == "parametrize"
    ]
    assert {text(reply[0]) for reply, _, _ in mark.args[1]} == set(REFUSALS)


def test_every_refusal_of_a_script_is_known() -> None:
    """A word in capitals that a script returns is an answer that its caller reads, or a refusal."""
    words: set[str] = set()
    for name in ("acquire", "append", "clear", "index", "pin", "pop", "release", "renew"):
        words |= set(re.findall(r"return \{ '([A-Z]{2,})'", script(name).body.decode()))
    answers = {"OK", "DUPLICATE", "GRANTED", "WAIT", "NOSESSION"}
    assert words - answers <= set(REFUSALS)
    assert len(words & set(REFUSALS)) > 5


@pytest.mark.parametrize("reply", [[b"OK", 1], [b"GRANTED", 2], [b"NOSESSION"], [b"DUPLICATE", 1]])
def test_an_answer_is_returned(reply: list[Any]) -> None:
    assert accept(reply, CALLER) == text(reply[0])


# --- errors of the server

ERRORS: list[tuple[Exception, type[Exception], str]] = [
    (NoPermissionError("this user has no permissions"), AccessDenied, "do not allow this call"),
    (ResponseError("ACL failure in script: ..."), AccessDenied, "do not allow this call"),
    (AuthenticationError("NOAUTH Authentication required."), AccessDenied, "wants a user name"),
    (OutOfMemoryError("command not allowed"), StoreUnavailable, "out of memory"),
    (ReadOnlyError("You can't write"), StoreUnavailable, "read-only replica"),
    (BusyLoadingError("loading"), StoreUnavailable, "cannot serve now"),
    (ClusterDownError("down"), StoreUnavailable, "cannot serve now"),
    (TryAgainError("again"), StoreUnavailable, "cannot serve now"),
    (ResponseError("NOREPLICAS x"), StoreUnavailable, "fewer replicas than it needs"),
    (MovedError("1 127.0.0.1:7000"), ConfigurationError, "a node of a Cluster"),
    (ResponseError("BUSY Redis is busy running a script"), StoreUnavailable, "cannot serve now"),
    (
        ResponseError("WRONGTYPE Operation against a key"),
        UnknownKeys,
        "holds another data type",
    ),
    (ResponseError("CORRUPT a record does not"), CorruptRecord, "not have the form of a record"),
    (ResponseError("something new: s3cret"), StoreUnavailable, r"an error \(ResponseError\)$"),
    (DataError("what"), StoreUnavailable, r"an error \(DataError\)$"),
]


@pytest.mark.parametrize(("reply", "error", "sentence"), ERRORS)
def test_an_error_of_the_server_is_one_of_ours(
    reply: Exception, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as found:
        raise_for(reply)
    assert type(found.value) is error
    assert found.value.__cause__ is reply
    assert "s3cret" not in str(found.value)


# --- what is repeated

Step = Callable[[Sequence[Command]], list[Any]]
READ = script("tail")
APPEND = script("append")
INDEX = script("index")
NOSCRIPT = NoScriptError("No matching script")


def name_of(command: Command) -> str:
    """A short name: of the script for EVALSHA, else of the command."""
    if command[0] == b"EVALSHA":
        [found] = [one.name for one in all_scripts() if one.sha == command[1]]
        return found
    if tuple(command[:2]) == (b"SCRIPT", b"LOAD"):
        return "load"
    return text(command[0])  # pyright: ignore[reportArgumentType]


class Hand:
    """A carrier that answers as it is told, one step for each exchange, the last one for ever."""

    def __init__(self, *steps: list[Any] | Exception | Step) -> None:
        self.steps = list(steps)
        self.sent: list[list[str]] = []
        self.blocked: list[tuple[Command, float]] = []
        self.closed = False

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Any]:
        self.sent.append([name_of(command) for command in commands])
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, Exception):
            raise step
        replies = step(commands) if callable(step) else step
        assert len(replies) == len(commands), "the test does not answer every command"
        return list(replies)

    async def block(self, command: Command, seconds: float) -> None:
        self.blocked.append((command, seconds))
        if isinstance(self.steps[0], Exception):
            raise self.steps[0]

    async def nodes(self) -> Sequence[Carrier]:
        return [self]

    async def primaries(self) -> Sequence[Carrier]:
        return [self]

    async def aclose(self) -> None:
        self.closed = True


class Server:
    """A carrier over the least a server is: it knows scripts, and counts what it runs.

    Args:
        known: the scripts it knows already.
        may_load: whether the credentials may load others.
    """

    def __init__(self, *known: Script, may_load: bool = True) -> None:
        self.known = {one.sha for one in known}
        self.may_load = may_load
        self.ran: list[str] = []
        self.exchanges = 0
        self.faults: dict[str, list[Exception]] = {}
        self.breaks: list[int] = []

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Any]:
        self.exchanges += 1
        replies = [self._answer(command) for command in commands]
        if commands[0] == (b"MULTI",):
            replies = [b"OK", *[b"QUEUED"] * (len(commands) - 2), replies[1:-1]]
        if self.exchanges in self.breaks:
            raise Broken("the connection broke before the reply")
        return replies

    def _answer(self, command: Command) -> Any:
        name = name_of(command)
        if name == "load":
            if not self.may_load:
                return NoPermissionError("no permission to run script|load")
            self.known |= {one.sha for one in all_scripts() if one.body == command[2]}
        elif self.faults.get(name):
            return self.faults[name].pop(0)
        elif command[0] == b"EVALSHA":
            if command[1] not in self.known:
                return NOSCRIPT
            self.ran.append(name)
        return [b"OK", name]

    async def block(self, command: Command, seconds: float) -> None:
        raise AssertionError("nobody waits here")

    async def nodes(self) -> Sequence[Carrier]:
        return [self]

    async def primaries(self) -> Sequence[Carrier]:
        return [self]

    async def aclose(self) -> None:
        pass


def runner(carrier: Hand | Server, *, patience: float = 0.2) -> Runner:
    return Runner(carrier, patience=patience)


async def run(carrier: Hand | Server, *, repeatable: bool = False, patience: float = 0.2) -> Any:
    return await runner(carrier, patience=patience).run(
        APPEND, [b"k"], [b"argument", 7], repeatable=repeatable
    )


@pytest.mark.asyncio
async def test_a_script_is_called_by_its_digest() -> None:
    sent: list[Command] = []

    def answer(commands: Sequence[Command]) -> list[Any]:
        sent.extend(commands)
        return [[b"OK", 1]]

    assert await run(Hand(answer)) == [b"OK", 1]
    assert sent == [(b"EVALSHA", APPEND.sha, 1, b"k", b"argument", 7)]


@pytest.mark.asyncio
async def test_a_script_in_front_goes_along_in_one_round_trip() -> None:
    server = Server(*all_scripts())
    reply = await runner(server).run(
        APPEND, [b"k"], [], repeatable=False, before=(INDEX, [b"i"], [b"name"])
    )
    assert reply == [b"OK", "append"]
    assert (server.ran, server.exchanges) == (["index", "append"], 1)


@pytest.mark.asyncio
@pytest.mark.parametrize("repeatable", [False, True])
@pytest.mark.parametrize(
    "passing",
    [
        StoreUnavailable("no connection"),
        [BusyLoadingError("loading")],
        [TryAgainError("a slot moves")],
        [ClusterDownError("down")],
        [ReadOnlyError("a replica now")],
        [ResponseError("NOREPLICAS Not enough good replicas")],
        [ResponseError("BUSY Redis is busy running a script")],
    ],
    ids=lambda step: type(step).__name__ if isinstance(step, Exception) else str(step),
)
async def test_what_wrote_nothing_is_repeated(
    passing: list[Any] | Exception, repeatable: bool
) -> None:
    hand = Hand(passing, passing, [[b"OK"]])
    assert await run(hand, repeatable=repeatable) == [b"OK"]
    assert hand.sent == [["append"]] * 3


@pytest.mark.asyncio
async def test_a_lost_reply_is_asked_for_again_where_that_does_no_harm() -> None:
    hand = Hand(Broken("x"), Broken("x"), [[b"OK"]])
    assert await run(hand, repeatable=True) == [b"OK"]
    assert hand.sent == [["append"]] * 3


@pytest.mark.asyncio
async def test_a_lost_reply_is_ambiguous_where_it_would() -> None:
    hand = Hand(Broken("x"), [[b"OK"]])
    with pytest.raises(AmbiguousWrite, match="may or may not have been carried out"):
        await run(hand)
    assert hand.sent == [["append"]]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (NoPermissionError("no"), AccessDenied),
        (OutOfMemoryError("no"), StoreUnavailable),
        (MovedError("1 127.0.0.1:7000"), ConfigurationError),
        (ResponseError("WRONGTYPE"), UnknownKeys),
        (ResponseError("CORRUPT"), CorruptRecord),
        (ResponseError("ERR"), StoreUnavailable),
    ],
)
@pytest.mark.parametrize("repeatable", [False, True])
async def test_what_will_not_change_is_not_repeated(
    reply: Exception, error: type[Exception], repeatable: bool
) -> None:
    hand = Hand([reply])
    with pytest.raises(error):
        await run(hand, repeatable=repeatable)
    assert hand.sent == [["append"]]


@pytest.mark.asyncio
async def test_refused_credentials_are_not_tried_again() -> None:
    hand = Hand(AccessDenied("wrong password"))
    with pytest.raises(AccessDenied, match="wrong password"):
        await run(hand, repeatable=True)
    assert len(hand.sent) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("step", "sentence"),
    [
        (StoreUnavailable("no connection here"), "no connection here"),
        (Broken("x"), "does not answer in time"),
        ([TryAgainError("x")], "cannot serve now"),
        ([ResponseError("BUSY")], "cannot serve now"),
    ],
)
async def test_patience_ends(step: list[Any] | Exception, sentence: str) -> None:
    hand = Hand(step)
    began = asyncio.get_running_loop().time()
    with pytest.raises(StoreUnavailable, match=sentence):
        await run(hand, repeatable=True)
    took = asyncio.get_running_loop().time() - began
    assert took < 10
    # 10, 20, 40 and 80 ms, each half to one and a half times: more would be an endless loop. On a busy
    # machine a pause may last for as long as the patience does.
    assert 2 <= len(hand.sent) <= 7


@pytest.mark.asyncio
async def test_without_patience_nothing_is_repeated() -> None:
    hand = Hand(StoreUnavailable("x"))
    with pytest.raises(StoreUnavailable):
        await run(hand, patience=0)
    assert len(hand.sent) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("end", [Broken("x"), AccessDenied("x"), [ResponseError("ERR")]])
async def test_what_was_in_doubt_once_stays_in_doubt(end: Exception | list[Any]) -> None:
    """The reply of an append with an id was lost, and no repetition was answered."""
    for stores in (True, False):
        hand = Hand(Broken("x"), end)
        call = runner(hand).run(APPEND, [b"k"], [], repeatable=True, stores=stores)
        with pytest.raises(HoldfastError) as error:
            await call
        assert isinstance(error.value, AmbiguousWrite) == stores


# --- scripts the server does not have


@pytest.mark.asyncio
@pytest.mark.parametrize("repeatable", [False, True])
async def test_missing_scripts_are_loaded_and_the_call_is_repeated(repeatable: bool) -> None:
    server = Server()
    assert await run(server, repeatable=repeatable) == [b"OK", "append"]
    assert server.ran == ["append"]
    assert server.known == {one.sha for one in all_scripts()}
    assert server.exchanges == 3


@pytest.mark.asyncio
async def test_scripts_that_were_loaded_are_used_however_late_it_is() -> None:
    """As where a failover took all the time that there was, and the survivor has none of them."""
    server = Server()
    assert await run(server, patience=0) == [b"OK", "append"]
    assert server.ran == ["append"]


@pytest.mark.asyncio
async def test_who_may_not_load_scripts_waits_for_the_operator() -> None:
    server = Server(may_load=False)
    call = asyncio.create_task(run(server, patience=30))
    await until(lambda: server.exchanges >= 4, "it tried twice")
    server.known |= {APPEND.sha}
    assert await call == [b"OK", "append"]
    assert server.ran == ["append"]


@pytest.mark.asyncio
async def test_nobody_loads_the_scripts() -> None:
    with pytest.raises(ScriptsMissing, match="the operator does, check that it runs"):
        await run(Server(may_load=False))


@pytest.mark.asyncio
async def test_a_script_that_cannot_be_loaded_is_an_error() -> None:
    hand = Hand([NOSCRIPT], lambda commands: [ResponseError("ERR compiling")] * len(commands))
    with pytest.raises(StoreUnavailable, match="answered with an error"):
        await run(hand)


@pytest.mark.asyncio
async def test_a_connection_that_breaks_while_scripts_are_loaded_wrote_nothing() -> None:
    server = Server()
    server.breaks = [2]
    assert await run(server, repeatable=False) == [b"OK", "append"]
    assert server.ran == ["append"]


@pytest.mark.asyncio
async def test_what_was_carried_out_is_not_repeated_for_the_script_in_front() -> None:
    """As after an upgrade in which only one script changed."""
    server = Server(APPEND)
    reply = await runner(server).run(
        APPEND, [b"k"], [], repeatable=False, before=(INDEX, [b"i"], [b"name"])
    )
    assert reply == [b"OK", "append"]
    assert server.ran == ["append", "index"]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "fault", [TryAgainError("x"), NoPermissionError("x"), OutOfMemoryError("x"), NOSCRIPT]
)
async def test_a_fault_of_the_script_in_front_does_not_deny_what_was_written(
    fault: Exception,
) -> None:
    server = Server(*all_scripts())
    server.faults = {"index": [fault]}
    reply = await runner(server).run(
        APPEND, [b"k"], [], repeatable=False, before=(INDEX, [b"i"], [b"name"])
    )
    assert reply == [b"OK", "append"]
    assert server.ran.count("append") == 1


@pytest.mark.asyncio
async def test_the_script_in_front_that_cannot_be_made_up_for_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(*all_scripts())
    server.faults = {"index": [NoPermissionError("x"), NoPermissionError("x")]}
    reply = await runner(server).run(
        APPEND, [b"k"], [], repeatable=False, before=(INDEX, [b"i"], [b"a session's name"])
    )
    assert reply == [b"OK", "append"]
    [record] = caplog.records
    assert record.getMessage().startswith("script index not run, AccessDenied: the credentials do")
    assert "a session's name" not in record.getMessage()


@pytest.mark.asyncio
async def test_a_fault_of_the_script_itself_is_told_whatever_the_one_in_front_did() -> None:
    server = Server(*all_scripts())
    server.faults = {"append": [ResponseError("WRONGTYPE")]}
    with pytest.raises(UnknownKeys):
        await runner(server).run(
            APPEND, [b"k"], [], repeatable=False, before=(INDEX, [b"i"], [b"name"])
        )


# --- reads


@pytest.mark.asyncio
async def test_reads_are_repeated_as_a_whole() -> None:
    hand = Hand([1, TryAgainError("x")], Broken("x"), [2, 3])
    assert await runner(hand).read([(b"GET", b"a"), (b"GET", b"b")]) == [2, 3]
    assert hand.sent == [["GET", "GET"]] * 3


@pytest.mark.asyncio
async def test_reads_of_one_moment_are_one_transaction() -> None:
    hand = Hand([b"OK", b"QUEUED", b"QUEUED", [1, 2]])
    assert await runner(hand).read_at_once([(b"GET", b"a"), (b"GET", b"b")]) == [1, 2]
    assert hand.sent == [["MULTI", "GET", "GET", "EXEC"]]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("fault", "error"),
    [(ResponseError("WRONGTYPE"), UnknownKeys), (NoPermissionError("x"), AccessDenied)],
)
async def test_an_error_within_a_transaction(fault: Exception, error: type[Exception]) -> None:
    hand = Hand([b"OK", b"QUEUED", b"QUEUED", [1, fault]])
    with pytest.raises(error):
        await runner(hand).read_at_once([(b"GET", b"a"), (b"GET", b"b")])


@pytest.mark.asyncio
@pytest.mark.parametrize("may_load", [True, False])
async def test_a_script_that_is_missing_within_a_transaction(may_load: bool) -> None:
    server = Server(may_load=may_load)
    call = runner(server).read_at_once([(b"EVALSHA", READ.sha, 1, b"k", 5)])
    if may_load:
        assert await call == [[b"OK", "tail"]]
    else:
        with pytest.raises(ScriptsMissing):
            await call


@pytest.mark.asyncio
async def test_within_a_transaction_what_passes_is_waited_for() -> None:
    server = Server(*all_scripts())
    server.faults = {"tail": [TryAgainError("x"), BusyLoadingError("x")]}
    assert await runner(server).read_at_once([(b"EVALSHA", READ.sha, 1, b"k", 5)]) == [
        [b"OK", "tail"]
    ]


@pytest.mark.asyncio
async def test_calls_that_have_nothing_to_do_with_each_other_fail_each_on_their_own() -> None:
    wrong = ResponseError("WRONGTYPE")
    hand = Hand([1, TryAgainError("x"), wrong], [1, 2, wrong])
    commands = [(b"GET", b"a"), (b"GET", b"b"), (b"GET", b"c")]
    assert await runner(hand).each(commands) == [1, 2, wrong]
    assert len(hand.sent) == 2
    assert await runner(hand).each([]) == []
    assert len(hand.sent) == 2


# --- waiting to be woken


@pytest.mark.asyncio
async def test_a_waiter_blocks_on_its_own_key() -> None:
    hand = Hand([b"OK"])
    await runner(hand).wait(b"key", 1.5)
    assert hand.blocked == [((b"BLPOP", b"key", "1.500"), 1.5)]


@pytest.mark.asyncio
@pytest.mark.parametrize("trouble", [Broken("x"), StoreUnavailable("x")])
async def test_a_waiter_whose_connection_breaks_just_looks_again(trouble: Exception) -> None:
    hand = Hand(trouble)
    await runner(hand).wait(b"key", 1.5)
    assert len(hand.blocked) == 1


@pytest.mark.asyncio
async def test_a_waiter_whose_credentials_are_refused_is_told() -> None:
    with pytest.raises(AccessDenied):
        await runner(Hand(AccessDenied("x"))).wait(b"key", 1.5)


# --- the carrier over a pool


def carrier(port: int, *, timeout: float = 20) -> PoolCarrier:
    pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
        f"redis://127.0.0.1:{port}", retry=Retry(NoBackoff(), 0)
    )
    return PoolCarrier(pool, owned=True, timeout=timeout)


@pytest.mark.asyncio
async def test_commands_go_in_one_piece_and_errors_stand_among_the_replies() -> None:
    answers = {b"GET": b"$2\r\nhi\r\n", b"SET": b"-NOPERM no\r\n", b"INCR": b"-WRONGTYPE x\r\n"}
    async with Listener(answers) as listener:
        carrying = carrier(listener.port)
        replies = await carrying.exchange([(b"SET", "a", 1), (b"GET", "é"), (b"INCR", b"a")])
        assert [type(replies[0]), replies[1], type(replies[2])] == [
            NoPermissionError,
            b"hi",
            ResponseError,
        ]
        assert await carrying.exchange([(b"GET", b"a")]) == [b"hi"]
        assert listener.named(b"SET") == [[b"SET", b"a", b"1"]]
        assert listener.connections == 1
        await carrying.aclose()
        await until(lambda: listener.open == 0, "the connection was closed")


@pytest.mark.asyncio
async def test_connections_to_what_is_no_primary_any_more_are_left() -> None:
    """The same address may lead to the next primary, and only a new connection goes there."""
    async with Listener() as listener:
        carrying = carrier(listener.port)
        listener.hold.clear()
        calls = [asyncio.create_task(carrying.exchange([(b"GET", b"a")])) for _ in range(2)]
        await until(lambda: listener.connections == 2, "there are two connections")
        listener.hold.set()
        await asyncio.gather(*calls)
        listener.answers[b"SET"] = b"-READONLY You can't write against a read only replica.\r\n"
        [refusal] = await carrying.exchange([(b"SET", b"a", 1)])
        assert isinstance(refusal, ReadOnlyError)
        await until(lambda: listener.open == 0, "both were closed")
        assert await carrying.exchange([(b"GET", b"a")]) == [b"OK"]
        assert listener.connections == 3
        await carrying.aclose()


@pytest.mark.asyncio
async def test_a_carrier_that_is_retired_answers_what_is_under_way_and_closes() -> None:
    async with Listener() as listener:
        carrying = carrier(listener.port)
        await carrying.exchange([(b"PING",)])
        listener.hold.clear()
        call = asyncio.create_task(carrying.exchange([(b"GET", b"a")]))
        await until(lambda: len(listener.named(b"GET")) == 1, "it was sent")
        await carrying.retire()
        listener.hold.set()
        assert await call == [b"OK"]
        await until(lambda: listener.open == 0, "the connection was closed")
        await carrying.aclose()


@pytest.mark.asyncio
async def test_more_than_anybody_may_answer_ends_the_connection() -> None:
    large = b"$1000\r\n%b\r\n" % (b"x" * 1000)
    async with Listener({b"GET": large, b"INCR": b":1\r\n"}) as listener:
        pool = ConnectionPool(host="127.0.0.1", port=listener.port, retry=Retry(NoBackoff(), 0))
        carrying = PoolCarrier(pool, owned=True, largest=900)
        assert await carrying.exchange([(b"INCR", b"a")] * 3) == [1, 1, 1]
        with pytest.raises(Broken):
            await carrying.exchange([(b"GET", b"a")])
        await until(lambda: listener.open == 0, "the connection was closed")
        assert await carrying.exchange([(b"INCR", b"a")]) == [1]
        await carrying.aclose()


@pytest.mark.asyncio
async def test_a_connection_that_breaks_is_not_used_again() -> None:
    async with Listener({b"SET": b""}) as listener:
        carrying = carrier(listener.port)
        for number in (1, 2):
            with pytest.raises(Broken):
                await carrying.exchange([(b"SET", b"a", 1)])
            assert listener.connections == number
        assert await carrying.exchange([(b"GET", b"a")]) == [b"OK"]
        await carrying.aclose()


@pytest.mark.asyncio
async def test_a_connection_that_the_server_closed_meanwhile_is_not_used() -> None:
    async with Listener({b"QUIT": b"+OK\r\n"}) as listener:
        carrying = carrier(listener.port)
        await carrying.exchange([(b"GET", b"a")])
        listener.hang_up()
        await until(lambda: listener.open == 0, "the connection was closed")
        assert await carrying.exchange([(b"GET", b"a")]) == [b"OK"]
        assert listener.connections == 2
        await carrying.aclose()


@pytest.mark.asyncio
async def test_a_call_that_is_cancelled_leaves_its_reply_to_nobody() -> None:
    async with Listener({b"GET": b"$2\r\nhi\r\n"}) as listener:
        carrying = carrier(listener.port)
        await carrying.exchange([(b"PING",)])
        listener.hold.clear()
        call = asyncio.create_task(carrying.exchange([(b"SET", b"a", 1)]))
        await until(lambda: len(listener.named(b"SET")) == 1, "it was sent")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        listener.hold.set()
        assert await carrying.exchange([(b"GET", b"a")]) == [b"hi"]
        assert listener.connections == 2
        await carrying.aclose()


@pytest.mark.asyncio
async def test_a_server_that_says_nothing_is_not_waited_for_for_ever() -> None:
    async with Listener() as listener:
        carrying = carrier(listener.port, timeout=0.3)
        await carrying.exchange([(b"PING",)])
        listener.hold.clear()
        with pytest.raises(Broken):
            await carrying.exchange([(b"GET", b"a")])
        with pytest.raises(StoreUnavailable, match="no connection to the server"):
            await carrying.exchange([(b"GET", b"a")])
        listener.hold.set()
        await carrying.aclose()


@pytest.mark.asyncio
async def test_who_blocks_takes_no_connection_from_who_talks() -> None:
    async with Listener() as listener:
        pool = ConnectionPool.from_url(  # pyright: ignore[reportUnknownMemberType]
            f"redis://127.0.0.1:{listener.port}", max_connections=3
        )
        carrying = PoolCarrier(pool, owned=True, timeout=20)
        await carrying.exchange([(b"PING",)])
        listener.silent.add(b"BLPOP")
        blocked = [asyncio.create_task(carrying.block((b"BLPOP", b"k", 9), 9)) for _ in range(5)]
        await until(lambda: len(listener.named(b"BLPOP")) == 1, "one of them blocks")
        assert await carrying.exchange([(b"GET", b"a")]) == [b"OK"]
        await until(lambda: sum(task.done() for task in blocked) == 4, "the others came back")
        assert len(listener.named(b"BLPOP")) == 1
        [left] = [task for task in blocked if not task.done()]
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await carrying.aclose()


@pytest.mark.asyncio
async def test_who_may_not_block_does_not_ask_without_a_pause() -> None:
    async with Listener({b"BLPOP": b"-NOPERM no\r\n"}) as listener:
        carrying = carrier(listener.port)
        began = asyncio.get_running_loop().time()
        await carrying.block((b"BLPOP", b"k", 9), 9)
        assert 0.04 <= asyncio.get_running_loop().time() - began < 5
        await carrying.aclose()


# --- the store on top


def batch(*, key: str = "") -> Batch:
    return Batch((Prepared(b'"hi"', 1),), key, 0)


APPENDED = [b"OK", struct.pack("<7d", 1, 1, 5, 0, 99, 0, 0)]
TORN = [b"OK", struct.pack("<7d", 1, 1, 5, 0, 99, 0, 1)]


@pytest.mark.asyncio
async def test_the_first_write_notes_the_session_and_the_next_ones_do_not() -> None:
    hand = Hand([[b"OK"], APPENDED], [APPENDED])
    session = RedisStore(hand, patience=0.1).session(MEMORY, "42")
    for _ in range(2):
        done = await session.append(TERMS, batch(), Caller())
        assert (done.seq, done.length, done.tokens, done.epoch) == (1, 1, 5, 99)
    assert hand.sent == [["index", "append"], ["append"]]


@pytest.mark.asyncio
@pytest.mark.parametrize(("ttl", "pause"), [(3_600_000, 180), (86_400_000, 4320), (60_000, 60)])
async def test_a_session_that_is_written_to_for_long_is_noted_now_and_then(
    monkeypatch: pytest.MonkeyPatch, ttl: int, pause: int
) -> None:
    """A twentieth of its life, a minute at least: what is not noted for long is taken for gone."""
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("holdfast.store.redis.handle.time", clock)
    hand = Hand([[b"OK"], APPENDED], [APPENDED], [[b"OK"], APPENDED], [APPENDED])
    session = RedisStore(hand, patience=0.1).session(MEMORY, "42")
    agreed = replace(TERMS, ttl=ttl)
    await session.append(agreed, batch(), Caller())
    for later in (pause, 0.1, pause):
        now += later
        await session.append(agreed, batch(), Caller())
    assert hand.sent == [["index", "append"], ["append"], ["index", "append"], ["append"]]


@pytest.mark.asyncio
async def test_a_session_that_expired_is_noted_again() -> None:
    hand = Hand([[b"OK"], APPENDED], [[b"NOSESSION"]], [[b"OK"], APPENDED])
    session = RedisStore(hand, patience=0.1).session(MEMORY, "42")
    await session.append(TERMS, batch(), Caller())
    await session.append(TERMS, batch(), Caller())
    assert hand.sent == [["index", "append"], ["append"], ["index", "append"]]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("left", "sent"),
    [
        pytest.param(
            [[2, 3, 4, 5, 6, 7], [3, 4, 5, 6, 7], [4, 5, 6, 7], [5, 6, 7], [6, 7], [7]],
            5,
            id="again",
        ),
        pytest.param([[2, 3], [2, 3]], 2, id="the same records, which are others by now"),
        pytest.param([[8, 9], [8, 9]], 2, id="none of them"),
    ],
)
async def test_a_splice_is_tried_five_times_at_most_and_only_with_fewer_records(
    left: list[list[int]], sent: int
) -> None:
    hand = Hand(*([[b"CHANGED", seqs]] for seqs in left), [[b"OK", 1, 1, 1, 1, 0]])
    session = RedisStore(hand, patience=0.1).session(MEMORY, "42")
    records = [(seq, b"[1,0,%d,0,%d,null,1]" % (seq, seq)) for seq in range(1, 8)]
    rules = [(seq, "FIFO") for seq, _ in records]
    assert not (await session.splice(TERMS, Splice("flusher", 99, rules, records))).done
    assert hand.sent == [["splice"]] * sent


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["", "1f" * 16])
async def test_only_an_append_with_an_id_is_repeated(key: str) -> None:
    hand = Hand(Broken("x"), [[b"OK"], [b"DUPLICATE", 1, 1, 5, 99]])
    session = RedisStore(hand, patience=0.1).session(MEMORY, "42")
    if key:
        assert (await session.append(TERMS, batch(key=key), Caller())).duplicate
    else:
        with pytest.raises(AmbiguousWrite):
            await session.append(TERMS, batch(key=key), Caller())


@pytest.mark.asyncio
async def test_records_that_had_vanished_are_told_of() -> None:
    hand = Hand([[None] * 4, *UNMEASURED], [[b"OK"], TORN])
    store = RedisStore(hand, patience=0.1)
    async with Client(store, policy=SPEC) as client:
        done = await client.memory("support").session("42").append("hi")
    assert done.warnings == (
        (
            "records of this session had vanished from the store, and the counters were rebuilt: "
            "use the maxmemory policy noeviction"
        ),
    )


@pytest.mark.asyncio
async def test_records_that_cannot_be_read_are_left_out_and_told_of() -> None:
    log = [stored(1, {"role": "user", "content": "hi"}), b"hello"]
    clock = [b"1700000000", b"0"]
    hand = Hand(
        [[None] * 4, *UNMEASURED],
        [b"OK", *[b"QUEUED"] * 4, [fields(), log, [], clock]],
        [fields(), 0, clock],
        [[]],
    )
    async with Client(RedisStore(hand, patience=0.1), policy=SPEC) as client:
        session = client.memory("support").session("42")
        assert await session.read() == [{"role": "user", "content": "hi"}]
        assert (await session.health()).warnings == (
            "1 records could not be read: something else writes to the session",
        )


@pytest.mark.asyncio
async def test_the_store_closes_what_carries_it() -> None:
    hand = Hand([b"OK"])
    await RedisStore(hand).aclose()
    assert hand.closed


DOCUMENT = [b"1", b"3", b"active", b'{"a":1}']
UNMEASURED: list[list[bytes | None]] = [[None] * 5, [b"1700000000", b"0"]]
"""The rest of the answer: no measurement, and the time."""


@pytest.mark.asyncio
@pytest.mark.parametrize("decoded", [False, True])
async def test_a_policy_document(decoded: bool) -> None:
    reply = [text(value) if decoded else value for value in DOCUMENT]
    document = await RedisStore(Hand([reply, *UNMEASURED])).policy(MEMORY)
    assert document == (3, True, b'{"a":1}', None)


@pytest.mark.asyncio
async def test_a_policy_of_a_memory_that_is_being_deleted() -> None:
    reply = [b"1", b"4", b"deleting", b"{}"]
    document = await RedisStore(Hand([reply, *UNMEASURED])).policy(MEMORY)
    assert document == (4, False, b"{}", None)


@pytest.mark.asyncio
@pytest.mark.parametrize("decoded", [False, True])
async def test_what_was_measured_comes_with_the_policy(decoded: bool) -> None:
    measured = [b"7", b"70", b"900", b"12000", b"1699999990000"]
    usage = [text(value) if decoded else value for value in measured]
    document = await RedisStore(Hand([DOCUMENT, usage, [b"1700000000", b"250000"]])).policy(MEMORY)
    assert document is not None
    assert document.usage == Usage(7, 70, 900, 12000, 1_699_999_990_000, 10_250)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "usage", [[b"7", None, b"900", b"12000", b"1"], [b"7", b"x", b"900", b"12000", b"1"]]
)
async def test_a_measurement_that_is_none_of_ours_is_none(usage: list[bytes | None]) -> None:
    document = await RedisStore(Hand([DOCUMENT, usage, [b"1700000000", b"0"]])).policy(MEMORY)
    assert document is not None
    assert document.usage is None


@pytest.mark.asyncio
async def test_a_clock_that_was_set_back_makes_no_measurement_of_the_future() -> None:
    usage = [b"7", b"70", b"900", b"12000", b"1800000000000"]
    document = await RedisStore(Hand([DOCUMENT, usage, [b"1700000000", b"0"]])).policy(MEMORY)
    assert document is not None
    assert document.usage is not None
    assert document.usage.age == 0


@pytest.mark.asyncio
async def test_no_policy_document() -> None:
    assert await RedisStore(Hand([[None] * 4, *UNMEASURED])).policy(MEMORY) is None


@pytest.mark.asyncio
async def test_a_policy_document_of_a_newer_version() -> None:
    with pytest.raises(ConfigurationError, match=r"have layout 2, this version knows 1: upgrade"):
        await RedisStore(Hand([[b"2", *DOCUMENT[1:]], *UNMEASURED])).policy(MEMORY)
