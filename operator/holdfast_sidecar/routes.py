"""The table of routes: what is served, and all that the OpenAPI document says of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from holdfast.formats import FORMATS
from holdfast.problems import HTTP_KINDS, KINDS
from holdfast.values import (
    AppendResult,
    FlushResult,
    Health,
    ImportResult,
    Page,
    Receipt,
)
from holdfast.wire import (
    EVENT_STREAM,
    JSON,
    JSON_LINES,
    MESSAGE_FORMAT,
    NAMED_BY,
    AppendBody,
    CountsAnswer,
    ExplainAnswer,
    FlushBody,
    HistoryAnswer,
    MemoriesAnswer,
    PopAnswer,
    ReadAnswer,
    RemovedAnswer,
    ReplaceBody,
    SummariesAnswer,
    TurnBody,
    TurnGrant,
    TurnState,
)
from holdfast_sidecar import calls, transfers, turn_calls
from holdfast_sidecar.answers import Answer, Stream
from holdfast_sidecar.requests import Query, Request
from holdfast_sidecar.service import Service

Handler = Callable[[Service, Request], Awaitable[Answer | Stream]]

_LABEL: Final = Query(
    "label",
    str,
    "A label of the session as `name:value`, noted with what is written; up to 16 of them.",
    least=3,
    most=1025,
    many=True,
    example="team:red",
)
_BY: Final = Query(
    NAMED_BY,
    str,
    "What `session` is taken for; without it, what the memory has.",
    choices=("id", "fields"),
)
_FORMAT: Final = Query(
    MESSAGE_FORMAT,
    str,
    "The format of the messages; without it, each is known by its shape.",
    choices=tuple(sorted(one.name for one in FORMATS)),
)
_FORCE: Final = Query(
    "force", bool, "Even while somebody else holds a turn that the policy enforces."
)
_DRY: Final = Query("dry_run", bool, "Say what would go, and remove nothing.")

_EVERY: Final = ("RequestInvalid", "OriginRefused", "NotAcceptable", "HeadersTooLarge")
_ALWAYS: Final = (*_EVERY, "InternalError", "Overloaded")
_MEMORY: Final = (
    *_ALWAYS,
    "Starting",
    "ConfigurationError",
    "MemoryNotFound",
    "PolicyNotFound",
    "AccessDenied",
    "StoreUnavailable",
    "PolicyInvalid",
    "ScriptsMissing",
    "ServerTooOld",
    "UnknownKeys",
    "CorruptRecord",
)
_SESSION: Final = (*_MEMORY, "SessionKeyError")
_READ: Final = (*_SESSION, "LeaseLost", "TurnInterrupted")
_CHANGE: Final = (
    *_READ,
    "SessionBusy",
    "AcknowledgedLost",
    "AmbiguousWrite",
)
_BODY: Final = ("RequestTooSlow", "BodyTooLarge", "MediaTypeUnsupported")
_STORE: Final = (
    *_CHANGE,
    *_BODY,
    "MessageInvalid",
    "MessageTooLarge",
    "BudgetExceeded",
    "QuotaExceeded",
    "IdempotencyConflict",
    "TokenCountFailed",
    "NotDurable",
)


@dataclass(frozen=True, slots=True)
class Route:
    """A route.

    Attributes:
        method: HTTP's.
        path: segments, those in braces being parameters.
        operation: its name, for generated clients.
        handler: answers.
        summary: a line.
        answer: type of the answer; None without a body, `str` for a stream of lines.
        problems: codes that it may answer with.
        status: when all is well.
        kinds: media types of the answer.
        body: type of the request's body; None without one, `str` for a stream of lines.
        optional: the body may be left out.
        query: parameters.
        under: it may be made under a turn.
        keyed: it takes an `Idempotency-Key`.
        waits: it may take long, and counts as a turn instead of a request.
        example: a body.
    """

    method: str
    path: str
    operation: str
    handler: Handler
    summary: str
    answer: Any
    problems: tuple[str, ...]
    status: int = 200
    kinds: tuple[str, ...] = (JSON,)
    body: Any = None
    optional: bool = False
    query: tuple[Query, ...] = ()
    under: bool = False
    keyed: bool = False
    waits: bool = False
    example: Any = None

    def __post_init__(self) -> None:
        """Refuse a code that there is not."""
        assert all(code in KINDS or code in HTTP_KINDS for code in self.problems)


_M: Final = "/v1/memories/{memory}"
_S: Final = f"{_M}/sessions/{{session}}"
_HI: Final = {"message": {"role": "user", "content": "hi"}}


def _data(  # noqa: PLR0917 - a row of the table
    method: str,
    part: str,
    operation: str,
    handler: Handler,
    summary: str,
    answer: Any,
    problems: tuple[str, ...],
    *,
    query: tuple[Query, ...] = (),
    **more: Any,
) -> Route:
    """Return a route on a session, that may be called under a turn."""
    known = (*query, _LABEL, _BY, _FORMAT)
    more = {"under": True} | more
    return Route(
        method, _S + part, operation, handler, summary, answer, problems, query=known, **more
    )


ROUTES: Final = (
    Route(
        "GET",
        "/v1/memories",
        "listMemories",
        calls.memories,
        "List the memories that are served, and how their sessions are named.",
        MemoriesAnswer,
        (*_ALWAYS, "Starting"),
    ),
    _data(
        "POST",
        "/messages",
        "appendMessages",
        calls.append,
        "Append one message, or several together.",
        AppendResult,
        _STORE,
        body=AppendBody,
        keyed=True,
        example=_HI,
    ),
    _data(
        "PUT",
        "/messages",
        "replaceMessages",
        calls.replace,
        "Put messages in the place of all that there are, as one change.",
        AppendResult,
        _STORE,
        body=ReplaceBody,
        keyed=True,
        example={"messages": [_HI["message"]]},
    ),
    _data(
        "GET",
        "/messages",
        "readMessages",
        calls.read,
        "Read messages as a model takes them, or the newest ones exactly as stored.",
        ReadAnswer,
        (*_READ, "BudgetTooSmall"),
        query=(
            Query("limit", int, "The newest so many, exactly as stored.", example=20),
            Query("max_tokens", int, "The newest whole groups that fit; not with `limit`."),
            Query("after", int, "Only those with a higher sequence number."),
        ),
    ),
    _data(
        "DELETE",
        "/messages",
        "clearMessages",
        calls.clear,
        "Remove all messages; ids stay known, and the turn of anybody else ends.",
        RemovedAnswer,
        _CHANGE,
        query=(_FORCE,),
    ),
    _data(
        "POST",
        "/pop",
        "popMessage",
        calls.pop,
        "Take the newest message out.",
        PopAnswer,
        _CHANGE,
    ),
    _data(
        "GET",
        "/records",
        "readRecords",
        calls.records,
        "Read a page of exactly what is stored.",
        Page,
        _READ,
        query=(
            Query("after", int, "The page before's `next`."),
            Query("limit", int, "How many; 100 by default.", least=1, most=1000),
            Query("used", bool, "False only looks: what is shown does not count as used."),
        ),
    ),
    _data(
        "PUT",
        "/records/{seq}/pin",
        "pinRecord",
        calls.pin,
        "Never evict a message and what belongs to it.",
        None,
        (*_CHANGE, "RecordNotFound"),
        status=204,
    ),
    _data(
        "DELETE",
        "/records/{seq}/pin",
        "unpinRecord",
        calls.unpin,
        "Let a message be evicted again.",
        None,
        (*_CHANGE, "RecordNotFound"),
        status=204,
    ),
    _data(
        "GET",
        "/counts",
        "countMessages",
        calls.counts,
        "Count messages and tokens.",
        CountsAnswer,
        _READ,
    ),
    _data(
        "GET",
        "",
        "getSession",
        calls.health,
        "Say the state of the session: counts, expiry, policy, and who holds the turn.",
        Health,
        _READ,
    ),
    _data(
        "POST",
        "/flush",
        "flushSession",
        calls.flush,
        "Take the session down to its target now, or say what would leave.",
        FlushResult,
        (*_CHANGE, *_BODY, "SummaryFailed", "TokenCountFailed"),
        body=FlushBody,
        optional=True,
        example={"dry_run": True},
    ),
    _data(
        "GET",
        "/summaries",
        "listSummaries",
        calls.summaries,
        "Read the summaries that stand for what left.",
        SummariesAnswer,
        _READ,
    ),
    _data(
        "GET",
        "/history",
        "listHistory",
        calls.history,
        "Read what left the session, when and by which rule; never what it said.",
        HistoryAnswer,
        _READ,
    ),
    _data(
        "GET",
        "/explain",
        "explainMessage",
        calls.explain,
        "Say in a sentence what became of a message.",
        ExplainAnswer,
        _READ,
        query=(
            Query("id", str, "That it was appended with.", least=1, most=512),
            Query("seq", int, "Its sequence number, instead.", example=1),
        ),
    ),
    _data(
        "GET",
        "/export",
        "exportSession",
        transfers.export,
        "Export the session as lines of JSON: a header, then each record.",
        str,
        _SESSION,
        query=(Query("name", bool, "The header says the session's key."),),
        kinds=(JSON_LINES,),
        under=False,
    ),
    _data(
        "POST",
        "/import",
        "importSession",
        transfers.import_,
        "Take in what an export gave.",
        ImportResult,
        (
            *_CHANGE,
            *_BODY,
            "ImportRefused",
            "BudgetExceeded",
            "QuotaExceeded",
            "MessageTooLarge",
        ),
        body=str,
        under=False,
    ),
    _data(
        "DELETE",
        "",
        "eraseSession",
        calls.erase,
        "Remove all that is kept of the session, with a receipt.",
        Receipt,
        _CHANGE,
        query=(_FORCE,),
        under=False,
    ),
    Route(
        "DELETE",
        f"{_M}/sessions",
        "eraseSessions",
        calls.erase_labelled,
        "Erase all sessions that carry all of these labels.",
        Receipt,
        (*_MEMORY, "SessionBusy", "AmbiguousWrite"),
        query=(_LABEL, _DRY, _FORCE),
    ),
    _data(
        "POST",
        "/turns",
        "acquireTurn",
        turn_calls.acquire,
        "Wait for the turn. As an event stream it is bound to the connection: `granted`, then a sign of "
        "life now and then, and `lost` or `interrupted` if it ends by itself.",
        TurnGrant,
        (
            *_CHANGE,
            *_BODY,
            "QuotaExceeded",
            "TooManyTurns",
            "ShuttingDown",
        ),
        status=201,
        kinds=(JSON, EVENT_STREAM),
        body=TurnBody,
        optional=True,
        under=False,
        waits=True,
        example={"wait": "30s"},
    ),
    _data(
        "PUT",
        "/turns/{token}",
        "renewTurn",
        turn_calls.renew,
        "Ask the store whether the turn is held, and lengthen it.",
        TurnState,
        (*_READ, "AmbiguousWrite"),
        under=False,
    ),
    _data(
        "DELETE",
        "/turns/{token}",
        "releaseTurn",
        turn_calls.release,
        "Give the turn to the next in line. Also when it is over already.",
        None,
        _SESSION,
        status=204,
        under=False,
    ),
    Route(
        "GET",
        "/openapi.json",
        "getDocument",
        calls.document,
        "Read this document.",
        dict,
        _ALWAYS,
    ),
)
"""Every route of the data listeners but for `/mcp`."""
