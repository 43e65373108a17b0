"""A program's own token counter: what it may do, and what it may not do to the rest."""

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest

from holdfast.counting import MAX_COUNT, MOST_HANGING, OwnCounter
from holdfast.errors import ConfigurationError, TokenCountFailed
from holdfast.tokens import Count, TokenCounter
from tests.harness.waiting import until

SOURCE = Path(__file__).parents[2] / "operator"


class Foreign:
    """A counter that answers what it is told to."""

    name = "foreign"

    def __init__(self, answer: Callable[[str], Any]) -> None:
        self.answer = answer
        self.threads: list[threading.Thread] = []

    def count(self, text: str) -> Count:
        self.threads.append(threading.current_thread())
        return cast("Count", self.answer(text))


class Stuck:
    """A counter that answers when it is let go."""

    name = "stuck"

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.free = threading.Event()

    def count(self, text: str) -> Count:
        self.threads.append(threading.current_thread())
        assert self.free.wait(60), "nobody let go"
        return Count(1, exact=True)


def answering(answer: Any) -> OwnCounter:
    return OwnCounter(Foreign(lambda _: answer))


def raising(error: BaseException) -> OwnCounter:
    def count(text: str) -> Any:
        raise error

    return OwnCounter(Foreign(count))


# --- what is a counter


class Nameless:
    def count(self, text: str) -> Count:
        return Count(1, exact=True)


class Numbered(Nameless):
    name = 7


class Countless:
    name = "countless"


class Constant(Countless):
    count = 7


class Coroutine:
    name = "coroutine"

    async def count(self, text: str) -> Count:
        return Count(1, exact=True)


@pytest.mark.parametrize(
    "other", [Nameless(), Numbered(), Countless(), Constant(), Coroutine(), len]
)
def test_what_is_no_counter_is_refused_at_once(other: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^counter is an object with a name and a method"):
        OwnCounter(other)


def test_a_counter_keeps_its_name() -> None:
    counter: TokenCounter = answering(Count(1, exact=True))
    assert counter.name == "foreign"
    assert counter.count("text") == Count(1, exact=True)


# --- what it may answer


class Pair(NamedTuple):
    tokens: int
    exact: bool


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer", [Count(0, exact=True), Count(MAX_COUNT, exact=False), (7, True), Pair(3, exact=False)]
)
async def test_tokens_and_whether_they_are_exact_are_a_count(answer: Any) -> None:
    counter = answering(answer)
    assert counter.count("text") == answer
    found = await counter.count_texts(["text"])
    assert found == Count(*answer)
    assert type(found) is Count


NO_COUNTS: list[Any] = [
    None,
    7,
    True,
    "7",
    7.0,
    (),
    (7,),
    (7, True, True),
    (-1, True),
    (MAX_COUNT + 1, True),
    (True, True),
    (7.0, True),
    ("7", True),
    (7, 1),
    (7, None),
    {"tokens": 7, "exact": True},
    (float("nan"), True),
]


@pytest.mark.asyncio
@pytest.mark.parametrize("answer", NO_COUNTS, ids=repr)
async def test_anything_else_is_none(answer: Any) -> None:
    counter = answering(answer)
    sentence = rf"^the counter 'foreign' gave no Count of 0 to {MAX_COUNT} tokens$"
    with pytest.raises(TokenCountFailed, match=sentence):
        counter.count("text")
    with pytest.raises(TokenCountFailed, match=sentence):
        await counter.count_texts(["text"])


@pytest.mark.asyncio
async def test_texts_add_up_and_a_message_has_a_most_too() -> None:
    counter = OwnCounter(Foreign(lambda text: Count(len(text), text != "b")))
    assert await counter.count_texts(["aa", "b", "cc"]) == Count(5, exact=False)
    assert await counter.count_texts([]) == Count(0, exact=True)
    with pytest.raises(TokenCountFailed, match="gave no Count"):
        await answering(Count(MAX_COUNT, exact=True)).count_texts(["a", "b"])


class Panic(BaseException):
    """What a library in Rust raises when it gives up."""


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "error",
    [
        ValueError("s3cret"),
        TimeoutError("s3cret"),
        asyncio.CancelledError(),
        StopIteration(),
        SystemExit(3),
        KeyboardInterrupt(),
        Panic("s3cret"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_whatever_it_raises_is_one_error_with_its_cause(error: BaseException) -> None:
    with pytest.raises(TokenCountFailed) as refusal:
        await raising(error).count_texts(["text"])
    assert str(refusal.value) == f"the counter 'foreign' raised {type(error).__name__}"
    assert refusal.value.__cause__ is error
    assert not refusal.value.retryable


def test_on_the_callers_own_thread_only_errors_are_translated() -> None:
    with pytest.raises(TokenCountFailed) as refusal:
        raising(ValueError("s3cret")).count("text")
    assert isinstance(refusal.value.__cause__, ValueError)
    with pytest.raises(KeyboardInterrupt):
        raising(KeyboardInterrupt()).count("text")


# --- where, and for how long


@pytest.mark.asyncio
async def test_it_is_never_asked_on_the_event_loop() -> None:
    foreign = Foreign(lambda _: Count(1, exact=True))
    counter = OwnCounter(foreign)
    for _ in range(3):
        await counter.count_texts(["a", "b"])
    assert threading.current_thread() not in foreign.threads
    assert all(thread.daemon for thread in foreign.threads)


TENANT = contextvars.ContextVar("TENANT", default="nobody")


@pytest.mark.asyncio
async def test_it_sees_the_context_of_the_call() -> None:
    counter = OwnCounter(Foreign(lambda _: Count(len(TENANT.get()), exact=True)))
    TENANT.set("team-a")
    assert await counter.count_texts(["text"]) == Count(6, exact=True)


@pytest.mark.asyncio
async def test_one_that_hangs_is_given_up() -> None:
    stuck = Stuck()
    with pytest.raises(TokenCountFailed) as refusal:
        await OwnCounter(stuck, patience=0.01).count_texts(["text"])
    assert str(refusal.value) == "the counter 'stuck' did not answer within 0.01 s"
    stuck.free.set()


@pytest.mark.asyncio
async def test_a_call_that_waits_can_be_cancelled() -> None:
    stuck = Stuck()
    counter = OwnCounter(stuck)
    call = asyncio.create_task(counter.count_texts(["text"]))
    await until(lambda: bool(stuck.threads), "counting began")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    stuck.free.set()
    assert await counter.count_texts(["text"]) == Count(1, exact=True)


@pytest.mark.asyncio
async def test_few_threads_hang_at_once() -> None:
    stuck = Stuck()
    counter = OwnCounter(stuck, patience=0.01)
    for _ in range(MOST_HANGING):
        with pytest.raises(TokenCountFailed, match="did not answer"):
            await counter.count_texts(["text"])
    with pytest.raises(TokenCountFailed) as refusal:
        await counter.count_texts(["text"])
    assert str(refusal.value) == (
        "the counter 'stuck' hangs: 8 of its counts were given up and still go on"
    )
    assert len(stuck.threads) == MOST_HANGING
    stuck.free.set()

    async def answers() -> bool:
        try:
            return await counter.count_texts(["text"]) == Count(1, exact=True)
        except TokenCountFailed:
            return False

    await until(answers, "it counts again")


LEFT_BEHIND = """
import asyncio, threading
from holdfast.counting import OwnCounter
from holdfast.errors import TokenCountFailed

class Forever:
    name = "forever"
    def count(self, text):
        threading.Event().wait()

async def main():
    try:
        await OwnCounter(Forever(), patience=0.01).count_texts(["text"])
    except TokenCountFailed:
        print("given up")

asyncio.run(main())
"""


def test_one_that_never_answers_does_not_keep_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LEFT_BEHIND],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


def test_an_answer_after_the_loop_is_gone_is_dropped() -> None:
    stuck = Stuck()

    async def main() -> None:
        with pytest.raises(TokenCountFailed):
            await OwnCounter(stuck, patience=0.01).count_texts(["text"])

    asyncio.run(main())
    stuck.free.set()
    stuck.threads[0].join(60)
    assert not stuck.threads[0].is_alive()
