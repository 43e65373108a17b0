"""A request as a handler sees it: segments, query, headers, body; each read when it is asked for."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar, cast
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from holdfast.errors import SessionKeyError
from holdfast.wire import IDEMPOTENCY_HEADER, JSON, JSON_LINES
from holdfast_sidecar.answers import Refusal, Vanished
from holdfast_sidecar.asgi import Receive, Scope
from holdfast_sidecar.limits import Limits

T = TypeVar("T")

_IDEMPOTENCY: Final = IDEMPOTENCY_HEADER.lower().encode()
_MOST_FIELDS: Final = 64
_WHOLE: Final = re.compile("[0-9]{1,16}")
_BOOLEANS: Final = {"true": True, "false": False}
_ID: Final = 512


class Query(NamedTuple):
    """A parameter of a query.

    Attributes:
        name: as it is written.
        kind: of its value: `int`, `bool` or `str`.
        meaning: a sentence.
        least: of an integer, or how many characters.
        most: of an integer, or how many characters.
        many: it may be there several times.
        example: a value, for the document.
        choices: of a text; none allow any.
    """

    name: str
    kind: type[int | bool | str]
    meaning: str
    least: int = 0
    most: int = 2**31
    many: bool = False
    example: Any = None
    choices: tuple[str, ...] = ()


class Budget:
    """Bytes of large bodies, or of large answers, over all requests.

    Args:
        most: how many there may be.
    """

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> None:
        """Hold so many more.

        Raises:
            Refusal: there are too many already.
        """
        if size > self._left:
            raise Refusal(
                "Overloaded",
                "too much is under way to or from clients at once: try again",
                retry_after=1,
            )
        self._left -= size

    def give(self, size: int) -> None:
        """Let go of so many."""
        self._left += size


class Request:
    """One request.

    Args:
        scope: of ASGI.
        receive: of ASGI.
        headers: names in lower case.
        segments: raw ones that the parameters of the path stand for.
        query: parameters by their names, read.
        limits: how much of everything.
        budget: of large bodies.
    """

    __slots__ = ("_budget", "_held", "_limits", "_receive", "headers", "query", "scope", "segments")

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        *,
        headers: Mapping[bytes, bytes],
        segments: Sequence[bytes],
        query: Mapping[str, Any],
        limits: Limits,
        budget: Budget,
    ) -> None:
        self.scope = scope
        self.headers = headers
        self.segments = segments
        self.query = query
        self._receive = receive
        self._limits = limits
        self._budget = budget
        self._held = 0

    def text(self, index: int) -> str:
        """Return what a parameter of the path stands for, decoded once.

        Raises:
            SessionKeyError: it is no Unicode.
        """
        segment = self.segments[index]
        try:
            return (unquote_to_bytes(segment) if b"%" in segment else segment).decode()
        except UnicodeDecodeError:
            raise SessionKeyError("a session key must be valid Unicode text") from None

    def number(self, index: int) -> int:
        """Return the whole number that a parameter of the path stands for.

        Raises:
            Refusal: it is none.
        """
        text = self.segments[index].decode("ascii", "replace")
        if not _WHOLE.fullmatch(text) or int(text) > 2**31:
            raise Refusal("RequestInvalid", "a sequence number is a whole number of at most 2^31")
        return int(text)

    @property
    def record_id(self) -> str | None:
        """The header `Idempotency-Key`.

        Raises:
            Refusal: it is no id.
        """
        raw = self.headers.get(_IDEMPOTENCY)
        if raw is None:
            return None
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise Refusal("RequestInvalid", f"{IDEMPOTENCY_HEADER} is no UTF-8") from None
        if not 0 < len(text) <= _ID:
            raise Refusal("RequestInvalid", f"{IDEMPOTENCY_HEADER} has 1 to {_ID} characters")
        return text

    async def json(self, decoder: msgspec.json.Decoder[T], default: T | None = None) -> T:
        """Read the body.

        Args:
            decoder: of its type.
            default: what no body stands for; None: there has to be one.

        Raises:
            Refusal: too large, too slow, of another type, or not as it should be.
            Vanished: the client went away meanwhile.
        """
        body = await self.body()
        if not body and default is not None:
            return default
        self._require_kind(JSON)
        try:
            return decoder.decode(body)
        except RecursionError:
            raise Refusal("RequestInvalid", "the body is nested too deeply") from None
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise Refusal("RequestInvalid", f"the body cannot be used: {_reason(error)}") from None

    async def lines(self) -> AsyncIterator[str]:
        """Read the body line by line, however long it is altogether.

        Raises:
            Refusal: a line is too long or no UTF-8, a part too slow, or the body of another type.
            Vanished: the client went away meanwhile.
        """
        self._require_kind(JSON_LINES)
        rest = bytearray()
        more = True
        while more:
            part, more = await self._part()
            rest += part
            if b"\n" in part:
                *lines, last = rest.split(b"\n")
                rest = last
                for line in lines:
                    yield _line(line)
            if len(rest) > self._limits.line:
                raise Refusal("BodyTooLarge", f"a line may have {self._limits.line} bytes")
        if rest:
            yield _line(rest)

    async def gone(self) -> None:
        """Wait until the client goes away; after the body was read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def end(self) -> None:
        """Let go of what the body held."""
        if self._held:
            self._budget.give(self._held)
            self._held = 0

    async def body(self) -> bytes:
        """Read the body, whatever its type.

        Raises:
            Refusal: too large or too slow.
            Vanished: the client went away meanwhile.
        """
        declared = self.headers.get(b"content-length")
        if declared is not None and int(declared) > self._limits.body:
            raise self._too_large()
        part, more = await self._part()
        if not more:
            return part
        parts, size = [part], len(part)
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while more:
                    part, more = await self._part()
                    parts.append(part)
                    size += len(part)
                    if size > self._limits.body:
                        raise self._too_large()
                    self._hold(size)
        except TimeoutError:
            raise self._too_slow() from None
        return b"".join(parts)

    async def _part(self) -> tuple[bytes, bool]:
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                message = await self._receive()
        except TimeoutError:
            raise self._too_slow() from None
        if message["type"] != "http.request":
            raise Vanished
        return cast("bytes", message.get("body", b"")), bool(message.get("more_body"))

    def _hold(self, size: int) -> None:
        if size > self._limits.small and size > self._held:
            self._budget.take(size - self._held)
            self._held = size

    def _require_kind(self, kind: str) -> None:
        given = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if given != kind.encode():
            raise Refusal("MediaTypeUnsupported", f"the body has to be {kind}")

    def _too_large(self) -> Refusal:
        return Refusal("BodyTooLarge", f"a body may have {self._limits.body} bytes")

    def _too_slow(self) -> Refusal:
        return Refusal(
            "RequestTooSlow",
            f"the body did not arrive within {self._limits.body_seconds:g} s",
            headers=((b"connection", b"close"),),
        )


def read_query(raw: bytes, known: Sequence[Query]) -> dict[str, Any]:
    """Read a query.

    Args:
        raw: as it came.
        known: parameters that there are.

    Raises:
        Refusal: one is unknown, there twice, or has a value that it cannot have.
    """
    if not raw:
        return {}
    try:
        pairs = parse_qsl(
            raw.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST_FIELDS,
        )
    except ValueError:
        raise Refusal("RequestInvalid", "the query cannot be read") from None
    by_name = {query.name: query for query in known}
    found: dict[str, Any] = {}
    for name, text in pairs:
        query = by_name.get(name)
        if query is None:
            there = ", ".join(by_name) or "none"
            raise Refusal(
                "RequestInvalid", f"the query has an unknown parameter; there are: {there}"
            )
        value = _value(query, text)
        if query.many:
            found.setdefault(name, []).append(value)
        elif name in found:
            raise Refusal("RequestInvalid", f"the query has {name!r} twice")
        else:
            found[name] = value
    return found


def _value(query: Query, text: str) -> int | bool | str:
    if query.kind is int:
        if _WHOLE.fullmatch(text) and query.least <= int(text) <= query.most:
            return int(text)
        what = f"a whole number, {query.least}..{query.most}"
    elif query.kind is bool:
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        what = "true or false"
    elif query.choices:
        if text in query.choices:
            return text
        what = " or ".join(query.choices)
    else:
        if query.least <= len(text) <= query.most:
            return text
        what = f"a text of {query.least}..{query.most} characters"
    raise Refusal("RequestInvalid", f"{query.name!r} in the query is {what}")


def _line(raw: bytes | bytearray) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise Refusal("RequestInvalid", "the body is no UTF-8") from None


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.MsgspecError) else "it is no UTF-8"
