"""Summaries, as an agent sees them."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.errors import BudgetTooSmall, SummaryFailed
from holdfast.store import MemoryStore, SessionStore
from holdfast.summaries import SummaryRequest
from holdfast.testing.conformance.authors import Author, begun
from holdfast.testing.conformance.flushing import recounted
from holdfast.testing.conformance.support import (
    open_session,
    policy,
    stored,
    system,
    terms,
    unchanged,
    until,
    user,
)
from holdfast.testing.conformance.upkeep import (
    HYBRID,
    LIMITS,
    SUMMARY,
    Open,
    UpkeepContract,
    accounted,
    converse,
    flushed,
    grow,
    numbers,
    talk,
)
from holdfast.values import Flag, Privacy


@pytest.mark.asyncio
class TestSummaries(UpkeepContract):
    """Summaries: who writes them, what stands for what, and what goes wrong without harm."""

    async def test_a_summary_says_what_it_stands_for(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author("they talked about the weather")
        session = opened(author, flushing=HYBRID, limits=LIMITS)
        await talk(session, 55)
        before = {it.seq: it for it in await stored(underneath)}
        done = await session.flush()
        (summary,) = await session.summaries()
        assert done.summary == summary.seq == summary.last == done.summarised
        assert (summary.text, summary.model) == ("they talked about the weather", "author")
        assert (summary.first, summary.messages) == (1, done.summarised)
        covered = [before[seq] for seq in range(1, summary.last + 1)]
        assert summary.covered_tokens == sum(it.tokens for it in covered)
        (record,) = [it for it in await stored(underneath) if it.flags & Flag.SUMMARY]
        assert summary.tokens == record.tokens
        entry = (await session.history())[-1]
        assert entry.at is not None
        assert abs(summary.ts - entry.at) < 2_000
        assert (entry.rule, entry.messages, entry.summary) == (
            "HybridSummary",
            summary.messages,
            summary.seq,
        )
        (request,) = author.requests
        assert len(request.messages) == summary.messages
        assert (request.previous, request.confidential) == (None, False)

    @pytest.mark.parametrize("role", ["System", "Developer", "User", "Assistant"])
    async def test_readers_are_given_it_after_the_system_messages(
        self, opened: Open, role: str
    ) -> None:
        parts = {"flushing": HYBRID | {"summary": SUMMARY | {"role": role}}, "limits": LIMITS}
        session = opened(Author("small talk"), **parts)
        await talk(session, 30)
        await session.append(system("be kind"))
        await talk(session, 20)
        await session.flush()
        first, second, *rest = await session.read()
        assert first == system("be kind")
        assert second["role"] == role.lower()
        assert second["content"].startswith("Summary of earlier conversation (")
        assert second["content"].endswith(": small talk")
        assert system("be kind") not in rest
        (summary,) = await session.summaries()
        budget = await session.token_count() - 40
        assert (await session.read(max_tokens=budget))[:2] == [first, second]
        with pytest.raises(BudgetTooSmall) as small:
            await session.read(max_tokens=summary.tokens)
        assert small.value.needed > summary.tokens

    async def test_pages_and_limits_are_what_is_stored(self, opened: Open) -> None:
        session = opened(Author(), flushing=HYBRID, limits=LIMITS)
        await talk(session, 55)
        await session.flush()
        (summary,) = await session.summaries()
        page = await session.read_page(limit=2)
        assert [it.seq for it in page.records] == [summary.seq, summary.seq + 1]
        assert page.records[0].pinned
        assert (await session.read(limit=1))[0]["content"].startswith("54 ")

    async def test_popping_takes_messages_only(self, opened: Open) -> None:
        session = opened(Author(), flushing=HYBRID, limits=LIMITS)
        await talk(session, 55)
        await session.flush()
        (summary,) = await session.summaries()
        for number in range(54, summary.last - 1, -1):
            popped: Any = await session.pop()
            assert popped["content"].startswith(f"{number} ")
        assert await session.summaries() == [summary]

    @pytest.mark.parametrize(
        "text",
        [RuntimeError("down"), "", "  \n", "word " * 500, "\ud800", 7],
        ids=["error", "empty", "blank", "long", "no text", "number"],
    )
    async def test_one_that_cannot_be_used_changes_nothing(
        self, opened: Open, underneath: SessionStore, text: Any
    ) -> None:
        author = Author(text)
        session = opened(author, flushing=HYBRID, limits=LIMITS)
        await converse(session, 700)
        async with unchanged(underneath, terms()):
            with pytest.raises(SummaryFailed):
                await session.flush()
        assert await session.history() == []
        author.text = "at last"
        assert (await session.flush()).summary is not None
        assert (await session.summaries())[0].text == "at last"
        await accounted(session, underneath)

    async def test_one_that_is_cancelled_changes_nothing(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author(waits=True)
        session = opened(author, flushing=HYBRID, limits=LIMITS)
        await converse(session, 700)
        async with unchanged(underneath, terms()):
            flush = asyncio.create_task(session.flush())
            await begun(author)
            flush.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flush
        author.may.set()
        other = opened(Author("another's"), flushing=HYBRID, limits=LIMITS)

        async def taken_over() -> bool:
            return (await other.flush()).summary is not None

        await until(taken_over)
        assert [it.text for it in await other.summaries()] == ["another's"]
        await accounted(session, underneath)

    async def test_one_that_fails_in_the_background_disturbs_nobody(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author(RuntimeError("down"))
        session = opened(author, flushing=HYBRID, limits=LIMITS)
        await converse(session, 780)
        await session.append(user("much at once " * 20))
        await begun(author)
        for number in range(40):
            await session.append(user(f"{number} and on it goes, above the threshold"))
            await asyncio.sleep(0.002)
        # It is asked again later, and not with each append.
        assert len(author.requests) <= 2
        assert await session.summaries() == []
        author.text = "at last"
        done = await session.flush()
        assert done.summary is not None
        await accounted(session, underneath)

    async def test_closing_waits_for_one_that_is_being_written(
        self, store: MemoryStore, namespace: str, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author("just in time", waits=True)
        made = policy(flushing=HYBRID, limits=LIMITS)
        client = Client(store, namespace=namespace, policy=made, summarizer=author)
        session = open_session(client)
        await converse(session, 780)
        await session.append(user("much at once " * 20))
        await begun(author)
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        author.may.set()
        await closing
        other = opened(flushing=HYBRID, limits=LIMITS)
        assert [it.text for it in await other.summaries()] == ["just in time"]
        await accounted(other, underneath)

    async def test_writers_go_on_while_it_is_written(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author(waits=True)
        parts = {"flushing": HYBRID, "limits": {"maxTokens": 3_000}}
        session = opened(author, **parts)
        others = [opened(**parts) for _ in range(4)]
        await talk(session, 150)
        flush = asyncio.create_task(session.flush())
        await begun(author)
        length = await session.length()
        await asyncio.gather(*(talk(other, 5, "meanwhile") for other in others))
        assert await session.length() == length + 20
        author.may.set()
        done = await flush
        assert (done.summary, done.summarised) == (done.summarised, done.summarised)
        kept = [it for it in await stored(underneath) if not it.flags & Flag.SUMMARY]
        assert len(kept) + done.summarised == length + 20
        await accounted(session, underneath)

    async def test_it_lands_in_a_session_that_is_full_all_the_time(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author(waits=True)
        session = opened(author, flushing=HYBRID, limits=LIMITS)
        other = opened(limits=LIMITS)
        await converse(session, 780)
        await session.append(user("much at once " * 20))
        await begun(author)
        await talk(other, 40, "above the threshold and more, until there is no room at all")
        assert (await session.health()).dropped > 0
        author.may.set()
        await flushed(session)
        (summary,) = await session.summaries()
        assert summary.messages > 1
        assert await session.token_count() <= 1_000
        await accounted(session, underneath)

    @pytest.mark.parametrize("how", ["clear", "erase", "pin"])
    async def test_what_happened_meanwhile_holds(
        self, opened: Open, underneath: SessionStore, how: str
    ) -> None:
        author = Author("the old conversation", waits=True)
        session = opened(author, flushing=HYBRID, limits=LIMITS)
        other = opened(limits=LIMITS)
        await talk(session, 55)
        flush = asyncio.create_task(session.flush())
        await begun(author)
        if how == "pin":
            await other.pin(2)
        else:
            await (other.clear() if how == "clear" else other.erase())
            await talk(other, 55, "new")  # under the same numbers again, where all was erased
        author.may.set()
        await asyncio.gather(flush, return_exceptions=True)
        if how != "pin":
            assert await session.summaries() == []
            assert await session.read() == [user(f"{number} new") for number in range(55)]
            assert await underneath.claim_flush("another", 1_000)
        else:
            assert 2 in numbers(list(await stored(underneath)))
            (summary,) = await session.summaries()
            assert summary.messages == summary.last  # for it was written by then
            assert (await session.history())[0].messages == summary.last - 1
            await recounted(underneath)

    async def test_summaries_are_folded_when_there_is_no_room_for_more(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author("a summary of about ten tokens, more or less, and that is all")
        session = opened(author, flushing=HYBRID, limits=LIMITS)
        await grow(session, 400)
        summaries = await session.summaries()
        assert 0 < sum(it.tokens for it in summaries) <= 250
        assert any(request.previous for request in author.requests)
        assert summaries[0].first == 1
        assert sum(it.messages for it in summaries) > 300
        assert (await session.health()).dropped == 0
        # Whatever summary it went into first, it is the one that is there now that is named.
        live = {str(it.seq) for it in summaries}
        for seq in range(1, summaries[-1].last + 1):
            sentence = await session.explain(seq=seq)
            assert "summary" in sentence
            assert live & set(sentence.replace(",", " ").replace(".", " ").split()), sentence
        assert [it.first for it in summaries[1:]] == [it.last + 1 for it in summaries[:-1]]
        await accounted(session, underneath)

    async def test_summaries_fit_into_the_long_term_share(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        shares = {"shortTermPercent": 90, "longTermPercent": 10}
        author = Author("a summary of about ten tokens, more or less, and that is all")
        session = opened(author, flushing=HYBRID, limits=LIMITS, tokenAllocation=shares)
        await grow(session, 300)
        assert 0 < sum(it.tokens for it in await session.summaries()) <= 100
        assert any(request.previous for request in author.requests)
        await accounted(session, underneath)

    async def test_what_is_confidential_is_shown_to_nobody_else(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        author = Author()
        longer = HYBRID | {
            "summary": SUMMARY | {"maxTokens": 240}
        }  # so that earlier ones are folded
        writer, own = opened(limits=LIMITS), opened(flushing=HYBRID, limits=LIMITS)
        session = opened(author, flushing=longer, limits=LIMITS)
        level = Privacy(level="confidential")
        for one in (own, session):
            for number in range(30):
                await writer.append(user(f"{number} the secret is a rose"), privacy=level)
                await writer.append(user(f"{number} the weather"))
            # The built-in one may see it, and then its summary is as confidential.
            assert (await one.flush()).summary is not None
        assert author.requests[-1].previous
        assert author.requests
        for request in author.requests:
            texts = [message.text for message in request.messages]
            assert not any("rose" in text for text in [*texts, request.previous or ""])
            assert not request.confidential
        await accounted(session, underneath)

    async def test_what_is_older_than_the_policy_is_redacted_before_anybody_is_asked(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        card = "4111-1111-1111-1111"
        before = opened(flushing=HYBRID, limits=LIMITS)
        await talk(before, 3)
        await before.append(user(f"my card is {card}"))
        await before.append({"role": "assistant", "content": "said in confidence"})
        await talk(before, 50)
        author = Author(f"somebody paid with {card}")
        session = opened(
            author,
            flushing=HYBRID,
            limits=LIMITS,
            privacy={
                "redactPatterns": [r"(\d{4}-){3}\d{4}"],
                "nonPersistableTypes": ["assistant"],
            },
        )
        await session.flush()
        (request,) = author.requests
        shown = [message.text for message in request.messages]
        assert "my card is [REDACTED]" in shown
        assert not any(card in text or "confidence" in text for text in shown)
        (summary,) = await session.summaries()
        assert summary.text == "somebody paid with [REDACTED]"
        (record,) = [it for it in await stored(underneath) if it.flags & Flag.SUMMARY]
        assert record.tokens == summary.tokens

    async def test_the_built_in_one_needs_nobody(
        self, opened: Open, underneath: SessionStore
    ) -> None:
        session = opened(flushing=HYBRID, limits=LIMITS)
        await session.append(user("my order 4711 never arrived"))
        await talk(session, 50)
        await session.flush()
        (summary,) = await session.summaries()
        assert "order 4711" in summary.text
        assert summary.tokens <= 60
        await accounted(session, underneath)

    async def test_a_plain_function_may_write(self, opened: Open) -> None:
        def shorten(request: SummaryRequest) -> str:
            return f"{len(request.messages)} of them"

        session = opened(shorten, flushing=HYBRID, limits=LIMITS)
        await talk(session, 55)
        done = await session.flush()
        (summary,) = await session.summaries()
        assert (summary.text, summary.model) == (f"{done.summarised} of them", "shorten")
