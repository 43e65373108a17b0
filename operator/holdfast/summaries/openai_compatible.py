"""A summariser that calls a model behind the Chat Completions protocol."""

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import msgspec

from holdfast.errors import ConfigurationError, SummaryFailed
from holdfast.summaries.answer import Answer, refusal, refuses_parameters, text_of
from holdfast.summaries.key import Key, read_key
from holdfast.summaries.prompt import prompt
from holdfast.summaries.protocol import SummaryRequest

if TYPE_CHECKING:
    import ssl

    import httpx

CONNECT_TIMEOUT: Final = 5.0
TOTAL_TIMEOUT: Final = 60.0
"""Seconds of one summary, all attempts and the pauses between them included."""

RETRIES: Final = 2
BACK_OFF: Final = 0.5
"""Seconds of the first pause at least; the next is twice as long. Up to as much again by chance."""

REASONING_ROOM: Final = 8192
"""Tokens that a reasoning model may think with, on top of those of its summary."""

_LARGEST_ANSWER: Final = 4 * 1024 * 1024


def new_boundary() -> str:
    """Return 128 random bits as text."""
    return secrets.token_hex(16)


class OpenAICompatibleSummarizer:
    """Asks a model for the summary. No connection is kept between calls.

    What is tried again: connections that fail or break, and the statuses 429 and 5xx; `Retry-After` is
    respected as far as the time goes. A redirect is not followed, so the key goes nowhere else.

    Args:
        url: base address of the endpoint; `/chat/completions` is put behind its path.
        model: name of the model, and of the summariser.
        environ: where `HOLDFAST_SUMMARIZER_KEY_FILE` and `HOLDFAST_SUMMARIZER_KEY` are looked up, at
            each call; None for this process's environment.
        timeout: seconds of one summary in total.
        back_off: seconds of the first pause.
        boundary: makes the marker in front of each message.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        environ: Mapping[str, str] | None = None,
        timeout: float = TOTAL_TIMEOUT,
        back_off: float = BACK_OFF,
        boundary: Callable[[], str] = new_boundary,
    ) -> None:
        parts = urlsplit(url)
        path = f"{parts.path.rstrip('/')}/chat/completions"
        self._url = urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
        self._model = model
        self._environ = environ
        self._timeout = timeout
        self._back_off = back_off
        self._boundary = boundary
        self._reasoning = False

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model

    async def summarize(self, request: SummaryRequest) -> str:
        """Return the model's text.

        Raises:
            SummaryFailed: no usable answer within the time.
            ConfigurationError: the extra `summaries` is not installed.
        """
        answer: Answer | None = None
        try:
            async with asyncio.timeout(self._timeout):
                answer = await self._ask(request)
        except TimeoutError:
            pass
        # Raised out here: what the client raises holds the request, and that holds the key.
        if answer is None:
            raise SummaryFailed(
                f"the summarizer's endpoint did not answer within {self._timeout:g} s"
            )
        if answer.status != 200:
            raise refusal(answer)
        return text_of(answer)

    async def _ask(self, request: SummaryRequest) -> Answer:
        deadline = asyncio.get_running_loop().time() + self._timeout
        messages = await asyncio.to_thread(prompt, request, self._boundary)
        # Both read files, and the first import of the client takes a tenth of a second.
        context = await asyncio.to_thread(_tls_context)
        environ = os.environ if self._environ is None else self._environ
        key = await asyncio.to_thread(read_key, environ)
        async with _client(context, key, self._timeout) as client:
            for attempt in range(RETRIES):
                answer = await self._attempt(client, request, messages)
                pause = _pause(answer, self._back_off * 2**attempt)
                if not answer.again or asyncio.get_running_loop().time() + pause > deadline:
                    return answer
                await asyncio.sleep(pause)
            return await self._attempt(client, request, messages)

    async def _attempt(
        self, client: "httpx.AsyncClient", request: SummaryRequest, messages: list[dict[str, str]]
    ) -> Answer:
        """Ask once; once more if the model takes other parameters, which no name tells."""
        body = self._body(request, messages, reasoning=self._reasoning)
        answer = await _post(client, self._url, body)
        if not self._reasoning and refuses_parameters(answer):
            body = self._body(request, messages, reasoning=True)
            answer = await _post(client, self._url, body)
            self._reasoning = answer.status == 200
        return answer

    def _body(
        self, request: SummaryRequest, messages: list[dict[str, str]], *, reasoning: bool
    ) -> bytes:
        body: dict[str, Any] = {"model": self._model, "messages": messages}
        if reasoning:
            body["max_completion_tokens"] = request.max_tokens + REASONING_ROOM
        else:
            body |= {"max_tokens": request.max_tokens, "temperature": 0}
        return msgspec.json.encode(body)


def _tls_context() -> "ssl.SSLContext":
    try:
        import httpx  # noqa: PLC0415 - only who calls a model has it
    except ModuleNotFoundError:
        raise ConfigurationError(
            "a summarizer of type OpenAICompatible needs another package: "
            "pip install 'holdfast[summaries]'"
        ) from None
    return httpx.create_ssl_context()


def _client(context: "ssl.SSLContext", key: Key | None, timeout: float) -> "httpx.AsyncClient":
    import httpx  # noqa: PLC0415 - as above, where it was found

    client = httpx.AsyncClient(
        verify=context,
        timeout=httpx.Timeout(timeout, connect=CONNECT_TIMEOUT),
        follow_redirects=False,
        headers={"Content-Type": "application/json"},
    )
    if key is not None:
        key.put(client.headers)
    return client


async def _post(client: "httpx.AsyncClient", url: str, body: bytes) -> Answer:
    import httpx  # noqa: PLC0415 - as above

    passing = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
    data = bytearray()
    try:
        async with client.stream("POST", url, content=body) as response:
            async for chunk in response.aiter_bytes():
                data += chunk
                if len(data) > _LARGEST_ANSWER:
                    break  # and what is there is no JSON
            status, after = response.status_code, response.headers.get("Retry-After", "")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
        # All there may be, for none may leave: its frames hold the key.
        return Answer(0, trouble=type(error).__name__, again=isinstance(error, passing))
    return Answer(status, bytes(data), after, again=status == 429 or status >= 500)


def _pause(answer: Answer, back_off: float) -> float:
    asked = seconds_of(answer.retry_after, datetime.now(UTC))
    if asked is not None:
        return asked
    return back_off * (1 + secrets.SystemRandom().random())


def seconds_of(retry_after: str, now: datetime) -> float | None:
    """Return how long a `Retry-After` asks to wait; None when it does not say."""
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - now).total_seconds())
