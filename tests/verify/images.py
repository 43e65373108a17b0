"""A session as it is stored, read past the library in one transaction."""

import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

from holdfast.values import Flag
from tests.harness.meta import Meta

STATE = ("meta", "log", "pin", "ids", "hist")
"""The keys of a session that have its one expiry."""
_MARKER = re.compile(rb"m:([\w.-]+)")
_SUMMARY = re.compile(rb"s:([\w.-]+)")
_KEY = re.compile(rb"^mem:\{([^}]+)\}:(.+)$")
_NEVER, _ABSENT = -1, -2


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored record.

    Attributes:
        marker: of the message, or of the summary.
        size: of its text in bytes.
    """

    tokens: int
    flags: int
    seq: int
    group: int
    marker: str
    size: int

    @property
    def summary(self) -> bool:
        """Whether it is a summary."""
        return bool(self.flags & Flag.SUMMARY)


@dataclass(frozen=True, slots=True)
class Past:
    """An entry of the history of a session.

    Attributes:
        seqs: sequence numbers of what left; None where only the first and the last are known.
    """

    rule: str
    first: int
    last: int
    seqs: Collection[int] | None


@dataclass(frozen=True, slots=True)
class Image:
    """A session at one moment.

    Attributes:
        session: `profile/name`.
        at: nanoseconds: it was so at this moment or before.
        meta: its counters; None where it has none.
        log: records that may be evicted, as they stand in their list.
        pin: those that may not.
        past: its history.
        expiries: of the keys in `STATE` that exist, milliseconds since 1970; -1: never.
    """

    session: str
    at: int
    meta: Meta | None
    log: Sequence[Entry] = ()
    pin: Sequence[Entry] = ()
    past: Sequence[Past] = ()
    expiries: Mapping[str, int] | None = None

    @property
    def entries(self) -> list[Entry]:
        """All records, by their numbers."""
        return sorted([*self.log, *self.pin], key=lambda entry: entry.seq)


async def take_image(raw: Redis, namespace: str, session: str) -> Image:
    """Read a session in one transaction, from the server that has it."""
    base = f"mem:{{{namespace}/{session}}}:"
    pipe = raw.pipeline(transaction=True)
    pipe.hgetall(base + "meta")
    for name in ("log", "pin", "hist"):
        pipe.lrange(base + name, 0, -1)
    for name in STATE:
        pipe.pexpiretime(base + name)
    meta, log, pin, hist, *times = await pipe.execute()
    return Image(
        session,
        time.monotonic_ns(),
        Meta.read(meta) if b"k" in meta else None,  # for a while an erasure leaves its mark
        [_entry(record) for record in log],
        [_entry(record) for record in pin],
        [_past(record) for record in hist],
        {name: at for name, at in zip(STATE, times, strict=True) if at != _ABSENT},
    )


async def sessions_of(raw: Redis, namespace: str) -> set[str]:
    """Name the sessions that have a key on this server."""
    found: set[str] = set()
    async for key in raw.scan_iter(f"mem:{{{namespace}/*", count=1000):
        match = _KEY.match(key)
        assert match is not None, f"no key of ours: {key!r}"
        if match[1].count(b"/") == 2:
            found.add(match[1].decode().partition("/")[2])
    return found


async def immortal_keys(raw: Redis, namespace: str) -> list[str]:
    """Name the keys on this server that never expire."""
    keys = [key async for key in raw.scan_iter(f"mem:{{{namespace}/*", count=1000)]
    found: list[str] = []
    for first in range(0, len(keys), 500):
        part = keys[first : first + 500]
        pipe = raw.pipeline(transaction=False)
        for key in part:
            pipe.pexpiretime(key)
        times = await pipe.execute()
        found += [key.decode() for key, at in zip(part, times, strict=True) if at == _NEVER]
    return sorted(found)


def _entry(record: bytes) -> Entry:
    tokens, flags, seq, _, group, *_ = msgspec.json.decode(record)
    pattern = _SUMMARY if flags & Flag.SUMMARY else _MARKER
    found = pattern.search(record)
    return Entry(tokens, flags, seq, group, found[1].decode() if found else "", len(record))


def _past(entry: bytes) -> Past:
    _, rule, first, last, _, _, _, ranges = msgspec.json.decode(entry)
    if not ranges:
        return Past(rule, first, last, None)
    seqs: set[int] = set()
    for part in ranges.split(","):
        low, _, high = part.partition("-")
        seqs.update(range(int(low), int(high or low) + 1))
    return Past(rule, first, last, seqs)


def markers_in(items: Sequence[Any]) -> list[str]:
    """Return the markers of the messages among what a read returned; of a summary its own, as `s:`."""
    found: list[str] = []
    for item in items:
        text = item["content"].encode()
        summary = _SUMMARY.search(text)
        if summary is not None:
            found.append(f"s:{summary[1].decode()}")
            continue
        message = _MARKER.search(text)
        found.append(message[1].decode() if message is not None else "")
    return found
