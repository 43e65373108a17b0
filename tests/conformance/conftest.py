"""What the bindings of the conformance suite share."""

import secrets
from typing import Any

import pytest

from holdfast.policy import load_policy
from holdfast.store import MemoryStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.maintenance import Owner, Totals
from holdfast.store.redis import RedisStore
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.testing.conformance import Govern
from holdfast.values import MemoryAddress, PolicyDocument


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture
def govern(store: MemoryStore) -> Govern:
    """An operator of the store under test."""

    async def govern(memory: MemoryAddress, spec: dict[str, Any], /, **held: int) -> None:
        _, policy = load_policy(spec)
        if isinstance(store, InMemoryStore):
            before = await store.policy(memory)
            revision = before.revision + 1 if before is not None else 1
            store.put_policy(memory, PolicyDocument(revision, True, policy.document().encode()))
            if held:
                store.put_usage(memory, **held)
            return
        assert isinstance(store, RedisStore)
        hands = RedisMaintenance(store._carrier)
        owner = Owner("cluster-1", "namespace-1", *memory, "uid-1", 1)
        await hands.load_scripts()
        await hands.claim(memory, owner)
        assert await hands.put_policy(memory, owner, policy.document(), policy.sha256())
        if held:
            await hands.put_usage(memory, owner, Totals(**held))

    return govern
