"""Sentinels that ask for a password: a workload finds the primary with its own login, and no more."""

import secrets
from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from holdfast.client import Client
from holdfast.errors import AccessDenied, PolicyNotFound
from holdfast.store.access import AccessUser, Grant, password_hash, users_of
from holdfast.store.addresses import Address, Login, Mode
from holdfast.store.redis import RedisStore
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.values import MemoryAddress
from tests.harness.sentinels import NAME, Sentinels
from tests.harness.servers import redis_client

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

CLUSTER = "51e27b1a"


@pytest_asyncio.fixture
async def maintenance(sentinels: Sentinels) -> AsyncGenerator[RedisMaintenance]:
    """The operator's hands, with a login of its own to the Sentinels. Nobody else needs one here."""
    admin = Login("operator", secrets.token_hex(8))
    for port in sentinels.ports:
        async with redis_client(port) as sentinel:
            await sentinel.execute_command(
                "ACL", "SETUSER", "operator", "on", f">{admin.password}", "+@all", "~*", "&*"
            )
    nodes = tuple(("127.0.0.1", port) for port in sentinels.ports)
    address = Address(Mode.SENTINEL, nodes, primary=NAME, sentinel_login=admin)
    hands = RedisMaintenance.over(address)
    await hands.load_scripts()
    yield hands
    await hands.aclose()
    for port in sentinels.ports:
        async with redis_client(port) as sentinel:
            await sentinel.execute_command("ACL", "DELUSER", "operator")


async def known(sentinels: Sentinels, name: str) -> list[bool]:
    """Whether each Sentinel knows a user."""
    found: list[bool] = []
    for port in sentinels.ports:
        async with redis_client(port) as sentinel:
            found.append(name.encode() in await sentinel.execute_command("ACL", "USERS"))
    return found


def as_user(port: int, user: AccessUser, password: str) -> Redis:
    return redis_client(port, username=user.name, password=password)


async def test_a_workload_asks_the_sentinels_where_the_primary_is_and_nothing_else(
    maintenance: RedisMaintenance, sentinels: Sentinels
):
    space = f"team-{secrets.token_hex(4)}"
    memory, name = MemoryAddress(space, "support"), f"am:{CLUSTER}:{space}:agent:{'0' * 8}"
    user = AccessUser(name, (Grant(memory),), (password_hash("one"),))
    access = maintenance.access
    assert await access.manageable()
    assert await access.put(user)
    assert not await access.put(user), "what is so is left alone"
    try:
        hosts = ",".join(f"127.0.0.1:{port}" for port in sentinels.ports)
        who = name.replace(":", "%3A")
        url = (
            f"redis+sentinel://{who}:one@{hosts}/{NAME}"
            f"?sentinel-username={who}&sentinel-password=one"
        )
        async with Client(RedisStore.from_url(url), namespace=space) as client:
            session = client.memory("support").session("s")
            # Let in, and told that nobody wrote a policy: not that it may not ask.
            with pytest.raises(PolicyNotFound):
                await session.append({"role": "user", "content": "hi"})
        async with as_user(sentinels.ports[0], user, "one") as sentinel:
            for command in (
                ("SENTINEL", "FAILOVER", NAME),
                ("SENTINEL", "RESET", "*"),
                ("SENTINEL", "SET", NAME, "quorum", "9"),
                ("SENTINEL", "REMOVE", NAME),
                ("SENTINEL", "CONFIG", "GET", "*"),
                ("ACL", "LIST"),
                ("SHUTDOWN",),
                ("INFO",),
            ):
                with pytest.raises(NoPermissionError):
                    await sentinel.execute_command(*command)
        both = AccessUser(name, user.grants, (password_hash("two"), password_hash("one")))
        assert await access.put(both)
        for password in ("one", "two"):
            async with as_user(sentinels.ports[1], user, password) as sentinel:
                assert await sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME)
        # A Sentinel that lost its users is told again.
        async with redis_client(sentinels.ports[2]) as sentinel:
            await sentinel.execute_command("ACL", "DELUSER", name)
        assert await access.put(both)
        assert await known(sentinels, name) == [True, True, True]
        assert await access.users(users_of(CLUSTER)) == {name}
    finally:
        await access.revoke(name)
    assert await known(sentinels, name) == [False, False, False]
    async with as_user(sentinels.ports[0], user, "two") as sentinel:
        with pytest.raises(AuthenticationError):
            await sentinel.ping()


async def test_an_operator_that_may_not_make_users_there_is_told(sentinels: Sentinels):
    nodes = tuple(("127.0.0.1", port) for port in sentinels.ports)
    for port in sentinels.ports:
        async with redis_client(port) as sentinel:
            await sentinel.execute_command(
                "ACL", "SETUSER", "asking", "on", ">pw", "-@all", "+ping", "+sentinel"
            )
    address = Address(Mode.SENTINEL, nodes, primary=NAME, sentinel_login=Login("asking", "pw"))
    hands = RedisMaintenance.over(address)
    try:
        assert not await hands.access.manageable()
        user = AccessUser(
            f"am:{CLUSTER}:a:b:{'0' * 8}",
            (Grant(MemoryAddress("a", "b")),),
            (password_hash("x"),),
        )
        with pytest.raises(AccessDenied):
            await hands.access.put(user)
    finally:
        await hands.aclose()
        for port in sentinels.ports:
            async with redis_client(port) as sentinel:
                await sentinel.execute_command("ACL", "DELUSER", "asking")
