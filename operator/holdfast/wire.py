"""What goes over HTTP between an agent and the sidecar: bodies, answers, problems, names of headers.

The server (`holdfast_sidecar`) and the client (`connect("http…")`) share it, so neither can speak another
language than the other. Answers that have a type of their own (`AppendResult`, `Page`, `Health`, ...) travel
as that type. Unknown fields are refused in a request, and ignored in an answer: a newer server may say more.
Errors travel as problems: `holdfast.problems`.
"""

from typing import Annotated, Any, Final
from urllib.parse import quote, unquote

import msgspec
from msgspec import UNSET, UnsetType

from holdfast.errors import SessionKeyError
from holdfast.problems import Problem
from holdfast.values import HistoryEntry, Privacy, PrivacyLevel, Summary

JSON: Final = "application/json"
JSON_LINES: Final = "application/jsonl"
EVENT_STREAM: Final = "text/event-stream"
TURN_HEADER: Final = "Holdfast-Turn"
"""Names the turn under which a call is made, by the token that `TurnGrant` gave."""
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
"""The record id, as UTF-8; what a header cannot hold, such as a line break, goes into the body's `id`."""
MAX_BODY: Final = 8 * 1024 * 1024 + 64 * 1024
"""Bytes of a request's body, but for an import's: the 8 MiB of one append, and what is around them."""
NAMED_BY: Final = "by"
"""Query of a session's path: `id` or `fields`, for a caller who wants to be refused where it is the other."""
MESSAGE_FORMAT: Final = "format"
"""Query of a session's path: the format of its messages by name; without it each is known by its shape."""
REPEATED_HEADER: Final = "Holdfast-Repeated"
"""Is there where the answer to the same request was lost: where no ids are remembered, that is in doubt."""
FIXED_SESSION: Final = "-"
"""Stands for the session of a memory whose binding fixes all fields of the key template."""

_Seq = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
_Wait = Annotated[
    str,
    msgspec.Meta(
        pattern="^(0s|[1-9][0-9]{0,6}(ms|s|m|h|d))$", description="A duration; `0s` does not wait."
    ),
]
_Duration = Annotated[str, msgspec.Meta(pattern="^[1-9][0-9]{0,6}(ms|s|m|h|d)$")]


class PrivacyBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """What the caller says of the messages, beside what the policy says; see `Privacy`."""

    persist: bool = True
    level: PrivacyLevel | None = None
    sensitive: tuple[str, ...] = ()
    redacted: bool = False

    def privacy(self) -> Privacy:
        """Return it as the library takes it.

        Raises:
            ConfigurationError: a path is none.
        """
        return Privacy(self.persist, self.level, self.sensitive, self.redacted)


class ReplaceBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Messages, and what holds for all of them; either `message` or `messages` is given.

    Attributes:
        message: one message: any JSON value.
        messages: at most 1,000, stored together or not at all.
        id: makes a retry harmless; the header `Idempotency-Key` says the same.
        role: instead of the one each names.
        pin: never evict them.
        share: name of a share of the policy that they count in.
        privacy: what may not be stored of them.
    """

    message: Any = UNSET
    messages: list[Any] | UnsetType = UNSET
    id: _Id | None = None
    role: _Name | None = None
    pin: bool = False
    share: _Name | None = None
    privacy: PrivacyBody | None = None


class AppendBody(ReplaceBody, forbid_unknown_fields=True, omit_defaults=True):
    """Messages to append; see `ReplaceBody`.

    Attributes:
        group: sequence number of an earlier record that they belong to.
    """

    group: _Seq | None = None


class FlushBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """How to flush: by another strategy than the policy's, or only as a trial."""

    strategy: _Name | None = None
    dry_run: bool = False


class TurnBody(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """How to ask for a turn.

    Attributes:
        wait: how long to wait in line, at most 24h; `0s` does not wait; None is the policy's.
        ttl: how long the turn lives between renewals, at least 3s and at most 1h; None is the policy's.
    """

    wait: _Wait | None = None
    ttl: _Duration | None = None


class TurnState(msgspec.Struct, frozen=True):
    """A turn that is held.

    Attributes:
        fence: the fencing token: an integer that only grows.
        ttl: seconds within which to renew it, or to use it in any call.
    """

    fence: int
    ttl: float


class TurnGrant(TurnState, frozen=True):
    """A turn that was granted just now.

    Attributes:
        token: for the header `Holdfast-Turn`; a secret between this client and the sidecar.
    """

    token: str


class ReadAnswer(msgspec.Struct, frozen=True):
    """Messages as they were appended; `stale`: a copy, because the store did not answer."""

    messages: list[Any]
    stale: bool


class RemovedAnswer(msgspec.Struct, frozen=True):
    """How many messages were removed."""

    removed: int


class PopAnswer(msgspec.Struct, frozen=True):
    """The message that was taken out; `found` is false where there was none, or where it was null."""

    message: Any
    found: bool


class CountsAnswer(msgspec.Struct, frozen=True):
    """How many messages and tokens a session has."""

    messages: int
    tokens: int


class SummariesAnswer(msgspec.Struct, frozen=True):
    """The summaries that a session holds."""

    summaries: list[Summary]


class HistoryAnswer(msgspec.Struct, frozen=True):
    """What left a session."""

    entries: list[HistoryEntry]


class ExplainAnswer(msgspec.Struct, frozen=True):
    """What became of a message."""

    sentence: str


class MemoryInfo(msgspec.Struct, frozen=True):
    """A memory that is served.

    Attributes:
        name: what the agent calls it.
        access: `ReadWrite` or `ReadOnly`.
        template: the key template; None where a session is named by an id.
        fields: those of the template that the caller gives.
        fixed: those that the binding fixes, which are left out.
        problem: why it cannot be used now; then nothing is known of its template.
    """

    name: str
    access: str
    template: str | None
    fields: list[str]
    fixed: list[str]
    problem: Problem | None = None


class MemoriesAnswer(msgspec.Struct, frozen=True):
    """What is served here."""

    memories: list[MemoryInfo]


def fields_text(fields: dict[str, str]) -> str:
    """Return how the fields of a key template are written as one text: `user_id=42,tenant=a%2Cb`.

    No fields give `-`: the session of which the binding fixes all of them.
    """
    return (
        ",".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())
        or FIXED_SESSION
    )


def read_fields(text: str) -> dict[str, str]:
    """Return the fields that a text of `fields_text` has.

    Raises:
        SessionKeyError: it has another form.
    """
    fields: dict[str, str] = {}
    if text == FIXED_SESSION:
        return fields
    for part in text.split(","):
        name, sign, value = part.partition("=")
        if not sign or not name or name in fields:
            raise SessionKeyError(
                "the memory has a key template: name the session as field=value,field=value, with each "
                "value percent-encoded on its own"
            )
        try:
            fields[name] = unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise SessionKeyError("a session key must be valid Unicode text") from None
    return fields


def segment(text: str) -> str:
    """Return a session's id, or the text of its fields, as one segment of a path."""
    return quote(text, safe="")
