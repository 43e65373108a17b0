"""From a caller's message to what a store keeps: checked, encoded, counted, its calls found."""

import asyncio
import datetime as dt
import decimal
import enum
import json
import math
import threading
import traceback
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from holdfast.errors import BudgetExceeded, ConfigurationError, MessageInvalid, MessageTooLarge
from holdfast.formats import Facts, Kind
from holdfast.messages import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_ITEMS,
    Preparer,
    call_digest,
    calls_of,
    encode_item,
)
from holdfast.planning import group_records
from holdfast.tokens import APPROXIMATE, MESSAGE_OVERHEAD, Count, TokenCounter, counter
from holdfast.values import Batch, Flag, Prepared, Refresh, Terms
from tests.harness.waiting import until

SECRET = "s3cret-content"
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | UNICODE
)
ITEMS = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(UNICODE, inner, max_size=5),
    max_leaves=20,
)


Around = Callable[[Any], Any]


def itself(item: Any) -> Any:
    return item


def in_a_list(item: Any) -> Any:
    return [item]


def in_a_tuple(item: Any) -> Any:
    return (item,)


def deep_inside(item: Any) -> Any:
    return {"a": ({"b": [item]},)}


def nested(levels: int) -> Any:
    """A list in a list in a list."""
    item: Any = "x"
    for _ in range(levels):
        item = [item]
    return item


# --- the JSON text


@given(ITEMS)
@example({"a": [1, 1.0, True, None, -0.0, 0, "", {}, []]})
@example([2**64, -(2**63) - 1, 10**300, 5e-324, 1.7976931348623157e308])
@example('\u2028\u2029\x00\x7f\\"/😀é')
@example({"": {"": ""}})
def test_an_item_reads_back_as_it_came(item: Any) -> None:
    body = encode_item(item)
    # Compared as text, since 1, 1.0 and True are equal in Python and are not in JSON.
    assert json.dumps(msgspec.json.decode(body)) == json.dumps(item)
    assert json.loads(body) == item


class Pair(NamedTuple):
    one: int
    other: int


class Role(enum.StrEnum):
    USER = "user"


class Level(enum.IntEnum):
    HIGH = 3


class Members(dict[str, int]):
    pass


@pytest.mark.parametrize(
    ("item", "body"),
    [
        ((1, (2, 3)), b"[1,[2,3]]"),
        ({"a": (1,)}, b'{"a":[1]}'),
        (Pair(1, 2), b"[1,2]"),
        (OrderedDict([("b", 1), ("a", 2)]), b'{"b":1,"a":2}'),
        (Members(a=1), b'{"a":1}'),
        ({Role.USER: Role.USER}, b'{"user":"user"}'),
        ([Level.HIGH], b"[3]"),
        ({"a": True}, b'{"a":true}'),
    ],
)
def test_what_python_writes_as_json_may_differ_in_type(item: Any, body: bytes) -> None:
    assert encode_item(item) == body


class Plain(enum.Enum):
    A = "a"


@dataclass
class Message:
    content: str


class Struct(msgspec.Struct):
    content: str


class Strange:
    pass


NO_JSON = {
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "bytes": SECRET.encode(),
    "bytearray": bytearray(SECRET.encode()),
    "datetime": dt.datetime(2031, 2, 28, tzinfo=dt.UTC),
    "date": dt.date(2031, 2, 28),
    "timedelta": dt.timedelta(1),
    "uuid": uuid.UUID(int=7),
    "decimal": decimal.Decimal(1),
    "set": {SECRET},
    "frozenset": frozenset([SECRET]),
    "enum": Plain.A,
    "dataclass": Message(SECRET),
    "struct": Struct(SECRET),
    "object": Strange(),
    "function": len,
    "range": range(3),
    "raw": msgspec.Raw(b'{"a":1}'),
    "int key": {1: SECRET},
    "bool key": {True: SECRET},
    "float key": {1.5: SECRET},
    "null key": {None: SECRET},
    "tuple key": {("a",): SECRET},
    "two keys that look alike": {1: SECRET, "1": SECRET},
    "lone surrogate": f"{SECRET}\ud800",
    "lone surrogate in a key": {f"{SECRET}\udfff": 1},
    "int with too many digits": 10**5000,
}


@pytest.mark.parametrize("item", NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize(
    "around", [itself, in_a_list, in_a_tuple, deep_inside], ids=lambda around: around.__name__
)
def test_what_is_no_json_is_refused_and_not_shown(item: Any, around: Around) -> None:
    with pytest.raises(MessageInvalid, match=r"^the message is not a JSON value \(") as refusal:
        encode_item(around(item))
    assert SECRET not in "".join(traceback.format_exception(refusal.value))


def test_a_message_that_holds_itself_is_refused() -> None:
    item: list[Any] = []
    item.append(item)
    with pytest.raises(MessageInvalid, match="nested"):
        encode_item(item)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize("around", [itself, deep_inside], ids=lambda around: around.__name__)
def test_what_a_reader_could_not_decode_is_refused(levels: int, around: Around) -> None:
    with pytest.raises(MessageInvalid, match=f"nested more than {MAX_DEPTH} levels"):
        encode_item(around(nested(levels)))


def test_what_is_nested_less_is_read_from_any_stack() -> None:
    items: list[Any] = [
        nested(MAX_DEPTH),
        {"a": '\\"[{' * 10_000},
        "[{" * 10_000,
        [[{}] * 200] * 200,
    ]
    bodies = [encode_item(item) for item in items]

    def read_below(frames: int) -> None:
        if frames:
            read_below(frames - 1)
        else:
            assert [encode_item(msgspec.json.decode(body)) for body in bodies] == bodies

    read_below(500)


# --- tool calls


@given(UNICODE, UNICODE)
def test_a_call_is_remembered_under_16_digits(one: str, other: str) -> None:
    assert len(call_digest(one)) == 16
    assert set(call_digest(one)) <= set("0123456789abcdef")
    assert (call_digest(one) == call_digest(other)) == (one == other)


def test_a_call_may_have_any_text_for_an_id() -> None:
    assert call_digest("\ud800") != call_digest("\udfff") != call_digest("")


def test_calls_and_results_name_the_same_digest() -> None:
    opens, _ = calls_of(Facts("assistant", Kind.TOOL_CALL, opens=("a", "b")))
    _, closes = calls_of(Facts("tool", Kind.TOOL_RESULT, closes=("b",)))
    assert opens == (call_digest("a"), call_digest("b"))
    assert closes == opens[1:]


def test_who_leads_opens_what_who_follows_may_close() -> None:
    opens, nothing = calls_of(Facts("assistant", Kind.REASONING, leads=True))
    none, closes = calls_of(Facts("assistant", Kind.MESSAGE, follows=True))
    assert (nothing, none) == ((), ())
    assert closes == tuple(f"?{digest}" for digest in opens)
    assert len(opens) == 1
    assert call_digest("lead") not in opens, "a caller's id could answer for a thought"


REASONING: dict[str, Any] = {"type": "reasoning", "id": "rs_1", "summary": []}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "rain"}
USER = {"role": "user", "content": "hi"}
ANSWER = {"role": "assistant", "content": "hello"}


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("items", "groups"),
    [
        ([USER, ANSWER], [1, 2]),
        ([CALL, RESULT], [1, 1]),
        ([REASONING, CALL, RESULT], [1, 1, 1]),
        ([REASONING, ANSWER, USER], [1, 1, 3]),
        ([REASONING, REASONING, CALL, RESULT], [1, 1, 1, 1]),
        ([ANSWER, REASONING, USER], [1, 2, 3]),
        ([CALL, USER, RESULT], [1, 2, 1]),
        ([RESULT, CALL], [1, 2]),
    ],
)
async def test_items_that_belong_together_are_one_group(
    items: list[Any], groups: list[int]
) -> None:
    batch = await prepare(*items)
    found = group_records(
        batch.records, first=1, waiting={}, group_of=lambda _: None, is_protected=lambda _: False
    )
    assert found.groups == groups


# --- preparing a call


def terms(*, tokens: int = 0, messages: int = 0) -> Terms:
    return Terms(
        revision=0,
        max_tokens=tokens,
        max_messages=messages,
        refuse=False,
        ttl=1000,
        after_clear=0,
        after_flush=0,
        max_lifetime=0,
        refresh=Refresh.WRITE,
        lease=30_000,
        grant=2000,
        enforced=False,
        max_ids=256,
    )


async def prepare(
    *items: Any,
    preparer: Preparer | None = None,
    by: TokenCounter | None = None,
    limits: Terms | None = None,
    max_bytes: int = 1 << 22,
    id: str | None = None,
    role: str | None = None,
    pin: bool = False,
    group: int | None = None,
) -> Batch:
    draft = await (preparer or Preparer()).prepare(
        items,
        counter=by or counter(APPROXIMATE),
        max_bytes=max_bytes,
        terms=limits or terms(),
        id=id,
        role=role,
        pin=pin,
        group=group,
    )
    return draft.batch


async def prepare_one(item: Any, **options: Any) -> Prepared:
    [record] = (await prepare(item, **options)).records
    return record


@pytest.mark.asyncio
async def test_the_item_is_kept_as_it_came() -> None:
    record = await prepare_one({"role": "user", "content": "hi", "unknown": [1.0, None]})
    assert record.body == b'{"role":"user","content":"hi","unknown":[1.0,null]}'
    assert (record.group, record.opens, record.closes, record.id) == (0, (), (), None)


@pytest.mark.asyncio
async def test_tokens_are_those_of_the_texts_and_of_the_frame() -> None:
    texts = {"role": "user", "content": "x" * 40}
    assert (await prepare_one(texts)).tokens == 10 + MESSAGE_OVERHEAD
    named = await prepare_one(texts | {"name": "abcd"})
    assert named.tokens == 10 + 1 + 1 + MESSAGE_OVERHEAD


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("item", "options", "flags"),
    [
        (USER, {}, Flag.INEXACT),
        (USER, {"by": counter("o200k_base")}, 0),
        (USER, {"pin": True}, Flag.INEXACT | Flag.PINNED),
        (USER, {"role": "system"}, Flag.INEXACT | Flag.SYSTEM),
        (USER, {"role": "developer", "pin": True}, Flag.INEXACT | Flag.SYSTEM | Flag.PINNED),
        (USER | {"role": "system"}, {}, Flag.INEXACT | Flag.SYSTEM),
        (USER | {"role": "system"}, {"role": "user"}, Flag.INEXACT),
        ("just text", {}, Flag.INEXACT | Flag.UNRECOGNISED),
        ("just text", {"role": "system"}, Flag.INEXACT | Flag.UNRECOGNISED | Flag.SYSTEM),
    ],
)
async def test_the_flags_say_what_is_known(item: Any, options: Any, flags: int) -> None:
    assert (await prepare_one(item, **options)).flags == flags


@pytest.mark.asyncio
async def test_what_no_format_reads_is_counted_as_such() -> None:
    preparer = Preparer()
    await prepare(USER, "text", 7, preparer=preparer)
    assert preparer.unrecognised == 2
    chat = Preparer("chat")
    await prepare(CALL, preparer=chat)
    assert chat.unrecognised == 1


@pytest.mark.asyncio
async def test_the_group_goes_with_every_record() -> None:
    batch = await prepare(USER, USER, group=7)
    assert [record.group for record in batch.records] == [7, 7]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("given_", "field"), [("role", "no role"), ("format", "no message format")]
)
async def test_a_role_and_a_format_there_is_none_of(given_: str, field: str) -> None:
    preparer = Preparer("prose" if given_ == "format" else None)
    with pytest.raises(ConfigurationError, match=field):
        await prepare(USER, preparer=preparer, role="boss" if given_ == "role" else None)


# --- ids


@pytest.mark.asyncio
async def test_without_an_id_nothing_is_remembered() -> None:
    batch = await prepare(USER, USER)
    assert (batch.key, batch.digest) == ("", 0)
    assert [record.id for record in batch.records] == [None, None]


@pytest.mark.asyncio
async def test_an_id_is_the_records_own_or_of_the_whole_call() -> None:
    assert [record.id for record in (await prepare(USER, id="req")).records] == ["req"]
    batch = await prepare(USER, USER, USER, id="req")
    assert [record.id for record in batch.records] == ["req#0", "req#1", "req#2"]


@pytest.mark.asyncio
async def test_a_retry_has_the_same_digest_and_another_message_has_another() -> None:
    first, again = await prepare(USER, ANSWER, id="req"), await prepare(USER, ANSWER, id="req")
    assert (first.key, first.digest) == (again.key, again.digest)
    others = [
        await prepare(USER, id="req"),
        await prepare(ANSWER, USER, id="req"),
        await prepare(USER, USER | {"content": "hi!"}, id="req"),
    ]
    assert {batch.key for batch in others} == {first.key}
    assert len({first.digest, *(batch.digest for batch in others)}) == 4


@pytest.mark.asyncio
@pytest.mark.parametrize("id", ["a", "x" * 512, "\x00", '"],[1,2\n', "é" * 512])
async def test_any_text_is_an_id(id: str) -> None:
    batch = await prepare(USER, id=id)
    assert len(batch.key) == 32
    assert set(batch.key) <= set("0123456789abcdef")
    assert 0 <= batch.digest < 1 << 20


@pytest.mark.asyncio
@pytest.mark.parametrize("id", ["\ud800", "a\udfffb"])
async def test_an_id_is_valid_unicode(id: str) -> None:
    with pytest.raises(MessageInvalid, match="an id must be valid Unicode text"):
        await prepare(USER, id=id)


@pytest.mark.asyncio
@pytest.mark.parametrize("id", ["", "x" * 513])
async def test_an_id_is_neither_empty_nor_endless(id: str) -> None:
    with pytest.raises(ValueError, match="an id is text of 1 to 512 characters"):
        await prepare(USER, id=id)


def test_ids_that_differ_have_keys_that_differ() -> None:
    async def keys() -> set[str]:
        ids = ["a", "A", "a ", "a#0", "\u00e9", "e\u0301"]
        return {(await prepare(USER, id=name)).key for name in ids}

    assert len(asyncio.run(keys())) == 6


# --- limits, checked before anything is sent


class Uncounted:
    """A counter that must not be asked."""

    name = "uncounted"

    def count(self, text: str) -> Count:
        raise AssertionError("counted before it was checked")


@pytest.mark.asyncio
async def test_a_call_takes_a_thousand_messages() -> None:
    assert len((await prepare(*[7] * MAX_ITEMS)).records) == MAX_ITEMS
    with pytest.raises(BudgetExceeded, match=r"at most 1000 messages"):
        await prepare(*[7] * (MAX_ITEMS + 1), by=Uncounted())


@pytest.mark.asyncio
async def test_a_message_may_be_as_large_as_the_policy_says() -> None:
    await prepare("x" * 98, max_bytes=100)
    with pytest.raises(MessageTooLarge, match=r"101 bytes of JSON, limits.maxMessageSize is 100"):
        await prepare("fits", "x" * 99, max_bytes=100, by=Uncounted())
    with pytest.raises(MessageTooLarge):
        await prepare("é" * 50, max_bytes=100, by=Uncounted())


@pytest.mark.asyncio
async def test_a_call_takes_eight_mebibytes() -> None:
    half = "x" * (MAX_BYTES // 2 - 2)
    limits = terms(tokens=10**9)
    assert len((await prepare(half, half, limits=limits)).records) == 2
    with pytest.raises(BudgetExceeded, match="at most 8388608 bytes"):
        await prepare(half, half, 7, by=Uncounted())


@pytest.mark.asyncio
async def test_what_the_whole_session_could_not_hold_is_refused() -> None:
    text = "x" * 40  # read as text of an unknown format: with its quotes 11 tokens, and the frame
    fits = terms(tokens=15)
    assert (await prepare_one(text, limits=fits)).tokens == 15
    with pytest.raises(MessageTooLarge, match="has 16 tokens, the whole session may have 15"):
        await prepare(text + "xxx", limits=fits)
    with pytest.raises(BudgetExceeded, match=r"the 2 messages have 30 tokens, .* may have 29"):
        await prepare(text, text, limits=terms(tokens=29))
    assert len((await prepare(text, text, limits=terms(tokens=30))).records) == 2


@pytest.mark.asyncio
async def test_more_messages_than_the_session_may_have_are_refused() -> None:
    assert len((await prepare(1, 2, limits=terms(messages=2))).records) == 2
    with pytest.raises(BudgetExceeded, match="has 3 messages, the whole session may have 2"):
        await prepare(1, 2, 3, limits=terms(messages=2))


@pytest.mark.asyncio
async def test_what_is_no_json_is_refused_before_anything_is_counted() -> None:
    with pytest.raises(MessageInvalid):
        await prepare(USER, {"content": b"x"}, by=Uncounted())


# --- where counting happens


class Watching:
    """A counter that notes on which threads it is asked."""

    name = "watching"

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []

    def count(self, text: str) -> Count:
        self.threads.append(threading.current_thread())
        return Count(1, exact=True)


@pytest.mark.asyncio
async def test_long_texts_and_the_first_one_are_counted_off_the_loop() -> None:
    watching, preparer = Watching(), Preparer()
    loop_thread = threading.current_thread()
    for size in (1, 2, 16 * 1024, 16 * 1024 + 1, 3):
        await prepare(USER | {"content": "x" * size}, by=watching, preparer=preparer)
    on_loop = [thread is loop_thread for thread in watching.threads]
    assert on_loop == [False, True, True, False, True]


@pytest.mark.asyncio
async def test_many_short_texts_of_one_message_count_together() -> None:
    watching, preparer = Watching(), Preparer()
    await prepare(USER, by=watching, preparer=preparer)
    parts = [{"type": "text", "text": "x" * 1000}] * 17
    await prepare({"role": "user", "content": parts}, by=watching, preparer=preparer)
    assert threading.current_thread() not in watching.threads[1:]


class Stuck:
    """A counter that needs the event loop to go on."""

    name = "stuck"

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.free = threading.Event()

    def count(self, text: str) -> Count:
        self.begun.set()
        assert self.free.wait(30), "the event loop stood still"
        return Count(1, exact=True)


@pytest.mark.asyncio
async def test_the_loop_goes_on_while_a_long_text_is_counted() -> None:
    stuck = Stuck()
    call = asyncio.create_task(prepare({"role": "user", "content": "x" * 20_000}, by=stuck))
    await until(stuck.begun.is_set, "counting began")
    stuck.free.set()
    assert (await call).records[0].tokens == 1 + MESSAGE_OVERHEAD
