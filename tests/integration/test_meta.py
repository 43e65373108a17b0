"""What a session keeps about itself: its numbers stay exact and small, however large they grow."""

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from holdfast.errors import IdempotencyConflict, TurnInterrupted, UnknownKeys
from holdfast.messages import id_key
from holdfast.policies import terms_of
from holdfast.policy import load_policy
from holdfast.store.protocol import lease_token
from holdfast.store.redis.layout import SessionKeys, session_keys
from holdfast.store.redis.session import RedisSession
from holdfast.values import Appended, Batch, Caller, Flag, Granted, Prepared, Queued, Terms
from tests.harness.meta import Lease, Meta
from tests.harness.waiting import until
from tests.integration.world import FREE, HOUR, World, spec, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

MOST = 10**9
SMALL = 64  # bytes of a value, beyond which a hash is no listpack any more
CALLS = tuple(f"{number:016x}" for number in range(8))
SETTINGS = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

numbers = st.integers(0, MOST) | st.sampled_from([MOST - 1, MOST, 2**31 - 1, 2**31, 2**32])
metas = st.builds(
    Meta,
    next=st.integers(1, MOST) | st.just(MOST),
    tokens=numbers,
    size=numbers,
    version=numbers,
    dropped=numbers,
    revision=numbers,
    ids=st.integers(0, 2),
    id=st.integers(0, 2**16 - 1),
    known=st.integers(0, 10_000),
    joined=st.booleans(),
    epoch=st.integers(1, 2**51),
    rule=st.sampled_from(["ttl", "afterClear", "afterFlush"]),
)
batches = st.lists(
    st.builds(
        Prepared,
        body=st.sampled_from([b'"a"', b'"' + b"word " * 50 + b'"', b"[1,2]"]),
        tokens=st.integers(1, MOST),
        flags=st.sampled_from([0, 0, 0, Flag.INEXACT, Flag.SYSTEM, Flag.PINNED]),
        opens=st.lists(st.sampled_from(CALLS), max_size=3, unique=True).map(tuple),
    ),
    min_size=1,
    max_size=5,
).map(tuple)


def terms(revision: int, **parts: Any) -> Terms:
    """Terms without limits: the numbers of these sessions are above any."""
    _, policy = load_policy(spec(**parts))
    return replace(terms_of(policy, revision), max_tokens=0, max_messages=0)


async def begin(world: World, meta: Meta) -> tuple[RedisSession, SessionKeys]:
    """Write the counters of an empty session, as if it had lived long, and return a handle on it."""
    name = uuid.uuid4().hex
    keys = session_keys(world.memory, name, "mem")
    await world.raw.hset(keys.meta, mapping=meta.fields())
    return world.store().session(world.memory, name), keys


async def read_small(raw: Redis, keys: SessionKeys) -> Meta:
    """Read the fields, and check that each is small and that together they are a listpack."""
    fields = await raw.hgetall(keys.meta)
    assert {name: len(value) for name, value in fields.items() if len(value) > SMALL} == {}
    assert await raw.object("ENCODING", keys.meta) == b"listpack"
    return Meta.read(fields)


async def alive(world: World) -> dict[str, int]:
    """Times of a session that lives for another hour."""
    now = int((await world.raw.time())[0]) * 1000
    return {"created": now - HOUR, "touched": now - 1000, "expires_at": now + HOUR}


class TestNumbers:
    @SETTINGS
    @given(drawn=metas, batch=batches)
    async def test_an_append_adds_to_counters_of_any_size(
        self, world: World, drawn: Meta, batch: tuple[Prepared, ...]
    ) -> None:
        before = replace(drawn, **await alive(world))
        session, keys = await begin(world, before)
        agreed = terms(before.revision)
        done = await session.append(agreed, Batch(batch, id_key("1f"), 77), FREE)
        tokens = sum(record.tokens for record in batch)
        assert done == Appended(
            before.next,
            duplicate=False,
            tokens=before.tokens + tokens,
            length=len(batch),
            evicted=0,
            epoch=before.epoch,
            over=False,
            torn=False,
        )
        after = await read_small(world.raw, keys)
        records = (await session.everything(agreed)).records
        safe = [record for record in records if record.protected]
        assert after == replace(
            before,
            next=before.next + len(batch),
            tokens=before.tokens + tokens,
            messages=len(batch),
            size=before.size + sum(len(record.encoded()) for record in records),
            version=before.version + 1,
            pinned=len(safe),
            pinned_tokens=sum(record.tokens for record in safe),
            ids=before.ids or 1,
            id=(before.id + 1) % 2**16,
            known=min(before.known + 1, agreed.max_ids),
            rule="ttl",
            expires_at=after.expires_at,
            touched=after.touched,
            others=after.others,
        )
        assert (after.expires_at - after.touched, after.touched > before.touched) == (HOUR, True)
        assert {name[2:] for name in after.others} == {call for one in batch for call in one.opens}
        assert [record.seq for record in records] == [before.next + n for n in range(len(batch))]

        again = await session.append(agreed, Batch(batch, id_key("1f"), 77), FREE)
        assert (again.seq, again.duplicate, again.tokens) == (before.next, True, done.tokens)
        with pytest.raises(IdempotencyConflict, match=str(before.next)):
            await session.append(agreed, Batch(batch, id_key("1f"), 78), FREE)
        assert await read_small(world.raw, keys) == after

    @SETTINGS
    @given(
        drawn=metas,
        holder=st.text(max_size=40).map(lambda name: name.encode()[:60].decode(errors="ignore")),
        patience=st.sampled_from([0, 30_000, HOUR, 10**8 - 1]),
    )
    async def test_a_turn_leaves_counters_of_any_size_as_they_are(
        self, world: World, drawn: Meta, holder: str, patience: int
    ) -> None:
        before = replace(drawn, messages=drawn.dropped, **await alive(world))
        session, keys = await begin(world, before)
        agreed = terms(before.revision, retention={"ttl": "1h", "refreshOn": ["Read", "Write"]})
        tokens = [lease_token(patience) for _ in range(6)]
        granted = await session.acquire(agreed, tokens[0], holder)
        assert isinstance(granted, Granted)
        assert (granted.epoch, granted.seen) == (before.epoch, before.next - 1)
        fences = [granted.fence]
        queued = await session.acquire(agreed, tokens[1], "another")
        assert isinstance(queued, Queued)
        for token in tokens[2:]:  # each takes it from the one before
            taken = await session.acquire(agreed, token, holder, interrupt=True)
            assert isinstance(taken, Granted)
            fences.append(taken.fence)
            await read_small(world.raw, keys)
        with pytest.raises(TurnInterrupted):
            await session.renew(agreed, tokens[-2], before.epoch)
        assert await session.renew(agreed, tokens[-1], before.epoch, holder) == before.revision
        await session.everything(agreed)  # which counts as a read
        held = await read_small(world.raw, keys)
        assert held.lease is not None
        assert held.lease.token == tokens[-1]
        fences.append(held.lease.fence)
        assert fences[:-1] == sorted(set(fences[:-1]))
        assert fences[-1] == fences[-2]
        await session.release(agreed, tokens[-1])
        await session.release(agreed, tokens[1])
        after = await read_small(world.raw, keys)
        assert after == replace(
            before,
            rule="ttl",
            expires_at=after.expires_at,
            touched=after.touched,
            lease=after.lease,
            others=after.others,
        )

    @SETTINGS
    @given(drawn=metas, batch=batches)
    async def test_what_leaves_is_taken_off_counters_of_any_size(
        self, world: World, drawn: Meta, batch: tuple[Prepared, ...]
    ) -> None:
        before = replace(drawn, **await alive(world))
        session, keys = await begin(world, before)
        agreed = terms(before.revision)
        await session.append(agreed, Batch(batch), FREE)
        last = (await session.newest(agreed, 1))[0]
        full = await read_small(world.raw, keys)
        done = await session.pop(agreed, FREE, expected=last.seq, opens=batch[-1].opens, closes=())
        assert done.records == 1
        popped = await read_small(world.raw, keys)
        assert popped == replace(
            full,
            tokens=full.tokens - last.tokens,
            messages=full.messages - 1,
            size=full.size - len(last.encoded()),
            version=full.version + 1,
            pinned=full.pinned - last.protected,
            pinned_tokens=full.pinned_tokens - last.tokens * last.protected,
            hist=True,
            expires_at=popped.expires_at,
            touched=popped.touched,
            others=popped.others,
        )
        cleared = await session.clear(agreed, FREE, force=False)
        empty = await read_small(world.raw, keys)
        assert empty == Meta(
            next=full.next,
            version=full.version + 2,
            dropped=full.dropped,
            ids=full.ids,
            id=full.id,
            known=full.known,
            joined=full.joined,
            hist=True,
            epoch=cleared.epoch,
            created=full.created,
            revision=full.revision,
            expires_at=empty.expires_at,
            touched=empty.touched,
        )
        assert empty.epoch > full.epoch
        assert await world.raw.exists(keys.log, keys.pin) == 0


class TestNewerLayout:
    """A session that a newer version wrote; what follows the layout's number may be anything to us."""

    async def test_is_left_alone(self, world: World) -> None:
        token = lease_token(0)
        now = int((await world.raw.time())[0]) * 1000
        meta = Meta(
            layout=2,
            next=8,
            epoch=5,
            revision=1,
            lease=Lease(token, now + HOUR, 9),
            **await alive(world),
        )
        session, keys = await begin(world, meta)
        fields = meta.fields()
        newer = fields | {b"s": fields[b"s"] + b"more", b"k": fields[b"k"] + b"more"}
        await world.raw.hset(keys.meta, mapping=newer)
        await world.raw.pexpireat(keys.meta, meta.expires_at)
        agreed = terms(2, retention={"ttl": "2h", "refreshOn": ["Read", "Write"]})
        batch = Batch((Prepared(b'"a"', 1),))
        calls: list[Any] = [
            session.append(agreed, batch, FREE),
            session.append(agreed, batch, Caller(token, 5, 7)),
            session.pop(agreed, FREE, expected=7, opens=(), closes=()),
            session.clear(agreed, FREE, force=True),
            session.pin(agreed, FREE, seq=1, pinned=True),
            session.everything(agreed),
            session.tail(agreed, tokens=100),
            session.page(agreed, after=0, limit=10),
            session.status(),
            session.acquire(agreed, lease_token(0), "somebody"),
            session.renew(agreed, token, 5),
        ]
        for call in calls:
            with pytest.raises(UnknownKeys, match=r"newer version \(layout 2\): upgrade"):
                await call
        assert list(await session.newest(agreed, 10)) == []
        assert await world.raw.hgetall(keys.meta) == newer
        assert await world.raw.pexpiretime(keys.meta) == meta.expires_at
        # Giving a lease back changes the lease alone.
        await session.release(agreed, token)
        after = await world.raw.hgetall(keys.meta)
        assert {name: after[name] for name in (b"k", b"s")} == {
            name: newer[name] for name in (b"k", b"s")
        }
        assert await world.raw.pexpiretime(keys.meta) == meta.expires_at


class TestExpiry:
    """Every key of a session expires when its meta says, whichever keys there are."""

    async def test_keys_that_come_later_expire_with_the_others(self, world: World) -> None:
        await world.apply(retention={"ttl": "1h"})
        session = world.session("any")
        there: list[set[str]] = []

        async def look() -> None:
            assert len(await world.expiries("any")) == 1
            present = [name async for name in world.raw.scan_iter(f"mem:{{{world.memory}/any}}:*")]
            there.append({name.decode().rpartition(":")[2] for name in present})

        first = await session.append(user("1"))
        await look()
        await session.append(user("2"), id="r-1")
        await look()
        await session.append(user("3"), pin=True)
        await look()
        await session.pin(first.seq)
        await look()
        assert there == [
            {"meta", "log"},
            {"meta", "log", "ids"},
            {"meta", "log", "ids", "pin"},
            {"meta", "log", "ids", "pin"},
        ]
        async with session.turn() as turn:
            await turn.append(user("4"))
            await look()
        await session.clear()
        await look()
        assert there[-1] == {"meta", "ids", "hist"}
        await session.append(user("5"), pin=True)
        await look()
        assert there[-1] == {"meta", "ids", "hist", "pin"}

    @pytest.mark.parametrize("call", ["clear", "replace"])
    async def test_no_key_outlives_the_longest_life(self, world: World, call: str) -> None:
        await world.apply(retention={"ttl": "1h", "afterClear": "1h", "maxLifetime": "1h"})
        session = world.session("any")
        await session.append(user("1"), id="r-1")
        created = (await world.meta("any")).created
        capped = created + HOUR
        assert await world.expiries("any") == {capped}

        async def later() -> bool:
            seconds, microseconds = await world.raw.time()
            return seconds * 1000 + microseconds // 1000 > created + 1

        await until(later, "a life that began now would end later")
        await (session.clear() if call == "clear" else session.replace([user("2")]))
        assert await world.expiries("any") == {capped}
        await session.append_many([user("3"), user("4")], pin=True)
        await session.append(user("5"), id="r-2")
        assert await world.expiries("any") == {capped}

    @pytest.mark.parametrize("lost", ["log", "pin", "ids", "hist", "meta"])
    async def test_what_is_left_after_a_loss_expires_with_the_others(
        self, world: World, lost: str
    ) -> None:
        await world.apply(retention={"ttl": "1h"})
        session = world.session("any")
        await session.append_many([user("1"), user("2")], id="r-1")
        await session.append(user("3"), pin=True)
        await session.append(user("4"))
        assert await session.pop() == user("4")
        keys = session_keys(world.memory, "any", "mem")
        assert await world.raw.delete(getattr(keys, lost)) == 1
        for number in range(3):
            await asyncio.sleep(0)  # another moment
            await session.append(user(f"after {number}"))
            assert len(await world.expiries("any")) == 1
