"""Explanations of what became of a message, as an agent sees them."""
# ruff: noqa: D102 - the name of a test is its sentence

import pytest

from holdfast.errors import ConfigurationError
from holdfast.session import Session
from holdfast.testing.conformance.authors import Author
from holdfast.testing.conformance.support import system, user
from holdfast.testing.conformance.upkeep import LIMITS, Open, UpkeepContract, talk


@pytest.mark.asyncio
class TestExplain(UpkeepContract):
    """One sentence on each message: where it is, or when and why it left."""

    async def test_what_is_there(self, session: Session) -> None:
        await session.append(user("plain secret"), id="a")
        await session.append(system("rules secret"))
        await session.append(user("pinned secret"), pin=True, id="b")
        plain, rules, pinned = [await session.explain(seq=seq) for seq in (1, 2, 3)]
        assert (await session.explain(id="a"), await session.explain(id="b")) == (plain, pinned)
        check(plain, rules, pinned)
        assert "system" in rules
        assert "pinned" in pinned

    async def test_what_left(self, opened: Open) -> None:
        session = opened(Author(), limits={"maxMessages": 60})
        await session.append(user("secret"), id="first")
        await talk(session, 60, "secret")
        limited = await session.explain(id="first")
        await session.flush("FIFO")
        dropped = await session.explain(seq=10)
        await talk(session, 20, "secret")
        await session.flush("HybridSummary")
        (summary,) = await session.summaries()
        short = await session.explain(seq=summary.first)
        itself = await session.explain(seq=summary.seq)
        await session.append(user("secret"), id="taken")
        await session.pop()
        popped = await session.explain(id="taken")
        await session.clear()
        cleared = await session.explain(seq=summary.seq + 3)
        check(limited, dropped, short, itself, popped, cleared)
        assert "full" in limited
        assert "FIFO" in dropped
        assert str(summary.seq) in short
        assert "summary" in short
        assert "summary" in itself
        assert "pop" in popped
        assert "clear" in cleared

    async def test_one_of_a_batch_that_left(self, opened: Open) -> None:
        session = opened(limits={"maxMessages": 60})
        await session.append_many([user("secret")] * 3, id="req")
        await session.append(user("secret"), id="one#1")
        await session.append(user("secret"), id="one")
        here = [await session.explain(id=f"req#{number}") for number in range(3)]
        assert here == [await session.explain(seq=number) for number in (1, 2, 3)]
        await session.append_many([user("secret")] * 57)
        limited, stays = await session.explain(id="req#1"), await session.explain(id="req#2")
        assert limited.startswith("Message 2, ")
        assert limited.endswith((await session.explain(seq=2)).removeprefix("Message 2"))
        assert stays == await session.explain(seq=3)
        unknown = await session.explain(id="never heard of")
        assert (
            await session.explain(id="req#3") == unknown
        )  # its number is another's, which is there
        await session.clear()
        cleared, alone = await session.explain(id="req#2"), await session.explain(id="one#1")
        assert cleared.endswith((await session.explain(seq=3)).removeprefix("Message 3"))
        assert alone == await session.explain(seq=4)
        for name in ("req#62", "req#1000", "req#01", "req#", "#1", "none#1"):
            assert await session.explain(id=name) == unknown
        check(limited, stays, cleared, alone, unknown)

    async def test_one_of_a_batch_that_is_in_a_summary(self, opened: Open) -> None:
        session = opened(Author(), limits=LIMITS)
        batch = [user(f"{number} secret words of small talk") for number in range(55)]
        await session.append_many(batch, id="req")
        await session.flush("HybridSummary")
        (summary,) = await session.summaries()
        for seq in (summary.first, summary.last):  # whose number the summary has
            sentence = await session.explain(id=f"req#{seq - 1}")
            alone = await session.explain(seq=seq)
            check(sentence, alone)
            assert sentence.startswith(f"Message {seq}, ")
            assert sentence.endswith(alone.removeprefix(f"Message {seq}"))
            assert "summary" in sentence

    async def test_what_never_was(self, session: Session) -> None:
        await talk(session, 3)
        future, past = await session.explain(seq=10), await session.explain(seq=0)
        unknown = await session.explain(id="never heard of")
        check(future, unknown)
        check(past)

    async def test_a_session_that_is_not_there(self, session: Session) -> None:
        check(await session.explain(seq=1))
        check(await session.explain(id="a"))

    async def test_one_thing_is_asked(self, session: Session) -> None:
        with pytest.raises(ConfigurationError):
            await session.explain()
        with pytest.raises(ConfigurationError):
            await session.explain(id="a", seq=1)


def check(*sentences: str) -> None:
    """Check that each is a sentence of its own, and says nothing of the content."""
    assert len(set(sentences)) == len(sentences)
    for sentence in sentences:
        assert sentence.count("\n") == 0
        assert 10 < len(sentence) < 300
        assert "secret" not in sentence
