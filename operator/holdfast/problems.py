"""Errors as they travel over HTTP: problem documents (RFC 9457).

A problem carries the error's code and attributes; `problem_of` makes it from an error of the library,
`error_of` makes the error again. No problem holds content or a secret.
"""

import math
from typing import Any, Final, NamedTuple

import msgspec

from holdfast import errors
from holdfast.errors import HoldfastError

PROBLEM_TYPE: Final = "urn:holdfast:problem:"
PROBLEM_JSON: Final = "application/problem+json"


class Problem(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A problem document. What follows `session` are attributes of the error of this `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    memory: str | None = None
    session: str | None = None
    holder: str | None = None
    remaining: float | None = None
    place: int | None = None
    quota: str | None = None
    used: int | None = None
    hard: int | None = None
    needed: int | None = None
    first: int | None = None
    last: int | None = None
    seq: int | None = None
    line: int | None = None
    path: str | None = None
    reason: str | None = None
    retry_after: float | None = None


class Kind(NamedTuple):
    """What a code means over HTTP.

    Attributes:
        error: the error that a client raises.
        status: of the answer.
        title: the same for every problem of this code.
        attributes: of the error that the problem carries.
    """

    error: type[HoldfastError]
    status: int
    title: str
    attributes: tuple[str, ...] = ()


KINDS: Final = {
    kind.error.code: kind
    for kind in (
        Kind(errors.ConfigurationError, 400, "What was given cannot work"),
        Kind(errors.PolicyInvalid, 400, "A policy breaks a rule", ("path", "reason", "line")),
        Kind(errors.MessageInvalid, 400, "The message is no JSON value"),
        Kind(errors.SessionKeyError, 400, "The session cannot be called so"),
        Kind(errors.AccessDenied, 403, "The call is not allowed"),
        Kind(errors.MemoryNotFound, 404, "No such memory"),
        Kind(errors.PolicyNotFound, 404, "The memory has no policy"),
        Kind(errors.RecordNotFound, 404, "No such record"),
        Kind(
            errors.SessionBusy,
            409,
            "Somebody else holds the turn",
            ("holder", "remaining", "place"),
        ),
        Kind(errors.AcknowledgedLost, 409, "The store lost messages", ("first", "last")),
        Kind(errors.ImportRefused, 409, "The lines cannot be imported", ("line",)),
        Kind(errors.MessageTooLarge, 413, "The message is too large"),
        Kind(errors.IdempotencyConflict, 422, "The id is known with another content"),
        Kind(errors.BudgetExceeded, 422, "The call does not fit"),
        Kind(errors.BudgetTooSmall, 422, "max_tokens is too small", ("needed",)),
        Kind(errors.LeaseLost, 423, "The turn is over"),
        Kind(errors.TurnInterrupted, 423, "Somebody else took the turn"),
        Kind(errors.QuotaExceeded, 429, "A quota is used up", ("quota", "used", "hard")),
        Kind(errors.AmbiguousWrite, 502, "Written or not, nobody knows"),
        Kind(errors.SummaryFailed, 502, "The summary failed"),
        Kind(errors.TokenCountFailed, 502, "Tokens could not be counted"),
        Kind(errors.CorruptRecord, 502, "A stored record is broken"),
        Kind(errors.UnknownKeys, 502, "A stored key is none of ours"),
        Kind(errors.StoreUnavailable, 503, "The store does not answer", ("retry_after",)),
        Kind(errors.ScriptsMissing, 503, "The store lacks our scripts"),
        Kind(errors.ServerTooOld, 503, "The store is too old"),
        Kind(errors.NotDurable, 504, "Written, but not confirmed by replicas", ("seq",)),
    )
}
"""Every error of the library, by its code."""

HTTP_KINDS: Final = {
    "RequestInvalid": Kind(errors.ConfigurationError, 400, "The request cannot be read"),
    "OriginRefused": Kind(errors.AccessDenied, 403, "Requests of web pages are refused"),
    "RouteNotFound": Kind(errors.ConfigurationError, 404, "There is nothing of that path"),
    "MethodNotAllowed": Kind(errors.ConfigurationError, 405, "The path has no such method"),
    "NotAcceptable": Kind(errors.ConfigurationError, 406, "No such answer can be given"),
    "RequestTooSlow": Kind(errors.StoreUnavailable, 408, "The request took too long to arrive"),
    "BodyTooLarge": Kind(errors.MessageTooLarge, 413, "The body is too large"),
    "MediaTypeUnsupported": Kind(errors.ConfigurationError, 415, "The body is of another type"),
    "TooManyTurns": Kind(errors.StoreUnavailable, 429, "Too many turns at once", ("retry_after",)),
    "HeadersTooLarge": Kind(errors.ConfigurationError, 431, "The headers are too large"),
    "InternalError": Kind(HoldfastError, 500, "The sidecar failed"),
    "Overloaded": Kind(errors.StoreUnavailable, 503, "Too many requests at once", ("retry_after",)),
    "Starting": Kind(
        errors.StoreUnavailable, 503, "The sidecar has no binding yet", ("retry_after",)
    ),
    "ShuttingDown": Kind(errors.StoreUnavailable, 503, "The sidecar is ending", ("retry_after",)),
}
"""What only HTTP can get wrong, and as which error a client raises it."""

_RETRYABLE: Final = frozenset(
    {"RequestTooSlow", "TooManyTurns", "Overloaded", "Starting", "ShuttingDown"}
)
_DEFAULTS: Final[dict[str, Any]] = {
    **dict.fromkeys(("quota", "path", "reason"), ""),
    **dict.fromkeys(("used", "hard", "needed", "first", "last", "seq", "line", "place"), 0),
    "remaining": 0.0,
}


def problem_of(error: HoldfastError) -> Problem:
    """Return the problem document of an error of the library."""
    kind = KINDS.get(error.code)
    if kind is None:
        return http_problem("InternalError", "the sidecar met an error that it does not know")
    return Problem(
        type=PROBLEM_TYPE + error.code,
        title=kind.title,
        status=kind.status,
        detail=error.message,
        code=error.code,
        retryable=error.retryable,
        memory=error.memory,
        session=error.session,
        **{name: getattr(error, name) for name in kind.attributes},
    )


def http_problem(code: str, detail: str, *, retry_after: float | None = None) -> Problem:
    """Return a problem that only HTTP has.

    Args:
        code: one of `HTTP_KINDS`.
        detail: a sentence: what is wrong, and what to do.
        retry_after: seconds.
    """
    kind = HTTP_KINDS[code]
    return Problem(
        type=PROBLEM_TYPE + code,
        title=kind.title,
        status=kind.status,
        detail=detail,
        code=code,
        retryable=code in _RETRYABLE,
        retry_after=retry_after,
    )


def error_of(problem: Problem) -> HoldfastError:
    """Return the error that a problem stands for, with its attributes.

    A code that this version does not know becomes what its status says: an error of the store, of an
    intermediary, or of the request.
    """
    kind = KINDS.get(problem.code) or HTTP_KINDS.get(problem.code) or _unknown(problem)
    given = {name: getattr(problem, name) for name in kind.attributes}
    attributes = {
        name: _DEFAULTS.get(name) if value is None else value for name, value in given.items()
    }
    error = kind.error(problem.detail, **attributes)
    error.memory, error.session = problem.memory, problem.session
    return error


def retry_after(problem: Problem) -> int | None:
    """Return the seconds for the header `Retry-After`; None where the answer has none."""
    if problem.status == 503 or problem.retry_after is not None:
        return max(1, math.ceil(problem.retry_after or 0))
    if problem.remaining is not None:
        return max(1, math.ceil(problem.remaining))
    return None


def _unknown(problem: Problem) -> Kind:
    if problem.status >= 500:
        return HTTP_KINDS["Overloaded"] if problem.retryable else HTTP_KINDS["InternalError"]
    return HTTP_KINDS["RequestInvalid"]
