"""The ids that a session in Redis remembers; `lib/ids.lua` says how they are kept."""

import struct
from collections.abc import Mapping, Sequence

from holdfast.store.redis.layout import DIGESTS, ID_BYTES
from holdfast.store.redis.replies import MALFORMED, SLOW, corrupt_counters
from holdfast.values import Remembered

_ID = struct.Struct(f"<{ID_BYTES}s7sH")
_NUMBERS = 2**16


def read_id(
    entries: Sequence[bytes | None], fields: Sequence[bytes | None], digest: bytes
) -> tuple[int, int] | None:
    """Find an id among the entries of both fields that it may be in; `lib/ids.lua` says what they are.

    Returns its first sequence number and the digest of its content, or None where it is not known.
    The counters were read before, by `read_status`.
    """
    slow = fields[1]
    if fields[0] is None or slow is None:
        return None
    _, _, digits, _, _, following, known, *_ = map(int, SLOW.unpack(slow))
    try:
        held = (entries[digits - 1] if digits else None) or b""
        for own, score, number in _ID.iter_unpack(held):
            if own == digest and (following - number) % _NUMBERS <= known:
                return divmod(int.from_bytes(score, "little"), DIGESTS)
    except MALFORMED as error:
        raise corrupt_counters() from error
    return None


def read_ids(held: Mapping[bytes, bytes], fields: Sequence[bytes | None]) -> tuple[Remembered, ...]:
    """Return all ids that are known, oldest first.

    Args:
        held: all fields of `:ids`.
        fields: the counters, read before by `read_status`.

    Raises:
        CorruptRecord: something else wrote to them.
    """
    slow = fields[1]
    if fields[0] is None or slow is None:
        return ()
    _, _, digits, _, _, following, known, *_ = map(int, SLOW.unpack(slow))
    found: list[tuple[int, Remembered]] = []
    try:
        for name, entries in held.items():
            if len(name) != digits:
                continue
            for own, score, number in _ID.iter_unpack(entries):
                age = (following - number) % _NUMBERS
                if 0 < age <= known:
                    seq, digest = divmod(int.from_bytes(score, "little"), DIGESTS)
                    found.append((-age, Remembered(own.hex() + name.decode(), seq, digest)))
    except MALFORMED as error:
        raise corrupt_counters() from error
    found.sort()
    return tuple(one for _, one in found)
