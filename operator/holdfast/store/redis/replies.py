"""What the server's answers mean: records, counters, and one table from refusals to errors."""

import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, NoReturn

import msgspec
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)

from holdfast.errors import (
    AccessDenied,
    CorruptRecord,
    HoldfastError,
    ScriptsMissing,
    StoreUnavailable,
    UnknownKeys,
)
from holdfast.store import refusals
from holdfast.store.protocol import StalePolicy
from holdfast.store.redis.layout import LAYOUT
from holdfast.values import Caller, Lease, Status, Stored

_RECORDS = msgspec.json.Decoder(list[Stored])
_RECORD = msgspec.json.Decoder(Stored)
_BY_SEQ = attrgetter("seq")
_UNREADABLE = (msgspec.DecodeError, ValueError, RecursionError)  # nested deeper than any of ours

META_FIELDS = (b"k", b"s", b"x", b"l", b"p", b"h")
_STORED = re.compile(r"WRONGTYPE|CORRUPT|user_script:\d+: ")
PASSING = (BusyLoadingError, ClusterDownError, TryAgainError)


def records_in_order(*lists: Sequence[bytes | str]) -> tuple[list[Stored], int]:
    """Decode lists of stored records and merge them by sequence number.

    Returns the records, and how many could not be read: those are left out.
    """
    raw = [text for part in lists for text in part]
    try:
        if raw and isinstance(raw[0], str):  # a caller's own client may decode
            raw = [text.encode() if isinstance(text, str) else text for text in raw]
        records = _RECORDS.decode(b"[" + b",".join(raw) + b"]")  # pyright: ignore[reportArgumentType]
        corrupt = 0
    except _UNREADABLE:
        records, corrupt = _one_by_one(raw)
    if len(lists) > 1 and lists[0] and lists[1]:
        records.sort(key=_BY_SEQ)
    return records, corrupt


def _one_by_one(raw: Sequence[bytes | str]) -> tuple[list[Stored], int]:
    records: list[Stored] = []
    for text in raw:
        try:
            records.append(_RECORD.decode(text))
        except _UNREADABLE:
            continue
    return records, len(raw) - len(records)


def text(value: bytes | str | None) -> str:
    """Return a reply as text, whether the client decoded it or not."""
    if value is None:
        return ""
    return value.decode() if isinstance(value, bytes) else value


def _holder(value: bytes | str | None) -> str | None:
    """Return a holder's name, which was cut to a number of bytes; None for nobody's."""
    name = value.decode(errors="replace") if isinstance(value, bytes) else value
    return name or None


def _numbers(value: bytes | str | None, count: int) -> list[int]:
    if value is None:
        return [0] * count
    return [int(part) for part in value.split(b"|" if isinstance(value, bytes) else "|")]  # pyright: ignore[reportArgumentType]


def read_status(fields: Sequence[bytes | str | None], *, now: int, waiting: int = 0) -> Status:
    """Read the fields of `META_FIELDS`.

    Args:
        fields: their values; None where missing.
        now: the server's time, milliseconds since 1970.
        waiting: callers in line for the turn.

    Raises:
        UnknownKeys: a newer version wrote them.
        CorruptRecord: something else did.
    """
    try:
        layout = int(text(fields[1] or b"0").partition("|")[0])
        if layout > LAYOUT:
            raise _newer_layout(layout)
        return _status(fields, now, waiting)
    except ValueError as error:
        raise CorruptRecord(
            "the counters of the session do not have their form: something else wrote to the "
            "session. Remove its keys"
        ) from error


def _status(fields: Sequence[bytes | str | None], now: int, waiting: int) -> Status:
    counters, slow, expiry, lease, protected, holder = fields
    following, tokens, messages, size, version, dropped = _numbers(counters, 6)
    _, epoch, _, _, revision = _numbers(slow, 5)
    expires_at, _, rule = text(expiry).split("|") if expiry is not None else ("0", "0", "")
    token, until, fence = text(lease).split("|") if lease is not None else ("", "0", "0")
    pinned, pinned_tokens, _ = _numbers(protected, 3)
    held = token != "" and int(until) > now
    return Status(
        exists=counters is not None,
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
        expires_at=int(expires_at),
        expiry_rule=rule,
        lease=Lease(_holder(holder), (int(until) - now) / 1000, int(fence)) if held else None,
        lease_token=token if held else "",
        waiting=waiting,
    )


def milliseconds(time: Sequence[bytes | str]) -> int:
    """Return the reply of TIME in milliseconds since 1970."""
    return int(time[0]) * 1000 + int(time[1]) // 1000


def _lost(reply: Sequence[Any], caller: Caller) -> HoldfastError:
    return refusals.acknowledged_lost(int(reply[1]) + 1, caller.seen)


def _lease_lost(_reply: Sequence[Any], _caller: Caller) -> HoldfastError:
    return refusals.lease_lost()


def _busy(reply: Sequence[Any], _caller: Caller) -> HoldfastError:
    return refusals.busy(_holder(reply[2]), int(reply[1]) / 1000)


def _newer_layout(layout: int) -> HoldfastError:
    return UnknownKeys(
        f"the session was written by a newer version (layout {layout}): upgrade holdfast"
    )


REFUSALS: dict[str, Callable[[Sequence[Any], Caller], HoldfastError]] = {
    "BUSY": _busy,
    "CONFLICT": lambda reply, _: refusals.conflict(int(reply[1])),
    "EPOCH": _lease_lost,
    "FULL": lambda reply, _: refusals.full(int(reply[1]), int(reply[2])),
    "LAYOUT": lambda reply, _: _newer_layout(reply[1]),
    "LEASELOST": _lease_lost,
    "NORECORD": lambda _reply, _: refusals.no_record(),
    "NOROOM": lambda _reply, _: refusals.no_room(),
    "REGRESSED": _lost,
    "STALEPOLICY": lambda reply, _: StalePolicy(int(reply[1])),
}


def accept(reply: Sequence[Any], caller: Caller) -> str:
    """Return a script's first word if it is an answer; raise what it means if it is a refusal."""
    word = text(reply[0])
    make = REFUSALS.get(word)
    if make is not None:
        raise make(reply, caller)
    return word


def concerns_keys(error: Exception) -> bool:
    """Whether what is stored under the command's own keys is the fault, so that others may well work.

    Besides what the scripts themselves say, a script that stumbles over what it read.
    """
    return _STORED.search(str(error)) is not None


def raise_for(error: Exception) -> NoReturn:
    """Raise what an error reply means. Nothing was written, or the script said so itself."""
    message = str(error)
    if isinstance(error, NoPermissionError) or message.startswith("ACL"):
        raise AccessDenied(
            "the credentials do not allow this call: check the binding's access and memory"
        ) from error
    if isinstance(error, OutOfMemoryError):
        raise StoreUnavailable(
            "the server is out of memory and refuses writes: free some or raise maxmemory"
        ) from error
    if isinstance(error, ReadOnlyError):
        raise StoreUnavailable("the server is a read-only replica, as during a failover") from error
    if isinstance(error, PASSING) or message.startswith("BUSY"):
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
