"""Text search in a session: it finds what is there, once, newest first, and its cost has a bound."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast
from holdfast.client import Client
from holdfast.store.in_memory import InMemoryStore
from holdfast.values import MemoryAddress, Page, Record, Status
from holdfast_sidecar.mcp.search import (
    MOST_PAGES,
    MOST_RECORDS,
    MOST_TEXT,
    SNIPPET,
    Found,
    Needle,
    search,
)

POLICY: dict[str, Any] = {
    "model": {"tokenizer": "approximate"},
    "limits": {"maxTokens": 1_000_000},
    "retention": {"ttl": "1h"},
}


class Shelf:
    """Records with any sequence numbers, read as a session is; counts what is read."""

    def __init__(self, texts: dict[int, str], *, size: int | None = None) -> None:
        self.records = [
            Record(seq, 1_000 + seq, 1, seq, None, False, {"role": "user", "content": text})
            for seq, text in sorted(texts.items())
        ]
        self.size = sum(map(len, texts.values())) if size is None else size
        self.pages: list[int] = []

    async def status(self) -> Status:
        last = self.records[-1].seq if self.records else 0
        return Status(
            exists=bool(self.records),
            epoch=1,
            last_seq=last,
            tokens=0,
            messages=len(self.records),
            bytes=self.size,
            version=0,
            dropped=0,
            pinned=0,
            pinned_tokens=0,
            revision=0,
            expires_at=0,
            expiry_rule="ttl",
            lease=None,
            lease_token="",
            waiting=0,
        )

    async def read_page(
        self, *, after: int | None = None, limit: int = 100, used: bool = True
    ) -> Page:
        assert not used
        found = [record for record in self.records if record.seq > (after or 0)]
        shown = tuple(found[:limit])
        self.pages.append(len(shown))
        more = shown[-1].seq if len(found) > limit else None
        return Page(shown, len(self.records), more, 0)


async def everything(shelf: Shelf, needle: Needle, limit: int) -> tuple[list[int], list[Found]]:
    """Search to the end, call after call."""
    calls: list[Found] = []
    before: int | None = None
    while not calls or not calls[-1].complete:
        calls.append(await search(shelf, needle, limit=limit, before=before))
        assert before is None or calls[-1].complete or (calls[-1].before or 0) < before
        before = calls[-1].before
    return [match.seq for call in calls for match in call.matches], calls


@pytest.mark.asyncio
class TestSearch:
    """`search` over what is stored."""

    @settings(max_examples=60, deadline=None)
    @given(
        gaps=st.lists(st.sampled_from([1, 1, 1, 2, 90, 5_000, 10**7]), max_size=60),
        hits=st.data(),
        limit=st.integers(1, 5),
        heavy=st.booleans(),
    )
    async def test_it_finds_every_match_once_and_newest_first(
        self, gaps: Sequence[int], hits: st.DataObject, limit: int, heavy: bool
    ) -> None:
        seq, texts = 0, dict[int, str]()
        for gap in gaps:
            seq += gap
            texts[seq] = hits.draw(st.sampled_from(["a needle here", "hay", "NEEDLE"]))
        shelf = Shelf(texts, size=10**8 if heavy else None)
        found, _ = await everything(shelf, Needle("needle", exact=False), limit)
        assert found == [seq for seq in sorted(texts, reverse=True) if texts[seq] != "hay"]

    async def test_a_call_reads_no_more_than_its_bounds(self) -> None:
        many = Shelf(dict.fromkeys(range(1, 3 * MOST_RECORDS), "hay"))
        found, calls = await everything(many, Needle("needle", exact=False), 10)
        assert found == []
        assert [call.searched for call in calls] == [MOST_RECORDS, MOST_RECORDS, MOST_RECORDS - 1]

        large = Shelf(dict.fromkeys(range(1, 101), "h" * 200_000))
        first = await search(large, Needle("needle", exact=False), limit=10)
        assert not first.complete
        assert first.searched * 200_000 < MOST_TEXT + 20 * 200_000
        assert max(large.pages) <= 20

        far = Shelf({1: "needle", 10**15: "needle"})
        found, _ = await everything(far, Needle("needle", exact=False), 10)
        assert found == [10**15, 1]
        assert len(far.pages) < MOST_PAGES

    async def test_what_comes_while_it_looks_is_left_out(self) -> None:
        shelf = Shelf({1: "needle", 2: "needle"})
        status = await shelf.status()

        async def as_it_was() -> Status:
            return status

        shelf.status = as_it_was
        shelf.records.append(Record(3, 0, 1, 3, None, False, "needle"))
        found = await search(shelf, Needle("needle", exact=False), limit=10)
        assert [match.seq for match in found.matches] == [2, 1]

    async def test_nothing_is_found_in_a_session_that_does_not_exist(self) -> None:
        async with holdfast.connect("memory://", policy=POLICY) as client:
            found = await search(
                client.memory("support").session("nobody"), Needle("x", exact=False), limit=5
            )
        assert found == Found([], 0, complete=True)

    async def test_it_looks_through_every_format_and_at_tool_calls(self) -> None:
        async with holdfast.connect("memory://", policy=POLICY) as client:
            session = client.memory("support").session("s")
            await session.append({"role": "user", "content": [{"type": "text", "text": "Oslo?"}]})
            function = {"name": "weather", "arguments": '{"city":"Oslo"}'}
            call = {"id": "c1", "type": "function", "function": function}
            await session.append({"role": "assistant", "content": None, "tool_calls": [call]})
            await session.append({"whatever": ["unknown", "Oslo"]})
            await session.append("Bergen")
            found = await search(session, Needle("oslo", exact=False), limit=10)
        assert [(match.seq, match.role) for match in found.matches] == [
            (3, ""),
            (2, "assistant"),
            (1, "user"),
        ]

    async def test_looking_is_no_use(self) -> None:
        """What a policy keeps because it is used is not what somebody looked through."""
        store = InMemoryStore()
        client = Client(store, policy=POLICY | {"eviction": {"policy": "LRU"}})
        session = client.memory("support").session("s")
        for number in range(3):
            await session.append({"role": "user", "content": f"message {number}"})
        found = await search(session, Needle("message", exact=True), limit=10)
        assert len(found.matches) == 3
        underneath = store.session(MemoryAddress("local", "support"), "s")
        assert set((await underneath.snapshot()).accessed) == set()
        await session.read_page(limit=2)
        assert set((await underneath.snapshot()).accessed) == {1, 2}
        await client.aclose()


class TestNeedle:
    """`Needle`: one text in another."""

    @given(before=st.text(max_size=400), word=st.text(min_size=1, max_size=20), after=st.text())
    def test_what_is_in_a_text_is_found_and_shown(self, before: str, word: str, after: str) -> None:
        text = before + word + after
        for exact in (True, False):
            snippet = Needle(word, exact=exact).snippet(text)
            assert snippet is not None
            assert len(snippet) <= SNIPPET + 22

    @pytest.mark.parametrize(
        ("word", "text", "shown"),
        [
            ("STRASSE", "an der Straße 5", "an der Straße 5"),
            ("straße", "AN DER STRASSE", "AN DER STRASSE"),
            ("ﬁne", "FINE", "FINE"),
            ("x", "ẞẞẞ X", "ẞẞẞ X"),
        ],
    )
    def test_case_is_folded_as_unicode_says(self, word: str, text: str, shown: str) -> None:
        assert Needle(word, exact=False).snippet(text) == shown
        assert Needle(word, exact=True).snippet(text) is None

    def test_it_is_no_search_for_meaning(self) -> None:
        for word in ("car", "café", "recieve"):
            text = {"car": "an automobile", "café": "cafe\u0301", "recieve": "receive"}[word]
            assert Needle(word, exact=False).snippet(text) is None

    def test_a_snippet_stands_around_the_match(self) -> None:
        text = "ß" * 1000 + " here\n\nit is " + "ß" * 1000
        snippet = Needle("HERE", exact=False).snippet(text)
        assert snippet is not None
        assert "ß here it is ß" in snippet
        assert snippet[0] == snippet[-1] == "…"
