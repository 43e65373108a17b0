"""What a handler gives back, and refusals that only HTTP knows."""

from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.errors import HoldfastError
from holdfast.problems import PROBLEM_JSON, Problem, http_problem, problem_of, retry_after
from holdfast.wire import JSON

Headers = tuple[tuple[bytes, bytes], ...]

_encode: Final = msgspec.json.Encoder().encode
_JSON: Final = JSON.encode()
_PROBLEM: Final = PROBLEM_JSON.encode()


class Answer(NamedTuple):
    """An answer that is there as a whole.

    Attributes:
        status: HTTP's.
        body: bytes; none for 204.
        kind: the body's media type.
        headers: others.
        code: of the problem, if it is one.
    """

    status: int
    body: bytes
    kind: bytes = _JSON
    headers: Headers = ()
    code: str = ""


class Stream(NamedTuple):
    """An answer that comes in parts.

    Attributes:
        parts: of the body. When the client goes away they are closed.
        kind: the body's media type.
        status: HTTP's.
    """

    parts: AsyncIterator[bytes]
    kind: bytes
    status: int = 200


class Refusal(Exception):
    """A request that is refused for what only HTTP can get wrong.

    Args:
        code: one of `holdfast.problems.HTTP_KINDS`.
        detail: a sentence: what is wrong, and what to do.
        headers: of the answer.
        retry_after: seconds.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        headers: Headers = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.problem = http_problem(code, detail, retry_after=retry_after)
        self.headers = headers


class Vanished(Exception):
    """The client has gone: there is nobody to answer."""


NO_CONTENT: Final = Answer(204, b"")


def ok(value: Any) -> Answer:
    """Answer with a value of the library or of `holdfast.wire`."""
    return Answer(200, _encode(value))


def of_problem(problem: Problem, headers: Headers = ()) -> Answer:
    """Answer with a problem."""
    seconds = retry_after(problem)
    if seconds is not None:
        headers = (*headers, (b"retry-after", b"%d" % seconds))
    return Answer(problem.status, _encode(problem), _PROBLEM, headers, problem.code)


def of_error(error: HoldfastError) -> Answer:
    """Answer with an error of the library."""
    return of_problem(problem_of(error))


def of_refusal(refusal: Refusal) -> Answer:
    """Answer with a refusal."""
    return of_problem(refusal.problem, refusal.headers)
