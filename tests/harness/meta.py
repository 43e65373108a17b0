"""The fields of a session's `:meta` as the layout has them: stated a second time, so that a change shows."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Self

COUNTERS: Final = struct.Struct("<8d")
SLOW: Final = struct.Struct("<5B2H5d")
RULES: Final = ("", "ttl", "afterClear", "afterFlush", "maxLifetime", "lease", "buried")


class Lease(NamedTuple):
    """Field `l`; no token: nobody holds the turn. `until` in milliseconds since 1970."""

    token: str
    until: int
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What the fields say; all of it, so that two of them are the same only if all fields are.

    Times are in milliseconds since 1970, the epoch in microseconds. `ids` is how many digits name a
    field of the remembered ids, `id` the number of the next one, `known` how many are known. `others`
    are the fields that are text and read on demand: the holder, open tool calls, interrupted turns.
    """

    next: int = 1
    tokens: int = 0
    messages: int = 0
    size: int = 0
    version: int = 0
    dropped: int = 0
    pinned: int = 0
    pinned_tokens: int = 0
    layout: int = 1
    rule: str = "ttl"
    ids: int = 0
    joined: bool = False
    hist: bool = False
    id: int = 0
    known: int = 0
    epoch: int = 0
    created: int = 0
    revision: int = 0
    expires_at: int = 0
    touched: int = 0
    lease: Lease | None = None
    others: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def read(cls, fields: Mapping[bytes, bytes]) -> Self:
        """Read the reply of HGETALL; a value that has another form is an error."""
        next_, tokens, messages, size, version, dropped, pinned, pinned_tokens = _whole(
            COUNTERS.unpack(fields[b"k"])
        )
        slow = _whole(SLOW.unpack(fields[b"s"]))
        layout, rule, ids, joined, hist, id_, known, *slow = slow
        epoch, created, revision, expires_at, touched = slow
        others = {name: value for name, value in fields.items() if name not in (b"k", b"s", b"l")}
        return cls(
            next=next_,
            tokens=tokens,
            messages=messages,
            size=size,
            version=version,
            dropped=dropped,
            pinned=pinned,
            pinned_tokens=pinned_tokens,
            layout=layout,
            rule=RULES[rule],
            ids=(0, 1, 2)[ids],
            joined=bool((0, 1)[joined]),
            hist=bool((0, 1)[hist]),
            id=id_,
            known=known,
            epoch=epoch,
            created=created,
            revision=revision,
            expires_at=expires_at,
            touched=touched,
            lease=_read_lease(fields[b"l"]) if b"l" in fields else None,
            others={name.decode(): value.decode() for name, value in others.items()},
        )

    def fields(self) -> dict[bytes, bytes]:
        """Return the fields as they stand in the server."""
        fields = {
            b"k": COUNTERS.pack(
                self.next,
                self.tokens,
                self.messages,
                self.size,
                self.version,
                self.dropped,
                self.pinned,
                self.pinned_tokens,
            ),
            b"s": SLOW.pack(
                self.layout,
                RULES.index(self.rule),
                self.ids,
                self.joined,
                self.hist,
                self.id,
                self.known,
                self.epoch,
                self.created,
                self.revision,
                self.expires_at,
                self.touched,
            ),
        }
        if self.lease is not None:
            fields[b"l"] = "{}|{}|{}".format(*self.lease).encode()
        return fields | {name.encode(): value.encode() for name, value in self.others.items()}


def revision_of(slow: bytes) -> int:
    """Return the policy's revision out of field `s`."""
    return _whole(SLOW.unpack(slow))[9]


def _whole(numbers: tuple[float, ...]) -> list[int]:
    whole = [int(number) for number in numbers]
    assert whole == list(numbers), "a number of the session is not whole"
    return whole


def _read_lease(value: bytes) -> Lease:
    token, until, fence = value.decode().split("|")
    return Lease(token, int(until), int(fence))
