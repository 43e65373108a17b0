"""From a caller's message to what a store keeps: checked, encoded, counted, its tool calls found."""

import asyncio
import hashlib
import json
import re
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import cast

import msgspec

from holdfast.arguments import MOST, is_whole, require_id, require_messages, require_privacy
from holdfast.counting import OwnCounter
from holdfast.errors import BudgetExceeded, ConfigurationError, MessageInvalid, MessageTooLarge
from holdfast.formats import JSON, Facts, read_facts
from holdfast.policy import Policy
from holdfast.privacy import Redactor, Screening
from holdfast.tokens import MESSAGE_OVERHEAD, TokenCounter, count_texts
from holdfast.values import Batch, Flag, Notes, Prepared, Privacy, Terms

MAX_ITEMS = 1000
MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 256  # of lists and dicts within each other: few enough for any reader's call stack
_LOOP_CHARACTERS = 16 * 1024  # longer texts are counted off the event loop
_LEAD = "lead"
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - _STEPS.keys())


def call_digest(call_id: str) -> str:
    """Return the digest under which an open tool call is remembered: 16 hexadecimal digits."""
    raw = call_id.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(raw, digest_size=8).hexdigest()


_LEAD_DIGEST = hashlib.blake2b(_LEAD.encode(), digest_size=8, person=b"leads").hexdigest()
_LEADING = (_LEAD_DIGEST,)
_FOLLOWING = ("?" + _LEAD_DIGEST,)


def id_key(id: str) -> str:
    """Return the digest under which an id is remembered: 32 hexadecimal digits."""
    return hashlib.blake2b(id.encode(), digest_size=16).hexdigest()


def calls_of(facts: Facts) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the digests of the calls that an item opens and closes.

    An item that leads opens a call of its own, which the next item of the assistant closes if it is
    there: so the two stay in one group.
    """
    opens = tuple(map(call_digest, facts.opens))
    closes = tuple(map(call_digest, facts.closes))
    if facts.leads:
        opens += _LEADING
    if facts.follows:
        closes += _FOLLOWING
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
    if _is_too_deep(body):
        raise _too_deep()
    if not same:
        _require_json(item, body)
    return body


def encode_items(items: Sequence[JSON], *, id: str | None, group: int | None) -> list[bytes]:
    """Encode the messages of one call, whose options are checked before.

    Raises:
        MessageInvalid: they are no list, a message is no JSON value, the id cannot be one, or the group
            is no number.
        BudgetExceeded: there are more than 1,000.
    """
    require_messages(items)
    if id is not None:
        require_id(id)
    if group is not None and not is_whole(group, 1):
        raise MessageInvalid(
            f"group is the sequence number of an earlier record: a whole number, 1..{MOST}"
        )
    if len(items) > MAX_ITEMS:
        raise BudgetExceeded(f"a call takes at most {MAX_ITEMS} messages: split it")
    return [encode_item(item) for item in items]


def _is_too_deep(body: bytes) -> bool:
    """Tell whether JSON text has more than `MAX_DEPTH` levels of lists and dicts."""
    # Each has two brackets; most messages are too short for so many, or have too few.
    if len(body) <= 2 * MAX_DEPTH or body.count(b"[") + body.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _TEXT.sub(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH


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


def require_share(policy: Policy, share: str | None) -> None:
    """Accept no share of the token allocation, or one that the policy names.

    Raises:
        ConfigurationError: the policy has no share of that name.
    """
    if share is None:
        return
    allocation = policy.token_allocation
    names = [] if allocation is None else [each.name for each in allocation.user_defined]
    if share not in names:
        have = ", ".join(names) or "none"
        raise ConfigurationError(
            f"tokenAllocation.userDefined has no share {share!r}; there is {have}"
        )


class Draft(msgspec.Struct, frozen=True, gc=False):
    """What one call's messages became, ready to be sent.

    Attributes:
        batch: what may be stored; without records when nothing may.
        redacted: values or parts of texts that were replaced.
        withheld: messages whose content is not stored.
        warnings: sentences about what the caller should know.
    """

    batch: Batch
    redacted: int = 0
    withheld: int = 0
    warnings: tuple[str, ...] = ()


class _Kept(msgspec.Struct, frozen=True, gc=False):
    """One message as it may be stored.

    Attributes:
        at: its place in the call.
        body: what is stored.
        facts: of what is stored.
        came: of what came, which says what belongs together: no redaction parts a result from its call.
        places: how many values or parts of texts were replaced.
    """

    at: int
    body: bytes
    facts: Facts
    came: Facts
    places: int = 0


class _Screened(msgspec.Struct, frozen=True, gc=False):
    """What may be stored of one call's messages, and what is said of the rest; see `Draft`."""

    kept: Sequence[_Kept]
    redacted: int = 0
    withheld: int = 0
    warnings: tuple[str, ...] = ()


class Preparer:
    """Prepares the messages of one memory.

    Args:
        format: the message format by name; None finds it by the message's shape.
    """

    def __init__(self, format: str | None = None) -> None:
        self.format = format
        self._loaded: set[str] = set()
        self.unrecognised = 0
        self.redacted = 0
        self.withheld = 0

    def facts(self, item: JSON) -> Facts:
        """Read an item's facts in this memory's format."""
        return read_facts(item, self.format)

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
        share: str | None = None,
        redactor: Redactor | None = None,
        privacy: Privacy | None = None,
        critical: Collection[str] = (),
    ) -> Draft:
        """Make a batch of one call's messages. CPU only; long texts are handled in a thread.

        Redaction comes first: sizes, tokens and everything after are of what may be stored.

        Raises:
            MessageInvalid, MessageTooLarge, BudgetExceeded, TokenCountFailed, ConfigurationError: before
                anything is sent.
        """
        require_privacy(privacy)
        bodies = encode_items(items, id=id, group=group)
        if privacy is not None and not privacy.persist:
            return Draft(Batch(()), withheld=len(items))
        screening = redactor.screening(privacy) if redactor is not None else None
        screened = await self._storable(items, bodies, role, screening, max_bytes)
        level = privacy.level if privacy is not None else None
        records: list[Prepared] = []
        total = 0
        for each in screened.kept:
            tokens, exact = await self.count(each.facts, counter)
            total += tokens
            opens, closes = calls_of(each.came)
            flags = self._flags(each.came, critical, pin=pin, exact=exact)
            own_id = id if id is None or len(items) == 1 else f"{id}#{each.at}"
            noted = share or level or each.places
            notes = Notes(share, level, each.places) if noted else None
            records.append(
                Prepared(each.body, tokens, flags, group or 0, opens, closes, own_id, notes)
            )
        _require_room(total, len(records), terms)
        key, digest = "", 0
        if id is not None:
            key = id_key(id)
            digest = 0 if screened.redacted or screened.withheld else _digest(bodies)
        batch = Batch(tuple(records), key, digest)
        return Draft(batch, screened.redacted, screened.withheld, screened.warnings)

    def note(self, draft: Draft) -> None:
        """Count what was replaced and withheld, once the rest is stored."""
        self.redacted += draft.redacted
        self.withheld += draft.withheld

    async def _storable(
        self,
        items: Sequence[JSON],
        bodies: Sequence[bytes],
        role: str | None,
        screening: Screening | None,
        max_bytes: int,
    ) -> _Screened:
        """Return what may be stored of the messages, each within its size; long texts in a thread."""
        size = require_total(bodies)
        if screening is None:
            _require_sizes(bodies, max_bytes)
            return self._unchanged(items, bodies, role)
        if size > _LOOP_CHARACTERS:
            screened = await asyncio.to_thread(self._screen, screening, bodies, role)
        else:
            screened = self._screen(screening, bodies, role)
        changed = [each.body for each in screened.kept]
        _require_sizes(changed, max_bytes)
        require_total(changed)
        return screened

    def _unchanged(
        self, items: Sequence[JSON], bodies: Sequence[bytes], role: str | None
    ) -> _Screened:
        kept = [
            _Kept(at, body, facts := read_facts(item, self.format, role), facts)
            for at, (item, body) in enumerate(zip(items, bodies, strict=True))
        ]
        return _Screened(kept)

    def _screen(self, screening: Screening, bodies: Sequence[bytes], role: str | None) -> _Screened:
        """Take out of the messages what must not be stored."""
        kept: list[_Kept] = []
        redacted = withheld = 0
        for at, body in enumerate(bodies):
            item = msgspec.json.decode(body)
            came = read_facts(item, self.format, role)
            done = screening.screen(item, came)
            redacted += done.places
            withheld += done.withheld
            if not done.stored:
                continue
            if done.places or done.withheld:
                facts = read_facts(done.item, self.format, role)
                if screening.sensitive and (facts.opens, facts.closes) != (came.opens, came.closes):
                    raise _parted()
                kept.append(_Kept(at, msgspec.json.encode(done.item), facts, came, done.places))
            else:
                kept.append(_Kept(at, body, came, came))
        return _Screened(kept, redacted, withheld, screening.warnings())

    def _flags(self, facts: Facts, critical: Collection[str], *, pin: bool, exact: bool) -> int:
        flags = 0
        if facts.role in ("system", "developer"):
            flags |= Flag.SYSTEM
        if pin or facts.kind in critical or facts.role in critical:
            flags |= Flag.PINNED
        if not exact:
            flags |= Flag.INEXACT
        if not facts.recognised:
            flags |= Flag.UNRECOGNISED
            self.unrecognised += 1
        return int(flags)

    async def count(self, facts: Facts, counter: TokenCounter) -> tuple[int, bool]:
        """Return the tokens of a message, and whether that is exact."""
        size = sum(map(len, facts.texts))
        if isinstance(counter, OwnCounter):
            tokens, exact = await counter.count_texts(facts.texts)
        elif size > _LOOP_CHARACTERS or counter.name not in self._loaded:
            tokens, exact = await asyncio.to_thread(count_texts, counter, facts.texts)
            self._loaded.add(counter.name)
        else:
            tokens, exact = count_texts(counter, facts.texts)
        return tokens + MESSAGE_OVERHEAD + facts.names, exact


def _digest(bodies: Sequence[bytes]) -> int:
    """Return 20 bits that tell these bodies from others; never 0, which is for not comparing."""
    digest = hashlib.blake2b(b"\n".join(bodies), digest_size=4).digest()
    return int.from_bytes(digest, "big") & 0xFFFFF or 1


def _parted() -> ConfigurationError:
    return ConfigurationError(
        "sensitive names a field that tells which result belongs to which tool call: name the fields "
        "beside or below it"
    )


def require_total(bodies: Sequence[bytes]) -> int:
    """Return how many bytes the messages of one call have.

    Raises:
        BudgetExceeded: more than a call may have.
    """
    total = sum(map(len, bodies))
    if total > MAX_BYTES:
        raise BudgetExceeded(f"a call takes at most {MAX_BYTES} bytes of JSON: split it")
    return total


def _require_sizes(bodies: Sequence[bytes], max_bytes: int) -> None:
    largest = max(map(len, bodies), default=0)
    if largest > max_bytes:
        raise MessageTooLarge(
            f"the message has {largest} bytes of JSON, limits.maxMessageSize is {max_bytes}"
        )


def _require_room(tokens: int, messages: int, terms: Terms) -> None:
    if terms.max_tokens and tokens > terms.max_tokens:
        if messages == 1:
            raise MessageTooLarge(
                f"the message has {tokens} tokens, the whole session may have {terms.max_tokens}"
            )
        raise BudgetExceeded(
            f"the {messages} messages have {tokens} tokens, the whole session may have "
            f"{terms.max_tokens}"
        )
    if terms.max_messages and messages > terms.max_messages:
        raise BudgetExceeded(
            f"the call has {messages} messages, the whole session may have {terms.max_messages}"
        )
