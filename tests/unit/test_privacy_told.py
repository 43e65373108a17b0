"""What was said is told nowhere else: no log line, error, sentence or receipt has any of it."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import holdfast
from holdfast.errors import HoldfastError
from holdfast.session import Session
from holdfast.summaries import SummaryRequest
from holdfast.testing.conformance.support import policy, user
from holdfast.testing.conformance.upkeep import HYBRID
from tests.harness.waiting import until

SECRET = "m4rker"


class Careless:
    """A summariser whose errors, and whatever else it answers, repeat what it was shown."""

    name = "careless"

    def __init__(self) -> None:
        self.answers: list[Any] = [
            RuntimeError,
            KeyError,
            lambda text: f"{text} " * 100,
            lambda text: f"{text}\ud800",
            lambda text: [text],
        ]
        self.asked = 0

    async def summarize(self, request: SummaryRequest) -> str:
        text = " ".join(message.text for message in request.messages)
        assert SECRET in text
        answer = self.answers[self.asked % len(self.answers)](text)
        self.asked += 1
        if isinstance(answer, BaseException):
            raise answer
        return answer


def told_by(error: HoldfastError) -> list[str]:
    return [str(error), error.message, repr(error), repr(error.args)]


def refused(session: Session) -> list[Callable[[], Awaitable[Any]]]:
    """Rewrites and removals that are refused, each for another reason."""
    said = user(SECRET)
    return [
        lambda: session.replace([{"content": SECRET.encode()}]),  # pyright: ignore[reportArgumentType]
        lambda: session.replace([user(f"{SECRET}\ud800")]),
        lambda: session.replace([said], role="boss"),
        lambda: session.replace([said], share="facts"),
        lambda: session.replace([user(f"{SECRET} " * 3000)]),
        lambda: session.replace([said] * 1001),
        lambda: session.replace([user(f"{SECRET} " * 100)] * 40),
        lambda: session.replace([user(f"{SECRET} other")], id="known"),
        lambda: session.replace([said]),
        lambda: session.append(said),
        session.erase,
        session.clear,
        session.pop,
        session.flush,
    ]


@pytest.mark.asyncio
async def test_a_flush_in_the_background_that_fails_shows_no_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    author = Careless()
    made = policy(flushing=HYBRID, limits={"maxTokens": 1_000})
    async with holdfast.connect("memory://", policy=made, summarizer=author) as client:
        for number in range(len(author.answers)):
            session = client.memory("support").session(f"s-{number}")
            await session.append_many([user(f"{SECRET} some words of small talk")] * 80)

            def failed(lines: int = number + 1) -> bool:
                said = [record.getMessage() for record in caplog.records]
                return sum("a flush failed" in line for line in said) == lines

            await until(failed, "the flush failed")
            assert await session.summaries() == []
        assert author.asked == len(author.answers)
    assert "SummaryFailed" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.asyncio
async def test_what_is_told_of_a_session_shows_no_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    made = policy(
        limits={"maxTokens": 1_000, "maxMessageSize": "8Ki"},
        locking={"mode": "Enforced", "onBusy": "Reject"},
        flushing=HYBRID,
    )
    told: list[str] = []
    errors: list[str] = []
    async with holdfast.connect("memory://", policy=made, summarizer=Careless()) as client:
        memory = client.memory("support")
        session = memory.session("a", labels={"user": "1"})
        await session.append(user(f"{SECRET} first"), id="known")
        await session.append_many([user(f"{SECRET} some words of small talk")] * 60, id="many")
        async with memory.session("a").turn():
            for attempt in refused(session):
                try:
                    await attempt()
                except HoldfastError as error:
                    errors.append(error.code)
                    told += told_by(error)
        await session.flush("FIFO")
        await session.replace([user(f"{SECRET} {number}") for number in range(3)])
        await session.pop()
        told += [repr(entry) for entry in await session.history()]
        for seq in range(70):
            told.append(await session.explain(seq=seq))
        for name in ("known", "many#1", "many#59", "never"):
            told.append(await session.explain(id=name))
        told += [repr(await session.health()), repr(await session.status())]
        told.append(repr(await memory.erase(labels={"user": "1"})))
        told.append(repr(await session.erase()))
    assert {"MessageInvalid", "MessageTooLarge", "BudgetExceeded", "SessionBusy"} <= set(errors)
    assert {"IdempotencyConflict", "ConfigurationError", "SummaryFailed"} <= set(errors)
    assert {"pop()", "replace()", "FIFO"} <= {
        word for line in told for word in line.replace(".", " ").split()
    }
    assert SECRET not in "\n".join([*told, caplog.text])
