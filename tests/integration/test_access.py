"""Users of a server: made exactly so, kept so, revoked, and tried by what they can do."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, Sequence

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from holdfast.errors import AccessDenied, StoreUnavailable
from holdfast.store.access import AccessUser, Grant, password_hash, user_name, users_of
from holdfast.store.addresses import Address, Login, Mode
from holdfast.store.redis.access import RedisAccess
from holdfast.store.redis.carrier import Broken, Carrier
from holdfast.store.redis.connecting import make_carrier
from holdfast.values import MemoryAddress
from tests.harness.servers import Server
from tests.harness.waiting import until
from tests.integration.world import World

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

NOBODY = Login()
CLUSTER = "0d8c3b1a-7f1e-4c0a-9b1e-1f2e3d4c5b6a"


def made(
    *grants: Grant, name: str = "agent", passwords: Sequence[str] = ("one",), uid: str = ""
) -> AccessUser:
    """A user of a binding in a namespace of its own."""
    return AccessUser(
        user_name(
            cluster=CLUSTER, namespace="team-a", binding=name, uid=uid or secrets.token_hex(8)
        ),
        grants or (Grant(MemoryAddress("team-a", "support")),),
        tuple(map(password_hash, passwords)),
    )


@contextlib.asynccontextmanager
async def managing(server: Server, login: Login = NOBODY) -> AsyncGenerator[RedisAccess]:
    """The hands on a server's users, as somebody."""
    address = Address(Mode.STANDALONE, (("127.0.0.1", server.port),), login=login)
    carrier = make_carrier(address, timeout=5.0)
    yield RedisAccess.of(address, carrier, prefix="mem", timeout=5.0)
    await carrier.aclose()


def as_user(server: Server, user: AccessUser, password: str = "one") -> Carrier:
    login = Login(user.name, password)
    address = Address(Mode.STANDALONE, (("127.0.0.1", server.port),), login=login)
    return make_carrier(address, timeout=5.0)


@pytest_asyncio.fixture
async def access(world: World) -> AsyncGenerator[RedisAccess]:
    async with managing(world.server) as access:
        yield access


class TestPut:
    async def test_what_is_so_is_left_alone(self, access: RedisAccess) -> None:
        user = made(
            Grant(MemoryAddress("team-a", "support")),
            Grant(MemoryAddress("team-b", "chat.1"), read_only=True),
            Grant(MemoryAddress("team-c", "x"), fixed="user:4%3A2:"),
            passwords=("one", "two"),
        )
        assert await access.put(user)
        assert not await access.put(user)
        await access.revoke(user.name)

    @pytest.mark.parametrize(
        "drift",
        [
            "off",
            "nopass",
            "on >mine",
            "+get",
            "+@all",
            "-hset",
            "~*",
            "%R~mem:{team-b/*",
            "resetkeys",
            "&*",
            "allchannels",
            "(+get ~*)",
            "resetpass",
        ],
    )
    async def test_what_was_edited_on_the_server_is_repaired(
        self, access: RedisAccess, world: World, drift: str
    ) -> None:
        user = made()
        await access.put(user)
        before = await world.raw.execute_command("ACL", "GETUSER", user.name)
        parts = [drift] if drift.startswith("(") else drift.split()
        await world.raw.execute_command("ACL", "SETUSER", user.name, *parts)
        assert await access.put(user)
        assert await world.raw.execute_command("ACL", "GETUSER", user.name) == before
        assert not await access.put(user)
        await access.revoke(user.name)

    async def test_a_rule_that_lets_a_user_into_other_databases_is_repaired(
        self, valkey_server: Server
    ) -> None:
        user = made()
        async with managing(valkey_server) as access, valkey_server.client() as raw:
            await access.put(user)
            await raw.execute_command("ACL", "SETUSER", user.name, "alldbs")
            assert await access.put(user)
            assert not await access.put(user)
            await access.revoke(user.name)

    async def test_passwords_come_and_go_without_closing_a_connection(
        self, access: RedisAccess, world: World
    ) -> None:
        uid = "ab" * 4
        await access.put(made(uid=uid, passwords=("one",)))
        user = made(uid=uid, passwords=("two",))
        first = as_user(world.server, user, "one")
        assert await first.exchange([(b"PING",)]) == [b"PONG"]
        await access.put(made(uid=uid, passwords=("two", "one")))
        second = as_user(world.server, user, "two")
        assert await second.exchange([(b"PING",)]) == [b"PONG"]
        await access.put(user)
        for carrier in (first, second):
            assert await carrier.exchange([(b"PING",)]) == [b"PONG"]
        late = as_user(world.server, user, "one")
        with pytest.raises(AccessDenied):
            await late.exchange([(b"PING",)])
        await access.revoke(user.name)
        for carrier in (first, second, late):
            await carrier.aclose()


class TestRevoke:
    async def test_live_connections_end_with_their_user(
        self, access: RedisAccess, world: World
    ) -> None:
        user = made()
        await access.put(user)
        carrier = as_user(world.server, user)
        waiting = asyncio.create_task(
            carrier.block((b"BLPOP", b"mem:{team-a/support/x}:w:1", 30), 30)
        )
        await until(lambda: _clients_of(world.raw, user.name), "it waits")
        await carrier.exchange([(b"PING",)])
        await access.revoke(user.name)
        with pytest.raises(Broken):
            await asyncio.wait_for(waiting, 20)
        with pytest.raises((AccessDenied, Broken)):
            await carrier.exchange([(b"PING",)])
        assert not await _clients_of(world.raw, user.name)
        await access.revoke(user.name)  # nobody: fine
        await carrier.aclose()

    async def test_only_those_that_begin_so_are_listed(self, access: RedisAccess) -> None:
        user = made(name="listed")
        await access.put(user)
        assert user.name in await access.users(users_of(CLUSTER))
        assert not await access.users("am:ffffffff:")
        await access.revoke(user.name)
        assert user.name not in await access.users("am:")


class TestRefused:
    async def test_who_may_not_make_users_is_told_so(self, world: World) -> None:
        name = f"admin-{secrets.token_hex(4)}"
        rule = "+@all -acl|setuser"
        await world.raw.execute_command("ACL", "SETUSER", name, "on", ">x", "~*", *rule.split())
        async with managing(world.server, Login(name, "x")) as access:
            with pytest.raises(AccessDenied, match="may not manage users"):
                await access.put(made())
        await world.raw.execute_command("ACL", "DELUSER", name)

    async def test_a_server_that_is_away_says_nothing(self, own_server: Server) -> None:
        await own_server.stop()
        async with managing(own_server) as access:
            with pytest.raises(StoreUnavailable):
                await access.put(made())


class TestProbe:
    GRANTS = (
        Grant(MemoryAddress("team-a", "support")),
        Grant(MemoryAddress("team-b", "chat"), read_only=True),
        Grant(MemoryAddress("team-c", "one"), fixed="user:42:"),
        Grant(MemoryAddress("team-d", "one"), fixed="user:42", whole=True),
    )

    async def probe(
        self, world: World, access: RedisAccess, rule: Sequence[str], *grants: Grant
    ) -> tuple[str, ...]:
        name = f"elsewhere-{secrets.token_hex(4)}"
        await world.raw.execute_command("ACL", "SETUSER", name, "on", ">x", *rule)
        # Not by how many keys there are: those of other tests expire meanwhile.
        written = await world.changes()
        found = await access.probe(Login(name, "x"), grants or self.GRANTS)
        assert await world.changes() == written
        await world.raw.execute_command("ACL", "DELUSER", name)
        return found

    async def test_the_rule_that_is_asked_for_is_right(
        self, access: RedisAccess, world: World
    ) -> None:
        for grants in (self.GRANTS, self.GRANTS[:1], self.GRANTS[1:2], self.GRANTS[2:]):
            rule = access.required(grants).split()
            assert await self.probe(world, access, rule, *grants) == ()

    async def test_whatever_is_missing_is_named(self, access: RedisAccess, world: World) -> None:
        rule = access.required(self.GRANTS).split()
        for part in rule:
            if part[0] == "+" and part not in ("+multi", "+exec"):
                left = [other for other in rule if other != part]
                [found] = await self.probe(world, access, left)
                name = part[1:].replace("|", " ").upper()
                assert "needed, but refused: " in found
                assert name in found.replace(",", "").split(": ")[1]
        for part in ("+multi", "+exec"):
            left = [other for other in rule if other != part]
            [found] = await self.probe(world, access, left)
            assert "MULTI and EXEC" in found
        for part, said in {
            "~mem:{team-a/support/*": "writing sessions of team-a/support",
            "~mem:{team-a/support}:label:*": "writing the index of team-a/support",
            "%R~mem:{team-b/chat/*": "reading sessions of team-b/chat",
            "%R~mem:{team-b/chat}:policy": "reading the policy of team-b/chat",
            "~mem:{team-d/one/user:42}:*": "writing sessions of team-d/one",
        }.items():
            assert part in rule
            [found] = await self.probe(world, access, [one for one in rule if one != part])
            assert said in found

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ("+eval", "EVAL"),
            ("+script|load", "SCRIPT LOAD"),
            ("+scan", "SCAN"),
            ("+keys", "KEYS"),
            ("+info", "INFO"),
            ("+flushall", "FLUSHALL"),
            ("~mem:*", "writing keys of others"),
            ("%R~mem:*", "reading keys of others"),
            ("~mem:{team-b/chat/*", "writing sessions of team-b/chat"),
            ("~mem:{team-a/support}:*", "writing the policy of team-a/support"),
            ("%R~mem:{team-a/support}:owner", "reading the owner of team-a/support"),
            ("~mem:{team-c/one/user:42*", "writing other sessions of team-c/one"),
            ("~mem:{team-d/one/user:42*", "writing other sessions of team-d/one"),
            ("%R~mem:{team-d/one/*", "reading other sessions of team-d/one"),
        ],
    )
    async def test_whatever_is_too_much_is_named(
        self, access: RedisAccess, world: World, more: str, said: str
    ) -> None:
        rule = [*access.required(self.GRANTS).split(), more]
        [found] = await self.probe(world, access, rule)
        assert found.startswith("allowed, but must not be: ")
        assert said in found

    async def test_a_refused_password_is_no_finding(
        self, access: RedisAccess, world: World
    ) -> None:
        with pytest.raises(AccessDenied, match="refused the credentials"):
            await access.probe(Login(f"nobody-{secrets.token_hex(4)}", "x"), self.GRANTS)

    async def test_nothing_is_done_that_is_tried(self, own_server: Server) -> None:
        async with own_server.client() as raw, managing(own_server) as own:
            await raw.set("kept", "x")
            await raw.execute_command("ACL", "SETUSER", "all", "on", ">x", "+@all", "~*", "&*")
            [found] = await own.probe(Login("all", "x"), self.GRANTS)
            assert "FLUSHALL" in found
            assert await raw.keys("*") == [b"kept"]


async def _clients_of(raw: Redis, name: str) -> bool:
    return any(client["user"] == name for client in await raw.client_list())
