"""What a model's endpoint answers, and what is said when that is no summary."""

import re
from dataclasses import dataclass, field
from typing import Final

import msgspec

from holdfast.errors import SummaryFailed
from holdfast.summaries.key import KEY, KEY_FILE

_THOUGHTS: Final = re.compile(r"\s*<think>.*?</think>", re.DOTALL)
_ENDPOINT: Final = "the summarizer's endpoint"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer; `status` is 0 and `trouble` an error's class when there was none.

    Attributes:
        status: of HTTP.
        body: as it came. No `repr` shows it: it may repeat what was sent, the key included.
        retry_after: the header, "" without one.
        trouble: why there is no answer.
        again: another attempt may get another answer.
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    retry_after: str = ""
    trouble: str = ""
    again: bool = False


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]


class _Fault(msgspec.Struct):
    message: str | None = None
    param: str | None = None


class _Failure(msgspec.Struct):
    error: _Fault


def text_of(answer: Answer) -> str:
    """Return the text of a chat completion.

    Thoughts in front of it, as some servers leave them in, are no part of it.

    Raises:
        SummaryFailed: it is none, was cut off, was refused, or is empty.
    """
    try:
        choices = msgspec.json.decode(answer.body, type=_Completion).choices
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        choices = []
    if not choices:
        raise SummaryFailed(
            f"{_ENDPOINT} answered with something else than a chat completion: check the url in the "
            "policy's summarizer"
        )
    message, reason = choices[0].message, choices[0].finish_reason
    if message.refusal or reason == "content_filter":
        raise SummaryFailed(f"the model at {_ENDPOINT} refused to summarize")
    if reason == "length":
        raise SummaryFailed(
            f"the model at {_ENDPOINT} reached the limit of tokens before the end of its summary: "
            "raise summary.maxTokens"
        )
    text = message.content or ""
    thoughts = _THOUGHTS.match(text)
    text = text[thoughts.end() :] if thoughts else text
    if not text.strip():
        raise SummaryFailed(f"the model at {_ENDPOINT} answered without a text")
    return text


def refuses_parameters(answer: Answer) -> bool:
    """Tell whether the endpoint wants the parameters as reasoning models take them."""
    if answer.status not in (400, 422):
        return False
    try:
        fault = msgspec.json.decode(answer.body, type=_Failure).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    if fault.param in ("max_tokens", "temperature"):
        return True
    return "max_completion_tokens" in (fault.message or "")


def refusal(answer: Answer) -> SummaryFailed:
    """Return the error for an answer that is no success. What the endpoint said is not shown."""
    match answer.status:
        case 0:
            return SummaryFailed(
                f"no answer from {_ENDPOINT} ({answer.trouble}): check its url, that it runs, and that "
                "no network policy is in the way"
            )
        case 401 | 403:
            return SummaryFailed(
                f"{_ENDPOINT} refused the key (status {answer.status}): check the key that {KEY_FILE} "
                f"or {KEY} gives"
            )
        case 404:
            return SummaryFailed(
                f"{_ENDPOINT} knows no such path or model (status 404): check url and model in the "
                "policy's summarizer"
            )
        case 429:
            return SummaryFailed(f"{_ENDPOINT} takes no more requests for now (status 429)")
        case _:
            return SummaryFailed(f"{_ENDPOINT} answered with status {answer.status}")
