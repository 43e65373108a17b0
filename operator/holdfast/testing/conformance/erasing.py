"""Erase: a session, or all that carry labels, and nothing of before comes back."""
# ruff: noqa: D102 - the name of a test is its sentence

import asyncio
from datetime import timedelta

import pytest

from holdfast.errors import ConfigurationError, LeaseLost, SessionBusy
from holdfast.session import Session
from holdfast.store import MemoryStore, SessionStore, StalePolicy
from holdfast.testing.conformance.support import (
    FREE,
    Connect,
    SessionContract,
    StoreContract,
    batch,
    held,
    identified,
    items,
    new_token,
    open_session,
    prepared,
    stand_in_line,
    take,
    terms,
    unchanged,
    until,
    user,
    write,
)
from holdfast.values import Erased, Granted, MemoryAddress, Splice

LABEL, OTHER = "0" * 31 + "a", "0" * 31 + "b"


@pytest.mark.asyncio
class TestEraseInTheStore(StoreContract):
    """What goes, and who is told."""

    async def test_the_answer_says_what_there_was(self, handle: SessionStore) -> None:
        assert await handle.erase(terms()) == Erased(existed=False)
        await write(handle, prepared("a"), prepared("b", flags=1), prepared("c"))
        await handle.pop(terms(), FREE, expected=3, opens=(), closes=())
        status = await handle.status()
        erased = await handle.erase(terms())
        assert erased == Erased(True, status.epoch, 3, 2, status.bytes)
        assert not (await handle.status()).exists
        assert (await handle.departed(), await items(handle)) == ((), [])
        assert await handle.erase(terms()) == Erased(existed=False)

    async def test_what_follows_is_a_new_conversation(self, handle: SessionStore) -> None:
        first = await handle.append(terms(), identified("i", prepared("a")), FREE)
        await handle.erase(terms())
        again = await handle.append(terms(), identified("i", prepared("a")), FREE)
        assert (again.duplicate, again.seq) == (False, 1)
        assert again.epoch > first.epoch

    async def test_the_holder_has_lost_its_turn(self, handle: SessionStore) -> None:
        token = new_token()
        granted = await take(handle, terms(), token)
        await handle.append(terms(), batch(prepared("a")), held(token, granted))
        await handle.erase(terms())
        for _ in range(2):
            with pytest.raises(LeaseLost):
                await handle.append(terms(), batch(prepared("b")), held(token, granted))
            with pytest.raises(LeaseLost):
                await handle.renew(terms(), token, granted.epoch)
            await write(handle, prepared("new"))
        assert await items(handle) == ["new", "new"]

    async def test_a_summary_of_before_is_dropped(self, handle: SessionStore) -> None:
        for begun in (False, True):
            await write(handle, prepared("a"), prepared("b"))
            assert await handle.claim_flush("f", 60_000)
            found = await handle.snapshot()
            await handle.erase(terms())
            if begun:
                await write(handle, prepared("a"), prepared("b"))
            splice = Splice(
                "f", found.status.epoch, [(1, "FIFO")], [(1, found.encoded[0])], prepared("sum")
            )
            assert not (await handle.splice(terms(), splice)).done
            assert await items(handle) == (["a", "b"] if begun else [])

    async def test_waiters_go_on_in_the_new_session(self, handle: SessionStore) -> None:
        holder, waiter = new_token(), new_token()
        await take(handle, terms(), holder)
        await stand_in_line(handle, terms(), waiter)
        await handle.erase(terms())
        assert (await handle.status()).waiting == 0
        assert isinstance(await handle.acquire(terms(), waiter, "me"), Granted)

    async def test_an_enforced_lease_is_in_the_way_unless_forced(
        self, handle: SessionStore
    ) -> None:
        agreed = terms(enforced=True)
        await take(handle, agreed, new_token())
        await write(handle, prepared("a"))  # under a policy that lets it
        async with unchanged(handle, agreed):
            with pytest.raises(SessionBusy):
                await handle.erase(agreed)
        assert (await handle.erase(agreed, force=True)).messages == 1

    async def test_an_older_policy_is_refused(self, handle: SessionStore) -> None:
        await write(handle, prepared("a"), terms_=terms(revision=2))
        with pytest.raises(StalePolicy):
            await handle.erase(terms(revision=1))
        assert await items(handle) == ["a"]

    async def test_a_session_that_is_gone_makes_room(
        self, store: MemoryStore, memory: MemoryAddress, handle: SessionStore
    ) -> None:
        agreed = terms(max_sessions=1)
        await write(handle, prepared("a"), terms_=agreed)
        await handle.erase(agreed)
        await write(store.session(memory, "another"), prepared("b"), terms_=agreed)


@pytest.mark.asyncio
class TestLabelsInTheStore(StoreContract):
    """Which sessions carry a label."""

    async def test_sessions_are_found_by_all_their_labels(
        self, store: MemoryStore, memory: MemoryAddress
    ) -> None:
        for key, labels in {"a": [LABEL], "b": [LABEL, OTHER], "c": [OTHER], "d": []}.items():
            await write(store.session(memory, key, labels), prepared())
        assert list(await store.labelled(memory, [LABEL])) == ["a", "b"]
        assert list(await store.labelled(memory, [LABEL, OTHER])) == ["b"]
        assert list(await store.labelled(memory._replace(name="other"), [LABEL])) == []

    async def test_whoever_erases_a_session_takes_its_labels_too(
        self, store: MemoryStore, memory: MemoryAddress, handle: SessionStore
    ) -> None:
        await write(store.session(memory, "any", [LABEL]), prepared())
        await write(store.session(memory, "any", [OTHER]), prepared())
        await handle.erase(terms())
        assert not await store.labelled(memory, [LABEL])
        assert not await store.labelled(memory, [OTHER])

    async def test_a_handle_of_before_labels_the_new_session(
        self, store: MemoryStore, memory: MemoryAddress, handle: SessionStore
    ) -> None:
        labelled = store.session(memory, "any", [LABEL])
        await write(labelled, prepared())
        await handle.erase(terms())
        await write(labelled, prepared())
        assert list(await store.labelled(memory, [LABEL])) == ["any"]
        await handle.erase(terms())
        assert not await store.labelled(memory, [LABEL])

    @pytest.mark.parametrize("way", ["append", "replace", "acquire"])
    async def test_whatever_begins_a_session_notes_them(
        self, store: MemoryStore, memory: MemoryAddress, way: str
    ) -> None:
        labelled = store.session(memory, "any", [LABEL])
        if way == "acquire":
            await labelled.acquire(terms(), new_token(), "me")
            await write(labelled, prepared())
        elif way == "replace":
            await labelled.replace(terms(), batch(prepared()), FREE)
        else:
            await write(labelled, prepared())
        assert list(await store.labelled(memory, [LABEL])) == ["any"]


@pytest.mark.asyncio
class TestErase(SessionContract):
    """What a program sees."""

    async def test_a_receipt_counts_and_can_be_compared(
        self, session: Session, connect: Connect
    ) -> None:
        await session.append_many([user("a"), user("b")])
        size = (await session.health()).bytes
        receipt = await session.erase()
        assert (receipt.sessions, receipt.messages, receipt.bytes) == (1, 2, size)
        assert len(receipt.digest) == 64
        assert not receipt.dry_run
        nothing = await session.erase()
        assert (nothing.sessions, nothing.messages) == (0, 0)
        assert nothing.digest == (await open_session(connect()).erase()).digest != receipt.digest

    async def test_the_handle_goes_on(self, session: Session) -> None:
        await session.append(user("a"), id="i")
        await session.erase()
        assert await session.read() == []
        assert (await session.append(user("a"), id="i")).seq == 1
        assert await session.read() == [user("a")]

    async def test_a_turn_is_over(self, session: Session, connect: Connect) -> None:
        async with session.turn() as turn:
            await turn.append(user("a"))
            await open_session(connect()).erase()
            with pytest.raises(LeaseLost):
                await turn.append(user("b"))
        assert await session.length() == 0

    async def test_a_waiter_gets_the_turn_of_the_new_conversation(
        self, session: Session, connect: Connect
    ) -> None:
        async def answer() -> list[object]:
            async with open_session(connect()).turn(wait=timedelta(seconds=20)) as turn:
                return list(await turn.read())

        async with session.turn() as turn:
            await turn.append(user("a"))
            waiting = asyncio.create_task(answer())

            async def queued() -> bool:
                return (await session.health()).waiting == 1

            await until(queued)
            await session.erase()
            assert await waiting == []

    async def test_by_label(self, connect: Connect) -> None:
        memory = connect().memory("support")
        for name, labels in {
            "a": {"user": "1", "tier": "free"},
            "b": {"user": "1"},
            "c": {"user": "2"},
            "d": {},
        }.items():
            await memory.session(name, labels=labels).append(user(name))
        seen = await memory.erase(labels={"user": "1"}, dry_run=True)
        assert (seen.sessions, seen.messages, seen.dry_run) == (2, 2, True)
        narrow = await memory.erase(labels={"user": "1", "tier": "free"})
        assert narrow.sessions == 1
        assert narrow.digest != seen.digest
        left = await memory.erase(labels={"user": "1"}, dry_run=True)
        rest = await memory.erase(labels={"user": "1"})
        assert (left.sessions, left.digest) == (1, rest.digest)
        assert (await memory.erase(labels={"user": "1"})).sessions == 0
        assert [await memory.session(name).length() for name in "abcd"] == [0, 0, 1, 1]

    async def test_labels_are_told_apart(self, connect: Connect) -> None:
        memory = connect().memory("support")
        pairs = [("a", "b=c"), ("a=b", "c"), ("ä", "\x00"), ("a", "B=c"), ("a", "*"), ("a", "%2A")]
        for at, (name, value) in enumerate(pairs):
            await memory.session(f"s{at}", labels={name: value}).append(user("a"))
        for name, value in pairs:
            assert (await memory.erase(labels={name: value})).sessions == 1

    async def test_fields_are_labels(self, connect: Connect) -> None:
        memory = connect(keyTemplate="user:{user_id}:{thread}").memory("support")
        for person, thread in (("1", "a"), ("1", "b"), ("2", "a")):
            await memory.session(user_id=person, thread=thread).append(user("a"))
        assert (await memory.erase(labels={"user_id": "1"})).sessions == 2
        assert await memory.session(user_id="2", thread="a").length() == 1

    async def test_a_busy_session_is_told_after_the_others_are_erased(
        self, connect: Connect
    ) -> None:
        memory = connect(locking={"mode": "Enforced"}).memory("support")
        sessions = [memory.session(name, labels={"user": "1"}) for name in "abc"]
        for session in sessions:
            await session.append(user("a"))
        async with sessions[1].turn():
            with pytest.raises(SessionBusy):
                await memory.erase(labels={"user": "1"})
            assert [await session.length() for session in sessions] == [0, 1, 0]
            with pytest.raises(SessionBusy):
                await sessions[1].erase()
            assert (await memory.erase(labels={"user": "1"}, force=True)).sessions == 1

    async def test_labels_that_cannot_be(self, connect: Connect) -> None:
        memory = connect().memory("support")
        for labels in ({"": "a"}, {"a": ""}, {"a": "x" * 513}, {str(n): "a" for n in range(17)}):
            with pytest.raises(ConfigurationError):
                memory.session("a", labels=labels)
            with pytest.raises(ConfigurationError):
                await memory.erase(labels=labels)
        with pytest.raises(ConfigurationError):
            await memory.erase(labels={})
