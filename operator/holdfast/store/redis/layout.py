"""The names of the keys in Redis and the packing of arguments: here and in the scripts is the layout."""

import hashlib
import struct
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from holdfast.keys import memory_prefix, session_prefix
from holdfast.values import (
    Caller,
    Departed,
    Flag,
    MemoryAddress,
    Part,
    Prepared,
    Remembered,
    Splice,
    Terms,
    range_text,
)

LAYOUT = 1
LABELS = "names"
"""In place of a label's digest: the index of those that there are."""
ID_BYTES = 9
"""Of an id's digest in `:ids`."""
DIGESTS = 2**20
"""The first sequence number of an id is kept times this, plus the content's digest."""
_NAMED = 2 * ID_BYTES + 2
_JSON = msgspec.json.Encoder()
WAKE_SUFFIX = b":w:"


class SessionKeys(NamedTuple):
    """The keys of one session. All in one hash slot."""

    meta: bytes
    log: bytes
    pin: bytes
    ids: bytes
    hist: bytes
    queue: bytes


class MemoryKeys(NamedTuple):
    """The keys of one memory itself."""

    policy: bytes
    owner: bytes
    usage: bytes
    sessions: bytes


def session_keys(memory: MemoryAddress, key: str, prefix: str) -> SessionKeys:
    """Return the keys of a session."""
    # Written out: a walk makes these for every session there is.
    base = session_prefix(memory, key, prefix).encode()
    return SessionKeys(
        base + b":meta",
        base + b":log",
        base + b":pin",
        base + b":ids",
        base + b":hist",
        base + b":q",
    )


def memory_keys(memory: MemoryAddress, prefix: str) -> MemoryKeys:
    """Return a memory's own keys."""
    base = memory_prefix(memory, prefix)
    return MemoryKeys(*(f"{base}:{name}".encode() for name in MemoryKeys._fields))


def mark_key(prefix: str) -> bytes:
    """Return the key of the mark by which the data of a server are known again."""
    return f"{prefix}:{{!backend}}".encode()


def index_keys_of(index: bytes, labels: Sequence[str]) -> list[bytes]:
    """Return the keys in which a session with these labels is noted, and in which they are."""
    return [index, *(label_key_of(index, label) for label in (LABELS, *labels) if labels)]


def label_key_of(index: bytes, label: str) -> bytes:
    """Return the key of a label's index, by that of the memory's index and the label's digest."""
    return b"%b:label:%b" % (index.removesuffix(b":sessions"), label.encode())


_TERMS = struct.Struct("<13d")
_CALLER = struct.Struct("<ddB")
_HEAD = struct.Struct("<ddd")
_PART = struct.Struct("<8d")
_SUMMARY = struct.Struct("<dd")
_SCORE = struct.Struct("<d")


def pack_terms(terms: Terms) -> bytes:
    """Pack the numbers of a policy into the one argument that the scripts take."""
    return _TERMS.pack(
        terms.revision,
        terms.max_tokens,
        terms.max_messages,
        terms.refuse,
        terms.ttl,
        terms.after_clear,
        terms.after_flush,
        terms.max_lifetime,
        terms.refresh,
        terms.lease,
        terms.grant,
        terms.enforced,
        terms.max_ids,
    )


def pack_caller(
    caller: Caller, *, create: bool, again: bool = False, labels: Sequence[str] = ()
) -> bytes:
    """Pack what a caller knows.

    Args:
        caller: epoch, highest sequence number seen, lease.
        create: the session may begin.
        again: the call may have been carried out before.
        labels: digests to note in the session.
    """
    token = caller.token.encode()
    if labels:
        token = "".join(labels).encode() + b"|" + token
    bits = create + 2 * again + 4 * bool(labels) + 8 * caller.sure
    return _CALLER.pack(caller.epoch, caller.seen, bits) + token


def pack_id(key: str) -> bytes:
    """Pack the key of an id, as of a `Batch`: what names its field, and what stands there of it."""
    if len(key) not in (0, 32):
        raise ValueError("the key of an id has 32 hexadecimal digits")
    return key[-2:].encode() + bytes.fromhex(key[: 2 * ID_BYTES])


def pack_record(record: Prepared) -> tuple[bytes, bytes]:
    """Pack one message: what the script reads, and the rest of the record as it will be stored."""
    head = _HEAD.pack(record.tokens, record.flags, record.group)
    if record.opens or record.closes:
        head += f"{','.join(record.opens)}|{','.join(record.closes)}".encode()
    own_id = b"null" if record.id is None else _JSON.encode(record.id)
    if record.notes is None:
        return head, b",%b,%b]" % (own_id, record.body)
    return head, b",%b,%b,%b]" % (own_id, record.body, _JSON.encode(record.notes))


def pack_splice(splice: Splice, there: Collection[int]) -> list[bytes | str | int]:
    """Pack a splice, with the digest of those of its records that are believed to be there."""
    names = sorted({rule for _, rule in splice.rules})
    covered = ",".join(f"{seq}:{names.index(rule) + 1}" for seq, rule in splice.rules)
    # Summaries are in the list of the protected, which the script reads behind the others.
    records = sorted(
        (is_summary(record), seq, record) for seq, record in splice.records if seq in there
    )
    digest = hashlib.sha1(b"".join(record for *_, record in records), usedforsecurity=False)
    head = rest = b""
    if splice.summary is not None:
        head = _SUMMARY.pack(splice.summary.tokens, splice.summary.flags)
        _, rest = pack_record(splice.summary)
    joined = "|".join(names)
    return [splice.token, splice.epoch, joined, covered, digest.hexdigest(), head, rest]


def pack_part(part: Part) -> list[bytes | str]:
    """Pack a part of an import."""
    # Where only one digit of an id's field is known, the field's name has no more.
    short = any(len(one.key) < _NAMED for one in part.ids)
    held = _PART.pack(
        part.epoch,
        part.version,
        part.messages,
        part.last_seq,
        part.dropped,
        part.anew,
        short,
        len(part.history),
    )
    ids = b"".join(_pack_remembered(one) for one in part.ids)
    opened = ",".join(f"{call}:{group}" for call, group in part.opened.items())
    records = [record.encoded() for record in part.records]
    history = [_pack_departed(entry) for entry in part.history]
    return [held, ids, opened, ",".join(part.answered), *history, *records]


def _pack_remembered(one: Remembered) -> bytes:
    digits = 2 * ID_BYTES
    name, own_id = one.key[digits:].ljust(2, "0"), bytes.fromhex(one.key[:digits])
    return name.encode() + own_id + _SCORE.pack(one.seq * DIGESTS + one.digest)


def _pack_departed(one: Departed) -> bytes:
    """Pack an entry as `lib/history.lua` writes it."""
    return _JSON.encode((*one[:-1], range_text(one.ranges)))


def is_summary(record: bytes) -> bool:
    """Tell from a stored record whether it is a summary."""
    return bool(int(record[1:].split(b",", 2)[1]) & Flag.SUMMARY)
