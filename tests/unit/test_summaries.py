"""Summaries: what a summariser is given, what may be one, and what is accepted from it."""

import asyncio
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.errors import ConfigurationError, SummaryFailed
from holdfast.policy import Policy
from holdfast.summaries import (
    BuiltinSummarizer,
    OpenAICompatibleSummarizer,
    SummaryMessage,
    SummaryRequest,
    as_summarizer,
    checked,
    is_remote,
    request_of,
    summarizer_of,
    summary_item,
    summary_text,
)
from holdfast.summaries.thread import in_thread
from holdfast.tokens import counter
from holdfast.values import Covered, Flag, Notes, Stored

NOON = 1_899_979_200_000
"""2030-03-17T12:00Z in milliseconds."""
MINUTE = 60_000
CONTENT = "the moon landing"
COUNTER = counter("approximate")
REQUEST = SummaryRequest((SummaryMessage("user", CONTENT, NOON),), None, 16, COUNTER)


def stored(item: Any, *, seq: int = 1, flags: int = 0, notes: Notes | None = None) -> Stored:
    return Stored(10, flags, seq, NOON + seq * MINUTE, seq, None, item, notes)


def user(text: str, seq: int = 1, privacy: str | None = None) -> Stored:
    notes = Notes(privacy=privacy) if privacy else None
    return stored({"role": "user", "content": text}, seq=seq, notes=notes)


def earlier(text: str, seq: int = 1, privacy: str | None = None, messages: int = 4) -> Stored:
    covers = Covered(1, seq, messages, 100, "builtin")
    item = summary_item(text, role="System", messages=messages, first_ts=NOON, last_ts=NOON)
    notes = Notes(privacy=privacy, covers=covers)
    return stored(item, seq=seq, flags=Flag.SYSTEM | Flag.SUMMARY, notes=notes)


def asked(*records: Stored, remote: bool = False, format: str | None = None) -> SummaryRequest:
    return request_of(records, max_tokens=50, counter=COUNTER, remote=remote, format=format)


def text_of(item: Any) -> str:
    (message,) = asked(stored(item)).messages
    return message.text


# --- what a summariser reads


def test_messages_are_in_order_with_role_and_time() -> None:
    answer = stored({"role": "assistant", "content": [{"type": "text", "text": "hello"}]}, seq=2)
    request = asked(user("hi"), answer)
    assert request.messages == (
        SummaryMessage("user", "hi", NOON + MINUTE),
        SummaryMessage("assistant", "hello", NOON + 2 * MINUTE),
    )
    assert (request.previous, request.max_tokens, request.counter) == (None, 50, COUNTER)
    assert not request.confidential


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ({"role": "user", "name": "Ada", "content": "hi"}, "Ada: hi"),
        (
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [
                    {"id": "1", "function": {"name": "find", "arguments": '{"n":1}'}},
                    {"id": "2", "function": {"name": "stop", "arguments": ""}},
                ],
            },
            'Let me see.\n[tool call] find {"n":1} stop',
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "find"}}]},
            "[tool call] find",
        ),
        (
            {
                "role": "assistant",
                "name": "bot",
                "content": "Wait.",
                "function_call": {"name": "find", "arguments": "{}"},
            },
            "bot: Wait.\n[tool call] find {}",
        ),
        ({"role": "tool", "tool_call_id": "1", "content": "found"}, "[tool result] found"),
        (
            {"type": "function_call", "call_id": "1", "name": "find", "arguments": "{}"},
            "[tool call] find {}",
        ),
        ({"type": "function_call_output", "call_id": "1", "output": "ok"}, "[tool result] ok"),
        ({"type": "reasoning", "summary": [{"text": "hm"}]}, "[reasoning] hm"),
        ({"type": "compaction", "encrypted_content": "x"}, "[compaction]"),
        ({"role": "user", "content": ""}, "[message]"),
        ({"strange": 1}, '{"strange":1}'),
        ("plain", '"plain"'),
    ],
)
def test_every_kind_of_item_becomes_readable_text(item: Any, text: str) -> None:
    assert text_of(item) == text


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}, "[image]"),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "[audio]"),
        ({"type": "file", "file": {"filename": "a  b.pdf"}}, "[file a b.pdf]"),
        ({"type": "input_file", "filename": "f" * 100}, f"[file {'f' * 80}]"),
        ({"type": "tool_result", "content": [{"type": "image", "source": {}}]}, "[image]"),
        ({"inlineData": {"mimeType": "image/png", "data": "AAAA"}}, "[image]"),
        ({"video": {"format": "mp4"}}, "[video]"),
        ({"content": ["look", {"kind": "image-url", "url": "http://x.example"}]}, "[image]"),
    ],
)
def test_media_are_named(part: Any, name: str) -> None:
    text = text_of({"role": "user", "content": [{"type": "text", "text": "look"}, part]})
    assert text.endswith(f"\n{name}")


def test_data_is_no_text() -> None:
    text = text_of({"role": "user", "content": f"see {'QUJD' * 100}== and answer"})
    assert text == "see [data] and answer"


def test_a_memory_with_a_format_is_read_in_it() -> None:
    item = {"type": "function_call", "call_id": "1", "name": "find", "arguments": "{}"}
    assert asked(stored(item), format="responses").messages[0].role == "assistant"
    assert asked(stored(item), format="chat").messages[0].role == "other"


def test_earlier_summaries_are_folded_in() -> None:
    request = asked(earlier("first", 1), earlier("second\nline", 2), user("hi", 3))
    assert request.previous == "first\nsecond\nline"
    assert [message.text for message in request.messages] == ["hi"]


# --- confidential messages


def test_only_the_builtin_summariser_is_given_confidential_messages() -> None:
    records = [
        user("one", 1, "public"),
        user("secret", 2, "confidential"),
        user("secret", 3, "confidential"),
        user("two", 4),
        user("secret", 5, "confidential"),
    ]
    here = asked(*records)
    assert [message.text for message in here.messages] == ["one", *["secret"] * 2, "two", "secret"]
    assert here.confidential
    away = asked(*records, remote=True)
    assert [(message.role, message.text) for message in away.messages] == [
        ("user", "one"),
        ("system", "[2 confidential messages left out]"),
        ("user", "two"),
        ("system", "[1 confidential message left out]"),
    ]
    assert not away.confidential
    assert away.messages[1].ts == records[1].ts


def test_a_summary_of_confidential_messages_is_confidential() -> None:
    records = [earlier("open", 1), earlier("secret", 2, "confidential", messages=7), user("x", 3)]
    here = asked(*records)
    assert (here.previous, here.confidential) == ("open\nsecret", True)
    away = asked(*records, remote=True)
    assert away.previous == "open\n[7 confidential messages left out]"
    assert not away.confidential


def test_all_but_the_builtin_summariser_are_remote() -> None:
    assert not is_remote(BuiltinSummarizer())
    assert is_remote(OpenAICompatibleSummarizer("http://127.0.0.1", "m"))
    assert is_remote(as_summarizer(lambda _: "x"))


# --- the item


def test_a_summary_says_what_it_stands_for() -> None:
    item = summary_item(
        "They met.", role="System", messages=14, first_ts=NOON, last_ts=NOON + 61 * MINUTE
    )
    span = "2030-03-17T12:00Z to 2030-03-17T13:01Z, 14 messages"
    assert item == {
        "role": "system",
        "content": f"Summary of earlier conversation ({span}): They met.",
    }
    assert summary_text(item) == "They met."


def test_one_message_of_one_minute_is_said_so() -> None:
    item = summary_item(
        "x (y): z\nw", role="developer", messages=1, first_ts=NOON, last_ts=NOON + MINUTE - 1
    )
    assert item["role"] == "developer"
    assert "(2030-03-17T12:00Z, 1 message): " in item["content"]
    assert summary_text(item) == "x (y): z\nw"


@pytest.mark.parametrize(
    ("item", "text"), [({"content": "own"}, "own"), ({"content": 1}, ""), ("bare", "bare"), (1, "")]
)
def test_another_item_gives_the_text_it_holds(item: Any, text: str) -> None:
    assert summary_text(item) == text


# --- which summariser


def policy(**summary: Any) -> Policy:
    flushing = {"strategy": "HybridSummary", "summary": summary} if summary else {}
    return Policy.read({"retention": {"ttl": "1h"}, "flushing": flushing})


ENDPOINT = {
    "type": "OpenAICompatible",
    "openAICompatible": {"url": "http://127.0.0.1/v1", "model": "small"},
}


def test_the_policy_names_the_summariser() -> None:
    assert isinstance(summarizer_of(policy()), BuiltinSummarizer)
    assert isinstance(summarizer_of(policy(maxTokens=100)), BuiltinSummarizer)
    found = summarizer_of(policy(summarizer=ENDPOINT))
    assert isinstance(found, OpenAICompatibleSummarizer)
    assert found.name == "small"


def test_the_given_one_wins() -> None:
    given = BuiltinSummarizer()
    assert summarizer_of(policy(summarizer=ENDPOINT), given) is given


# --- what may be a summariser


class Own:
    name = "mine"

    async def summarize(self, request: SummaryRequest) -> str:
        return request.messages[0].text.upper()


class Plain:
    def summarize(self, request: SummaryRequest) -> str:
        return f"{threading.current_thread().name}"


class Caller:
    name = "called"

    async def __call__(self, request: SummaryRequest) -> str:
        return "from an object"


async def answers(request: SummaryRequest) -> str:
    return "from a coroutine"


def says(request: SummaryRequest) -> str:
    return "from a function"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("given", "name", "text"),
    [
        (Own(), "mine", "THE MOON LANDING"),
        (Plain(), "Plain", "holdfast-summarizer"),
        (Caller(), "called", "from an object"),
        (answers, "answers", "from a coroutine"),
        (says, "says", "from a function"),
        (lambda _: "short", "function", "short"),
        (lambda request: answers(request), "function", "from a coroutine"),  # noqa: PLW0108
    ],
)
async def test_objects_and_functions_summarise(given: Any, name: str, text: str) -> None:
    summarizer = as_summarizer(given)
    assert summarizer.name == name
    assert await checked(summarizer, REQUEST) == text


def test_a_summariser_is_used_as_it_is() -> None:
    own = Own()
    assert as_summarizer(own) is own


@pytest.mark.asyncio
async def test_a_plain_function_does_not_stop_the_event_loop() -> None:
    loop = asyncio.get_running_loop()
    turned = threading.Event()

    def waits(request: SummaryRequest) -> str:
        loop.call_soon_threadsafe(turned.set)
        return "turned" if turned.wait(30) else "stuck"

    assert await checked(as_summarizer(waits), REQUEST) == "turned"


# --- what is accepted


@pytest.mark.asyncio
async def test_whitespace_around_a_text_goes() -> None:
    assert await checked(as_summarizer(lambda _: "\n a b \t"), REQUEST) == "a b"


@pytest.mark.asyncio
async def test_a_text_of_just_the_tokens_is_accepted_and_one_more_refused() -> None:
    assert await checked(as_summarizer(lambda _: "x" * 64), REQUEST) == "x" * 64
    with pytest.raises(SummaryFailed, match="returned 17 tokens, 16 were allowed"):
        await checked(as_summarizer(lambda _: "x" * 65), REQUEST)


def raises(error: BaseException) -> Callable[[SummaryRequest], str]:
    def function(request: SummaryRequest) -> str:
        raise error

    return function


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [ValueError(CONTENT), StopIteration(), SystemExit(1)])
async def test_whatever_a_summariser_raises_is_a_failed_summary(error: BaseException) -> None:
    with pytest.raises(SummaryFailed, match="the summarizer 'function' failed") as refusal:
        await checked(as_summarizer(raises(error)), REQUEST)
    assert CONTENT not in "".join(traceback.format_exception_only(refusal.value))
    assert refusal.value.retryable


@pytest.mark.asyncio
async def test_errors_of_the_library_stay_what_they_are() -> None:
    error = ConfigurationError("as it is")
    with pytest.raises(ConfigurationError) as refusal:
        await checked(as_summarizer(raises(error)), REQUEST)
    assert refusal.value is error


class Endless:
    name = "endless"

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.cancelled = False

    async def summarize(self, request: SummaryRequest) -> str:
        self.begun.set()
        try:
            return await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.mark.asyncio
async def test_a_summariser_has_a_time() -> None:
    endless = Endless()
    with pytest.raises(SummaryFailed, match=r"'endless' did not answer within 0\.01 s"):
        await checked(endless, REQUEST, seconds=0.01)
    assert endless.cancelled


@pytest.mark.asyncio
async def test_a_function_that_hangs_is_left_behind() -> None:
    released = threading.Event()
    with pytest.raises(SummaryFailed, match="did not answer"):
        await checked(as_summarizer(lambda _: str(released.wait(30))), REQUEST, seconds=0.01)
    released.set()


@pytest.mark.asyncio
async def test_a_thread_that_begins_too_late_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Callable[[], None]] = []

    def holds_back(thread: threading.Thread) -> None:
        held.append(thread.run)

    monkeypatch.setattr(threading.Thread, "start", holds_back)
    called: list[int] = []
    task = asyncio.create_task(in_thread(called.append, 1))
    await asyncio.sleep(0)
    (begin,) = held
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    begin()
    assert called == []


@pytest.mark.asyncio
async def test_cancelling_passes_through() -> None:
    endless = Endless()
    task = asyncio.create_task(checked(endless, REQUEST))
    await endless.begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert endless.cancelled
