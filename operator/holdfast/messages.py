"""From a caller's message to what a store keeps: checked, encoded, counted, its tool calls found."""

import asyncio
import hashlib
import json
import re
from collections.abc import Sequence
from itertools import accumulate
from typing import cast

import msgspec

from holdfast.errors import BudgetExceeded, MessageInvalid, MessageTooLarge
from holdfast.formats import JSON, Facts, read_facts
from holdfast.tokens import MESSAGE_OVERHEAD, TokenCounter, count_texts
from holdfast.values import Batch, Flag, Prepared, Terms

MAX_ITEMS = 1000
MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 256  # of lists and dicts within each other: few enough for any reader's call stack
_LOOP_CHARACTERS = 16 * 1024  # longer texts are counted off the event loop
_MAX_ID = 512
_LEAD = "lead"
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - _STEPS.keys())


def call_digest(call_id: str) -> str:
    """Return the digest under which an open tool call is remembered: 16 hexadecimal digits."""
    raw = call_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


_LEAD_DIGEST = hashlib.blake2b(_LEAD.encode(), digest_size=8, person=b"leads").hexdigest()


def calls_of(facts: Facts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the digests of the calls that an item opens and closes.

    An item that leads opens a call of its own, which the next item of the assistant closes if it is
    there: so the two stay in one group.
    """
    opens = tuple(call_digest(call) for call in facts.opens)
    closes = tuple(call_digest(call) for call in facts.closes)
    if facts.leads:
        opens += (_LEAD_DIGEST,)
    if facts.follows:
        closes += ("?" + _LEAD_DIGEST,)
    return opens, closes


def encode_item(item: JSON) -> bytes:
    """Encode an item as compact JSON that reads back equal.

    Raises:
        MessageInvalid: it is no JSON value: NaN, bytes, a date, a key that is no string, a lone
            surrogate; or it is nested more than `MAX_DEPTH` levels deep.
    """
    try:
        body = msgspec.json.encode(item)
        same = msgspec.json.decode(body) == item
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        raise _invalid(error) from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise _too_deep()
    if not same:
        _require_json(item, body)
    return body


def _depth(body: bytes) -> int:
    """Count the levels of lists and dicts in JSON text."""
    brackets = _TEXT.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _require_json(item: JSON, body: bytes) -> None:
    """Accept what differs only in Python's eyes, such as a tuple for a list; refuse the rest."""
    try:
        strict = json.loads(json.dumps(item, allow_nan=False))
    except RecursionError:
        raise _too_deep() from None
    except (TypeError, ValueError) as error:
        raise _invalid(error) from None
    if strict != msgspec.json.decode(body) or _has_other_keys(item):
        raise _invalid(TypeError("a key that is not text"))


def _has_other_keys(item: object) -> bool:
    todo = [item]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            members = cast("dict[object, object]", value)
            if not all(isinstance(key, str) for key in members):
                return True
            todo += members.values()
        elif isinstance(value, list | tuple):
            todo += cast("Sequence[object]", value)
    return False


def _too_deep() -> MessageInvalid:
    return MessageInvalid(
        f"the message is nested more than {MAX_DEPTH} levels deep: a reader could not decode it; "
        "flatten it, or give the inner part as text"
    )


def _invalid(error: Exception) -> MessageInvalid:
    return MessageInvalid(
        f"the message is not a JSON value ({type(error).__name__}): give dicts with text keys, lists, "
        "text, finite numbers, booleans and null; call `.model_dump()` or the like on objects of an SDK"
    )


class Preparer:
    """Prepares the messages of one memory.

    Args:
        format: the message format by name; None finds it by the message's shape.
    """

    def __init__(self, format: str | None = None) -> None:
        self._format = format
        self._loaded: set[str] = set()
        self.unrecognised = 0

    def facts(self, item: JSON) -> Facts:
        """Read an item's facts in this memory's format."""
        return read_facts(item, self._format)

    async def prepare(
        self,
        items: Sequence[JSON],
        *,
        counter: TokenCounter,
        max_bytes: int,
        terms: Terms,
        id: str | None,
        role: str | None,
        pin: bool,
        group: int | None,
    ) -> Batch:
        """Make a batch of one call's messages. CPU only; long texts are counted in a thread.

        Raises:
            MessageInvalid, MessageTooLarge, BudgetExceeded: before anything is sent.
        """
        if id is not None:
            _require_id(id)
        if group is not None and group < 1:
            raise MessageInvalid("group is the sequence number of an earlier record: 1 or more")
        if len(items) > MAX_ITEMS:
            raise BudgetExceeded(f"a call takes at most {MAX_ITEMS} messages: split it")
        bodies = [encode_item(item) for item in items]
        largest = max(map(len, bodies))
        if largest > max_bytes:
            raise MessageTooLarge(
                f"the message has {largest} bytes of JSON, limits.maxMessageSize is {max_bytes}"
            )
        if sum(map(len, bodies)) > MAX_BYTES:
            raise BudgetExceeded(f"a call takes at most {MAX_BYTES} bytes of JSON: split it")
        records: list[Prepared] = []
        for at, (item, body) in enumerate(zip(items, bodies, strict=True)):
            facts = read_facts(item, self._format, role)
            tokens, exact = await self._count(facts, counter)
            opens, closes = calls_of(facts)
            flags = Flag(0)
            if facts.role in ("system", "developer"):
                flags |= Flag.SYSTEM
            if pin:
                flags |= Flag.PINNED
            if not exact:
                flags |= Flag.INEXACT
            if not facts.recognised:
                flags |= Flag.UNRECOGNISED
                self.unrecognised += 1
            own_id = id if id is None or len(items) == 1 else f"{id}#{at}"
            records.append(Prepared(body, tokens, int(flags), group or 0, opens, closes, own_id))
        _require_room(records, terms)
        if id is None:
            return Batch(tuple(records))
        key = hashlib.blake2b(id.encode(), digest_size=16).hexdigest()
        digest = hashlib.blake2b(b"\n".join(bodies), digest_size=4).digest()
        return Batch(tuple(records), key, int.from_bytes(digest, "big") & 0xFFFFF)

    async def _count(self, facts: Facts, counter: TokenCounter) -> tuple[int, bool]:
        size = sum(map(len, facts.texts))
        if size > _LOOP_CHARACTERS or counter.name not in self._loaded:
            tokens, exact = await asyncio.to_thread(count_texts, counter, facts.texts)
            self._loaded.add(counter.name)
        else:
            tokens, exact = count_texts(counter, facts.texts)
        return tokens + MESSAGE_OVERHEAD + facts.names, exact


def _require_id(id: str) -> None:
    if not 0 < len(id) <= _MAX_ID:
        raise MessageInvalid(f"an id has 1 to {_MAX_ID} characters")
    try:
        id.encode()
    except UnicodeEncodeError:
        raise MessageInvalid("an id must be valid Unicode text") from None


def _require_room(records: Sequence[Prepared], terms: Terms) -> None:
    tokens = sum(record.tokens for record in records)
    if terms.max_tokens and tokens > terms.max_tokens:
        if len(records) == 1:
            raise MessageTooLarge(
                f"the message has {tokens} tokens, the whole session may have {terms.max_tokens}"
            )
        raise BudgetExceeded(
            f"the {len(records)} messages have {tokens} tokens, the whole session may have "
            f"{terms.max_tokens}"
        )
    if terms.max_messages and len(records) > terms.max_messages:
        raise BudgetExceeded(
            f"the call has {len(records)} messages, the whole session may have {terms.max_messages}"
        )
