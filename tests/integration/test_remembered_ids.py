"""Which message ids are known: the latest ones, exactly as many as the policy says, in both stores."""

import asyncio
import itertools
import time
import uuid
from collections import OrderedDict
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from holdfast.errors import CorruptRecord, IdempotencyConflict, UnknownKeys
from holdfast.messages import id_key
from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.store import SessionStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.redis import RedisStore
from holdfast.store.redis.layout import session_keys
from holdfast.values import (
    Archive,
    Batch,
    Caller,
    MemoryAddress,
    Part,
    Prepared,
    Remembered,
    Stored,
    Terms,
)
from tests.harness.servers import Server

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

FREE = Caller()
DEFAULT = Policy.model_validate({"limits": {"maxMessages": 5}, "retention": {"ttl": "1h"}})
SETTINGS = settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Told = tuple[str, int] | str
"""`new` or `known` with the first sequence number, or `conflict`."""

fresh = st.tuples(st.just("fresh"), st.integers(1, 40))
again = st.tuples(st.just("again"), st.integers(1, 60))
edges = st.tuples(st.just("edge"), st.integers(-1, 2))
altered = st.tuples(st.just("altered"), st.integers(1, 60))
plain = st.tuples(st.just("plain"), st.integers(1, 20))
limits = st.tuples(st.just("limit"), st.sampled_from([0, 1, 3, 16, 17, 256]))
lives = st.lists(fresh | again | edges | altered | plain, min_size=4, max_size=14)
edited = st.lists(fresh | again | edges | altered | limits, min_size=4, max_size=14)


def terms(most: int) -> Terms:
    """Terms of the default policy, with so many ids remembered."""
    return replace(terms_of(DEFAULT, 0), max_ids=most)


class Model:
    """What is known, told in the simplest way."""

    def __init__(self, most: int) -> None:
        self.most, self.seq = most, 0
        self.known: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.used: list[str] = []

    def append(self, name: str, digest: int, records: int = 1) -> Told:
        found = self.known.get(name) if name else None
        if found is not None:
            return ("known", found[0]) if found[1] == digest else "conflict"
        first, self.seq = self.seq + 1, self.seq + records
        if name:
            self.used.append(name)
        if name and self.most:
            self.known[name] = (first, digest)
            while len(self.known) > self.most:
                self.known.popitem(last=False)
        return "new", first


class Stores:
    """The same session in both stores."""

    def __init__(self, server: Server) -> None:
        self.memory = MemoryAddress(f"ids-{uuid.uuid4().hex[:12]}", "support")
        self.store = RedisStore.from_url(server.url)
        self.keys = session_keys(self.memory, "any", "mem")
        self.local = InMemoryStore(clock=lambda: time.time_ns() // 1000)
        self.handles = self.named("any")

    def named(self, name: str) -> list[SessionStore]:
        """Return another session of both."""
        return [one.session(self.memory, name) for one in (self.local, self.store)]

    async def check(self, model: Model, name: str, digest: int, records: int = 1) -> None:
        """Append, and compare what all three say; what is known is also told by asking."""
        batch = Batch((Prepared(b'"x"', 1),) * records, id_key(name) if name else "", digest)
        known = [await _asked(one, batch) for one in self.handles] if name else None
        told = model.append(name, digest, records)
        if known is not None:
            expected = told if told == "conflict" or told[0] == "known" else None
            assert known == [expected, expected]
        said = [await _appended(one, terms(model.most), batch) for one in self.handles]
        assert said == [told, told]

    async def play(self, model: Model, life: list[tuple[str, int]]) -> None:
        """Let each step of a life happen in all."""
        for step, count in life:
            if step == "limit":
                model.most = count
            elif step in ("fresh", "plain"):
                for at in range(count):
                    name = f"id-{len(model.used)}" if step == "fresh" else ""
                    await self.check(model, name, 7 if name else 0, 1 + at % 3)
            else:
                back = model.most + count if step == "edge" else count
                if 0 < back <= len(model.used):
                    name = model.used[-back]
                    await self.check(model, name, 8 if step == "altered" else 7)


async def _filled(handle: SessionStore, agreed: Terms, batches: list[Batch]) -> Archive:
    for one in batches:
        await handle.append(agreed, one, FREE)
    return await handle.archive(agreed)


async def _appended(handle: SessionStore, agreed: Terms, batch: Batch) -> Told:
    try:
        done = await handle.append(agreed, batch, FREE)
    except IdempotencyConflict:
        return "conflict"
    return "known" if done.duplicate else "new", done.seq


async def _asked(handle: SessionStore, batch: Batch) -> Told | None:
    try:
        known = await handle.known(batch)
    except IdempotencyConflict:
        return "conflict"
    return None if known is None else ("known", known.seq)


class TestTheLatestIds:
    """An id is known while it is among the latest, and not a call longer."""

    @pytest.mark.parametrize("most", [1, 16, 17, DEFAULT.idempotency.max_remembered_ids])
    @SETTINGS
    @given(life=lives)
    async def test_any_sequence_of_appends(
        self, valkey_server: Server, most: int, life: list[tuple[str, int]]
    ) -> None:
        both, model = Stores(valkey_server), Model(most)
        try:
            await both.play(model, life)
        finally:
            await both.store.aclose()

    @SETTINGS
    @given(life=edited)
    async def test_while_the_policy_is_edited(
        self, valkey_server: Server, life: list[tuple[str, int]]
    ) -> None:
        both, model = Stores(valkey_server), Model(16)
        try:
            await both.play(model, life)
        finally:
            await both.store.aclose()

    @pytest.mark.parametrize("most", [256, 10_000])
    async def test_the_last_of_many(self, each_server: Server, most: int) -> None:
        both = Stores(each_server)
        agreed, total = terms(most), most + 300
        batches = [Batch((Prepared(b'"x"', 1),), id_key(f"id-{at}"), 7) for at in range(total)]
        try:
            for handle in both.handles:
                sent: dict[int, Batch] = {}  # callers of one moment come in any order
                for at in range(0, total, 500):
                    part = batches[at : at + 500]
                    done = await asyncio.gather(*(handle.append(agreed, one, FREE) for one in part))
                    sent |= {one.seq: batch for one, batch in zip(done, part, strict=True)}
                assert sorted(sent) == list(range(1, total + 1))
                oldest = total - most + 1
                for seq in (1, oldest - 1, oldest, oldest + 1, total - most // 2, total):
                    expected = ("known", seq) if seq >= oldest else None
                    assert await _asked(handle, sent[seq]) == expected
                    other = structs.replace(sent[seq], digest=8)
                    assert await _asked(handle, other) == ("conflict" if expected else None)
                assert await _appended(handle, agreed, sent[oldest]) == ("known", oldest)
                assert await _appended(handle, agreed, sent[1]) == ("new", total + 1)
                assert await _asked(handle, sent[oldest]) is None
            async with each_server.client() as raw:
                held = sum(map(len, await raw.hvals(both.keys.ids))) / 18
                fields = await raw.hlen(both.keys.ids)
                assert most <= held < most * 1.1
                assert fields == (16 if most == 256 else 256)
        finally:
            await both.store.aclose()

    async def test_ids_that_come_with_an_import(self, valkey_server: Server) -> None:
        both, agreed = Stores(valkey_server), terms(4)

        def part(first: int, names: list[str], **seen: int) -> Part:
            records = tuple(
                Stored(1, 0, first + at, 1, first + at, name, "x") for at, name in enumerate(names)
            )
            ids = tuple(Remembered.of(id_key(name), first + at) for at, name in enumerate(names))
            return Part(records, ids, {}, (), last_seq=100, dropped=0, **seen)

        try:
            for handle in both.handles:
                for name in ("old", "b"):
                    batch = Batch((Prepared(b'"x"', 1),), id_key(name), 7)
                    await handle.append(agreed, batch, FREE)
                await handle.clear(agreed, FREE, force=False)
                status = await handle.status()
                seen = {"epoch": status.epoch, "version": status.version, "messages": 0}
                epoch, version = await handle.import_part(agreed, part(11, ["a", "b"], **seen))
                later = part(13, ["c", "d"], epoch=epoch, version=version, messages=2)
                await handle.import_part(agreed, later)
                told = {
                    name: await _asked(handle, Batch((), id_key(name), 9))
                    for name in ("old", "a", "b", "c", "d")
                }
                assert told == {
                    "old": None,
                    "a": ("known", 11),
                    "b": ("known", 12),
                    "c": ("known", 13),
                    "d": ("known", 14),
                }
        finally:
            await both.store.aclose()

    @pytest.mark.parametrize("most", [3, 256, 600])
    async def test_they_come_along_from_either_store_to_either(
        self, valkey_server: Server, most: int
    ) -> None:
        """However many each remembers, and whatever the names of their fields are."""
        both, total = Stores(valkey_server), most + 20
        batches = [Batch((Prepared(b'"x"', 1),), id_key(f"id-{at}"), 7) for at in range(total)]
        try:
            archives = [await _filled(handle, terms(most), batches) for handle in both.handles]
            assert len({tuple((it.seq, it.digest) for it in one.ids) for one in archives}) == 1
            for archive, into in itertools.product(archives, (2, 256, 599, 10_000)):
                agreed, kept = terms(into), min(most, into)
                part = Part((), archive.ids, {}, (), 0, 0, 0, total, total, anew=True)
                for at, handle in enumerate(both.named(f"{id(archive)}-{into}")):
                    await handle.import_part(agreed, part)
                    asked = [await _asked(handle, one) for one in batches]
                    known = [("known", seq) for seq in range(total - kept + 1, total + 1)]
                    assert asked == [None] * (total - kept) + known
                    other = structs.replace(batches[-1], digest=8)
                    assert await _appended(handle, agreed, other) == "conflict"
                    ids = (await handle.archive(agreed)).ids
                    if at == archives.index(archive) and (most > 512) == (into > 512):
                        assert list(ids) == list(archive.ids)[-kept:]
                    new = Batch((Prepared(b'"x"', 1),), id_key("new"), 7)
                    assert await _appended(handle, agreed, new) == ("new", total + 1)
                    assert await _asked(handle, batches[-1]) == ("known", total)
                    oldest = await _asked(handle, batches[-kept])
                    assert oldest == (None if kept == into else ("known", total - kept + 1))
        finally:
            await both.store.aclose()

    async def test_they_go_with_the_counters(self, valkey_server: Server) -> None:
        """What a server that evicts keys may leave is not taken for the ids of another session."""
        both, agreed = Stores(valkey_server), terms(256)
        batches = [Batch((Prepared(b'"x"', 1),), id_key(f"id-{at}"), 7) for at in range(20)]
        handle = both.handles[1]
        try:
            for one in batches:
                await handle.append(agreed, one, FREE)
            async with valkey_server.client() as raw:
                await raw.delete(both.keys.meta)
                assert await _asked(handle, batches[0]) is None
                assert (await _appended(handle, agreed, batches[0]))[0] == "new"
                assert await raw.hlen(both.keys.ids) == 1
            assert [await _asked(handle, one) is None for one in batches] == [False] + [True] * 19
        finally:
            await both.store.aclose()

    @pytest.mark.parametrize("foreign", ["a string", "a short field"])
    async def test_what_is_not_ours_stops_the_first_id_before_anything_is_written(
        self, valkey_server: Server, foreign: str
    ) -> None:
        both, agreed = Stores(valkey_server), terms(256)
        handle, key = both.handles[1], id_key("first")
        batch = Batch((Prepared(b'"x"', 1),), key, 7)
        try:
            await handle.append(agreed, structs.replace(batch, key="", digest=0), FREE)
            async with valkey_server.client() as raw:
                if foreign == "a string":
                    await raw.set(both.keys.ids, "foreign")
                else:
                    await handle.append(agreed, batch, FREE)
                    await raw.hset(both.keys.ids, key[-2], "x")
                before = await handle.status()
                other = structs.replace(batch, key=key[::-1][:30] + key[-2:])
                for call in (handle.append(agreed, other, FREE), handle.known(other)):
                    with pytest.raises((UnknownKeys, CorruptRecord)):
                        await call
                assert await handle.status() == before
                assert await raw.llen(both.keys.log) == before.messages
        finally:
            await both.store.aclose()
