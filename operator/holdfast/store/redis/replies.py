"""What the server's answers mean: records, counters, and one table from refusals to errors."""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, NoReturn, cast

import msgspec
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from holdfast.errors import (
    AccessDenied,
    ConfigurationError,
    CorruptRecord,
    HoldfastError,
    ScriptsMissing,
    StoreUnavailable,
    UnknownKeys,
)
from holdfast.store import refusals
from holdfast.store.protocol import SessionVanished, StalePolicy
from holdfast.store.redis.carrier import Broken, Reply
from holdfast.store.redis.layout import LAYOUT
from holdfast.values import Caller, Departed, Lease, Snapshot, Status, Stored, Terms, Usage

_RECORDS = msgspec.json.Decoder(list[Stored])
_RECORD = msgspec.json.Decoder(Stored)
_ENTRY = msgspec.json.Decoder(tuple[int, str, int, int, int, int, int, str])
_BY_SEQ = attrgetter("seq")
MALFORMED = (ValueError, IndexError, OverflowError, struct.error)
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)  # nested deeper than any of ours

META_FIELDS = (b"k", b"s", b"l", b"h")
_COUNTERS = struct.Struct("<8d")
SLOW = struct.Struct("<5B2H5d")
_REVISION = struct.Struct("<d")
_SEEN = slice(struct.calcsize("<5B2H2d"), struct.calcsize("<5B2H3d"))
"""Where the revision is."""
_MOST_HELD = 2**40  # messages, tokens or bytes of a session: so sums of them stay within 64 bits
_TEXT = 32  # no layout has so high a number: the field is text, which something else wrote
_RULES = ("", "ttl", "afterClear", "afterFlush", "maxLifetime", "lease", "buried")
_BURIED = _RULES.index("buried")
USAGE_FIELDS = (b"sessions", b"messages", b"tokens", b"bytes", b"at")
_STORED = re.compile(r"WRONGTYPE|CORRUPT|user_script:\d+: ")
_PASSING = (
    Broken,
    StoreUnavailable,
    BusyLoadingError,
    ClusterDownError,  # also MASTERDOWN
    ReadOnlyError,
    TryAgainError,
)


def records_in_order(*lists: Sequence[bytes]) -> tuple[list[Stored], int]:
    """Decode lists of stored records and merge them by sequence number.

    Returns the records, and how many could not be read: those are left out.
    """
    raw = [record for part in lists for record in part]
    try:
        records, corrupt = _RECORDS.decode(b"[" + b",".join(raw) + b"]"), 0
    except _UNREADABLE:
        records, corrupt = _one_by_one(raw)
    if len(lists) > 1 and lists[0] and lists[1]:
        records.sort(key=_BY_SEQ)
    return records, corrupt


def _one_by_one(raw: Sequence[bytes]) -> tuple[list[Stored], int]:
    records: list[Stored] = []
    for record in raw:
        try:
            records.append(_RECORD.decode(record))
        except _UNREADABLE:
            continue
    return records, len(raw) - len(records)


def text(value: bytes | str | None) -> str:
    """Return a reply as text, whether the client decoded it or not."""
    if value is None:
        return ""
    return value.decode() if isinstance(value, bytes) else value


def named(reply: Any) -> dict[str, Any]:
    """Return what is a map, or in RESP2 a list of names each with its value."""
    if isinstance(reply, dict):
        return {text(name): value for name, value in cast("dict[Any, Any]", reply).items()}
    return {text(name): value for name, value in zip(reply[::2], reply[1::2], strict=True)}


def _holder(value: bytes | None) -> str | None:
    """Return a holder's name, which was cut to a number of bytes; None for nobody's."""
    return value.decode(errors="replace") if value else None


def read_status(fields: Sequence[bytes | None], *, now: int, waiting: int = 0) -> Status:
    """Read the fields of `META_FIELDS`.

    Args:
        fields: their values; None where missing.
        now: the server's time, milliseconds since 1970.
        waiting: callers in line for the turn.

    Raises:
        UnknownKeys: a newer version wrote them.
        CorruptRecord: something else did.
    """
    _require_layout(fields[1])
    try:
        return _status(fields, now, waiting)
    except MALFORMED as error:
        raise corrupt_counters() from error


def read_expiry(slow: bytes) -> tuple[int, int]:
    """Return when a session expires and when it was last renewed, in milliseconds since 1970.

    Args:
        slow: field `s` of its meta.

    Raises:
        UnknownKeys: a newer version wrote it.
        CorruptRecord: something else did.
    """
    _require_layout(slow)
    try:
        *_, expires_at, touched = map(int, SLOW.unpack(slow))
    except MALFORMED as error:
        raise corrupt_counters() from error
    return expires_at, touched


def follower(terms: Terms) -> Callable[[Reply], bool]:
    """Return what tells whether a live session is under these terms, and within their limits.

    It is given the values of `k` and `s` of the session's meta, or what the server said instead. False
    also where in doubt. A walk asks for every session: so it compares the revision as it is stored.

    Args:
        terms: the policy's numbers, with its revision.
    """
    revision = _REVISION.pack(terms.revision)
    limited = terms.max_tokens > 0 or terms.max_messages > 0

    def follows(fields: Reply) -> bool:
        match fields:
            case [bytes(counters), bytes(slow)] if (
                len(slow) == SLOW.size and len(counters) == _COUNTERS.size
            ):
                pass
            case _:
                return False
        if slow[_SEEN] != revision or slow[0] != LAYOUT or slow[1] == _BURIED:
            return False
        if not limited:
            return True
        _, tokens, messages, *_ = _COUNTERS.unpack(counters)
        return (not terms.max_tokens or tokens <= terms.max_tokens) and (
            not terms.max_messages or messages <= terms.max_messages
        )

    return follows


def read_holdings(counters: bytes) -> tuple[int, int, int]:
    """Return the messages, tokens and bytes of a session.

    Args:
        counters: field `k` of its meta, of the right length.

    Raises:
        CorruptRecord: no session can hold as much: a tenant may write any number there.
    """
    _, tokens, messages, size, *_ = _COUNTERS.unpack(counters)
    held = (messages, tokens, size)
    if not all(0 <= one <= _MOST_HELD for one in held):  # neither is it for what is no number
        raise corrupt_counters()
    return int(messages), int(tokens), int(size)


def _require_layout(slow: bytes | None) -> None:
    if slow and slow[0] != LAYOUT:
        raise _other_layout(slow[0])


def corrupt_counters() -> CorruptRecord:
    """Say that something else wrote to what a session is known by."""
    return CorruptRecord(
        "the counters of the session do not have their form: something else wrote to the session. "
        "Remove its keys"
    )


def _status(fields: Sequence[bytes | None], now: int, waiting: int) -> Status:
    counters, slow, lease, holder = fields
    exists = counters is not None
    if not exists:
        counters, slow = bytes(_COUNTERS.size), bytes(SLOW.size)
    following, tokens, messages, size, version, dropped, pinned, pinned_tokens = map(
        int, _COUNTERS.unpack(counters or b"")
    )
    _, rule, *_, epoch, _, revision, expires_at, _ = map(int, SLOW.unpack(slow or b""))
    token, until, fence = text(lease).split("|") if lease is not None else ("", "0", "0")
    held = token != "" and int(until) > now
    return Status(
        exists=exists,
        epoch=epoch,
        last_seq=max(0, following - 1),
        tokens=tokens,
        messages=messages,
        bytes=size,
        version=version,
        dropped=dropped,
        pinned=pinned,
        pinned_tokens=pinned_tokens,
        revision=revision,
        expires_at=expires_at,
        expiry_rule=_RULES[rule],
        lease=Lease(_holder(holder), (int(until) - now) / 1000, int(fence)) if held else None,
        lease_token=token if held else "",
        waiting=waiting,
    )


def read_snapshot(
    fields: Mapping[bytes, bytes], log: Sequence[bytes], pin: Sequence[bytes], *, now: int
) -> Snapshot:
    """Read a session as a plan needs it: all fields of its meta, and both lists.

    Records that cannot be read are left out.
    """
    status = read_status([fields.get(name) for name in META_FIELDS], now=now)
    found: list[tuple[int, Stored, bytes]] = []
    for text in [*log, *pin]:
        try:
            record = _RECORD.decode(text)
        except _UNREADABLE:
            continue
        found.append((record.seq, record, text))
    found.sort(key=itemgetter(0))
    accessed = {
        int(name[2:]): int(value) for name, value in fields.items() if name.startswith(b"a:")
    }
    records, encoded = [one for _, one, _ in found], [one for *_, one in found]
    return Snapshot(status, now, records, encoded, accessed)


def pairs_of(reply: Mapping[bytes, bytes] | Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the reply of HGETALL as a dict, whichever protocol the connection speaks."""
    if isinstance(reply, Mapping):
        return dict(reply)
    return dict(zip(reply[::2], reply[1::2], strict=True))


def read_history(entries: Sequence[bytes]) -> tuple[Departed, ...]:
    """Read the entries of a history; what is none of ours is left out."""
    found: list[Departed] = []
    for entry in entries:
        try:
            at, rule, first, last, count, tokens, summary, ranges = _ENTRY.decode(entry)
        except _UNREADABLE:
            continue
        runs = [run.partition("-") for run in ranges.split(",") if run]
        pairs = tuple((int(low), int(high or low)) for low, _, high in runs)
        found.append(Departed(at, rule, first, last, count, tokens, summary, pairs))
    return tuple(found)


def read_usage(fields: Sequence[bytes | None], *, now: int) -> Usage | None:
    """Read the fields of `USAGE_FIELDS`; None where nothing was measured, or none of ours wrote them.

    Args:
        fields: their values; None where missing.
        now: the server's time, milliseconds since 1970.
    """
    try:
        sessions, messages, tokens, size, at = (int(value or b"") for value in fields)
    except ValueError:
        return None
    return Usage(sessions, messages, tokens, size, at, max(0, now - at))


def milliseconds(time: Sequence[bytes]) -> int:
    """Return the reply of TIME in milliseconds since 1970."""
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _lost(reply: Sequence[Any], caller: Caller) -> HoldfastError:
    return refusals.acknowledged_lost(int(reply[1]) + 1, caller.seen)


def _lease_lost(_reply: Sequence[Any], _caller: Caller) -> HoldfastError:
    return refusals.lease_lost()


def _busy(reply: Sequence[Any], _caller: Caller) -> HoldfastError:
    return refusals.busy(_holder(reply[2]), int(reply[1]) / 1000)


class OlderLayout(CorruptRecord):
    """The session has an older layout. What met it wrote nothing; see `migrating`.

    Never reaches a caller where a step leads on from that layout.
    """


def _other_layout(layout: int) -> HoldfastError:
    if layout < LAYOUT:
        return OlderLayout(corrupt_counters().message)
    if not layout < _TEXT:
        return corrupt_counters()
    return UnknownKeys(
        f"the session was written by a newer version (layout {layout}): upgrade holdfast"
    )


REFUSALS: dict[str, Callable[[Sequence[Any], Caller], HoldfastError]] = {
    "BUSY": _busy,
    "CONFLICT": lambda reply, _: refusals.conflict(int(reply[1])),
    "EPOCH": _lease_lost,
    "ERASED": lambda _reply, _: refusals.erased_meanwhile(),
    "FULL": lambda reply, _: refusals.full(int(reply[1]), int(reply[2])),
    "LAYOUT": lambda reply, _: _other_layout(reply[1]),
    "INTERRUPTED": lambda _reply, _: refusals.turn_interrupted(),
    "LEASELOST": _lease_lost,
    "NORECORD": lambda _reply, _: refusals.no_record(),
    "NOROOM": lambda _reply, _: refusals.no_room(),
    "REGRESSED": _lost,
    "SESSIONS": lambda reply, _: refusals.too_many_sessions(int(reply[1]), int(reply[2])),
    "STALEPOLICY": lambda reply, _: StalePolicy(int(reply[1])),
    "VANISHED": lambda _reply, _: SessionVanished(),
}


def accept(reply: Sequence[Any], caller: Caller) -> str:
    """Return a script's first word if it is an answer; raise what it means if it is a refusal."""
    word = text(reply[0])
    make = REFUSALS.get(word)
    if make is not None:
        raise make(reply, caller)
    return word


def passes(error: Exception) -> bool:
    """Whether a call that got this reply wrote nothing and may fare better in a moment."""
    return isinstance(error, _PASSING) or str(error).startswith(("BUSY", "NOREPLICAS"))


def concerns_keys(error: Exception) -> bool:
    """Whether what is stored under the command's own keys is the fault, so that others may well work.

    Besides what the scripts themselves say, a script that stumbles over what it read.
    """
    return _STORED.search(str(error)) is not None


def refuses_command(error: Exception) -> bool:
    """Whether a server denies a command to these credentials, or does not know it.

    What is raised for nothing in particular counts: each managed service has words of its own.
    """
    return isinstance(error, NoPermissionError) or type(error) is ResponseError


def raise_for(error: Exception) -> NoReturn:
    """Raise what an error reply means. Nothing was written, or the script said so itself."""
    message = str(error)
    if isinstance(error, HoldfastError):  # of one server among several
        raise error
    if isinstance(error, NoPermissionError) or message.startswith("ACL"):
        raise AccessDenied(
            "the credentials do not allow this call: check the binding's access and memory"
        ) from error
    if isinstance(error, AuthenticationError):
        raise AccessDenied(
            "the server wants a user name and a password: give them with the address"
        ) from error
    if isinstance(error, OutOfMemoryError):
        raise StoreUnavailable(
            "the server is out of memory and refuses writes: free some or raise maxmemory"
        ) from error
    if isinstance(error, ReadOnlyError):
        raise StoreUnavailable("the server is a read-only replica, as during a failover") from error
    if message.startswith("NOREPLICAS"):
        raise StoreUnavailable(
            "the server has fewer replicas than it needs to accept writes (min-replicas-to-write)"
        ) from error
    if isinstance(error, AskError):  # also MOVED
        raise ConfigurationError(
            "the server is a node of a Cluster: write its address as redis+cluster://"
        ) from error
    if passes(error):
        raise StoreUnavailable("the server cannot serve now: it loads, moves or is busy") from error
    if "WRONGTYPE" in message:
        raise UnknownKeys(
            "one of the keys holds another data type: something else writes under the same prefix. "
            "Remove the key or choose another keyPrefix"
        ) from error
    if "CORRUPT" in message:
        raise refusals.corrupt_record() from error
    if isinstance(error, NoScriptError):
        raise ScriptsMissing(
            "the server does not have the scripts of this version and these credentials may not load "
            "them: the operator does, check that it runs"
        ) from error
    raise StoreUnavailable(f"the server answered with an error ({type(error).__name__})") from error
