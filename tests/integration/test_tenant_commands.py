"""A tenant with its password in hand tries every command that the server has, in many forms.

Nothing outside its patterns may be read, listed, written or guessed, and no command may stop or slow
the server. Each command goes over a connection of its own, and everything that is not the tenant's is
compared before and after.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from holdfast.store.access import AccessUser, Grant, password_hash, user_name
from holdfast.store.addresses import Login, Mode
from holdfast.store.redis.acl import commands, rules
from holdfast.store.redis.carrier import Broken, PoolCarrier, Reply
from holdfast.store.redis.pools import make_pool
from holdfast.store.redis.script import all_scripts
from holdfast.values import MemoryAddress
from tests.harness.attempts import attempts, commands_of, special
from tests.harness.servers import Product, Server
from tests.harness.waiting import until

pytestmark = [pytest.mark.redis, pytest.mark.asyncio, pytest.mark.slow]

ADMIN = "admin-password"
PASSWORD = "tenant-password"
ALWAYS = {"auth", "hello", "quit", "reset"}
"""What no rule can take away: it logs in and out."""
KEYLESS = ALWAYS | {"ping"}
"""Of the granted ones, what takes a word that is no key; PING says it back."""
CONTENT = "content-of-others"
MINE = MemoryAddress("team-a", "support")
STATE = """#!lua flags=allow-cross-slot-keys
local all = {}
for _, key in ipairs(redis.call('KEYS', '*')) do
  table.insert(all, key)
  table.insert(all, redis.call('DUMP', key))
  table.insert(all, redis.call('PEXPIRETIME', key))
end
return all
"""
"""Every key with its content and its expiry; asked for after every few commands."""
SLOTS = ("CLUSTER", "ADDSLOTSRANGE", "0", "16383")


class Place:
    """A server with the keys of several tenants."""

    def __init__(self, server: Server, raw: Redis, mode: Mode) -> None:
        self.server = server
        self.raw = raw
        self.mode = mode
        self.hidden = f"hidden-{secrets.token_hex(8)}"  # a session that nobody names to the tenant

    async def fill(self, readable: str) -> None:
        """Write keys of several memories.

        Args:
            readable: matches the keys that the tenant may read; all others hold `CONTENT`.
        """
        for one in all_scripts():
            await self.raw.execute_command("SCRIPT", "LOAD", one.body)
        names = ["known", "user:42", "user:42:x", "user:421", "user:4"]
        for memory in ("team-a/support", "team-a/support2", "team-a/other", "team-b/support"):
            mine = memory == str(MINE)
            for kind in ("policy", "owner", "usage"):
                key = f"mem:{{{memory}}}:{kind}"
                await self.raw.hset(key, "doc", _content(key, readable))
            for session in names if mine else [*names, self.hidden]:
                base = f"mem:{{{memory}/{session}}}"
                await self.raw.rpush(f"{base}:log", _content(f"{base}:log", readable))
                await self.raw.hset(f"{base}:meta", "h", _content(f"{base}:meta", readable))
                await self.raw.zadd(f"mem:{{{memory}}}:sessions", {session: 1})
        for key in ("plain", "other:{team-a/support/known}:log", "mem:{team-a/support"):
            await self.raw.rpush(key, CONTENT)

    async def user(self, grant: Grant, *more: str) -> AccessUser:
        name = user_name(cluster="0" * 8, namespace="team-a", binding="agent", uid="1" * 8)
        user = AccessUser(name, (grant,), (password_hash(PASSWORD),))
        rule = rules(user, self.mode, "mem")
        await self.raw.execute_command("ACL", "SETUSER", name, *rule, *more)
        return user

    async def state(self, *, but: str) -> dict[bytes, tuple[Any, Any]]:
        """Every key but those that match, with its content and its expiry."""
        said: list[Any] = await self.raw.execute_command("EVAL", STATE, "0")
        found = zip(said[::3], said[1::3], said[2::3], strict=True)
        return {
            key: (content, expiry)
            for key, content, expiry in found
            if not re.search(but, key.decode())
        }

    async def settings(self) -> tuple[Any, ...]:
        """What of the server a tenant could have changed."""
        return (
            await self.raw.execute_command("ACL", "LIST"),
            await self.raw.config_get("*"),
            await self.raw.execute_command("FUNCTION", "LIST"),
            (await self.raw.execute_command("ROLE"))[0],
            (await self.raw.info("server"))["run_id"],
            await self.raw.execute_command("SCRIPT", "EXISTS", *(one.sha for one in all_scripts())),
        )


@pytest_asyncio.fixture
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Place]:
    product = Product.REDIS if request.param == "redis" else Product.VALKEY
    arguments = ["--maxclients", "200"]
    mode = Mode.STANDALONE
    if request.param == "cluster":
        mode = Mode.CLUSTER
        arguments += ["--cluster-enabled", "yes", "--cluster-require-full-coverage", "no"]
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(Server(product, tmp_path, arguments=arguments))
        raw = await stack.enter_async_context(server.client())
        if mode is Mode.CLUSTER:
            await raw.execute_command(*SLOTS)
            await until(lambda: _is_up(raw), "the node serves all slots")
        # Without this everybody is the user `default` who asks for it.
        await raw.execute_command("CONFIG", "SET", "requirepass", ADMIN)
        raw.connection_pool.connection_kwargs["password"] = ADMIN
        place = Place(server, raw, mode)
        yield place


class Tenant:
    """Sends what it likes as one user."""

    def __init__(self, server: Server, user: AccessUser) -> None:
        self._port = server.port
        self._login = Login(user.name, PASSWORD)

    async def send(self, tries: Sequence[Sequence[str]], *, apart: bool) -> list[Reply]:
        """Send commands; `apart`: each over a connection of its own, as one may end it."""
        groups = [[one] for one in tries] if apart else [list(tries)]
        done = await asyncio.gather(*(self._send(group) for group in groups))
        return [reply for replies in done for reply in replies]

    async def _send(self, tries: Sequence[Sequence[str]]) -> list[Reply]:
        pool = make_pool(("127.0.0.1", self._port), login=self._login, tls=None, timeout=60.0)
        carrier = PoolCarrier(pool, owned=True, timeout=60.0)
        try:
            return await carrier.exchange(tries)
        except Broken as error:
            return [error] * len(tries)
        finally:
            await carrier.aclose()


class Watch:
    """Compares what is not the tenant's before and after."""

    def __init__(self, place: Place, *, own: str) -> None:
        self._place = place
        self._own = own
        self._before: Any = None
        self._settings: Any = None

    async def begin(self) -> None:
        self._before = await self._place.state(but=self._own)
        self._settings = await self._place.settings()
        assert len(self._before) > 20

    async def same(self, after: str) -> None:
        asked = time.monotonic()
        assert await self._place.raw.ping()
        # What is tried would stop the server for thirty seconds: a busy machine does not.
        assert time.monotonic() - asked < 20, f"{after} slows the server"
        assert await self._place.state(but=self._own) == self._before, f"{after} changed keys"

    async def end(self) -> None:
        assert await self._place.settings() == self._settings


class Kind(NamedTuple):
    """One kind of tenant: its grant, a session of its own, and the keys that it may write and read."""

    grant: Grant
    session: str
    writes: str
    reads: str


OF_ALL = r"^mem:\{team-a/support(/|\}:(sessions$|label:))"
KINDS = {
    "all": Kind(Grant(MINE), "known", OF_ALL, OF_ALL),
    "fields": Kind(
        Grant(MINE, fixed="user:42:"),
        "user:42:x",
        r"^mem:\{team-a/support(/user:42:|\}:(sessions$|label:))",
        r"^mem:\{team-a/support/user:42:",
    ),
    "one": Kind(
        Grant(MINE, fixed="user:42", whole=True),
        "user:42",
        r"^mem:\{team-a/support(/user:42\}:|\}:(sessions$|label:))",
        r"^mem:\{team-a/support/user:42\}:",
    ),
    "reader": Kind(Grant(MINE, read_only=True), "known", "^nothing$", OF_ALL),
    "reader-of-one": Kind(
        Grant(MINE, True, "user:42", whole=True),
        "user:42",
        "^nothing$",
        r"^mem:\{team-a/support/user:42\}:",
    ),
}


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        *(("valkey", kind) for kind in KINDS),
        *(("redis", kind) for kind in ("fields", "reader")),
        ("cluster", "all"),
    ],
    indirect=["place"],
)
async def test_nothing_reaches_beyond_the_grant(place: Place, kind: str) -> None:
    await try_commands(place, kind)
    await try_scripts(place, kind)


@pytest.mark.parametrize("place", ["valkey"], indirect=True)
@pytest.mark.parametrize("hole", ["+randomkey", "%R~mem:*", "~mem:{team-a/support}:*", "+dbsize"])
async def test_a_hole_would_be_found(place: Place, hole: str) -> None:
    with pytest.raises(AssertionError, match=r"is allowed|reads|lists|changed"):
        await try_commands(place, "all", hole)


async def try_commands(place: Place, kind: str, *more: str) -> None:
    """Try every command of the server as a tenant of this kind."""
    grant, session, writes, reads = KINDS[kind]
    await place.fill(rf"{reads}|^mem:\{{team-a/support\}}:(policy|usage)$")
    tenant = Tenant(place.server, await place.user(grant, *more))
    granted = set(commands(place.mode, read_only=grant.read_only)) | ALWAYS
    own = f"mem:{{team-a/support/{session}}}:log"
    beyond = ["mem:{team-b/support/known}:log", "mem:{team-b/support/absent}:log"]
    if grant.fixed:
        beyond = ["mem:{team-a/support/user:421}:log", "mem:{team-a/support/user:422}:log"]
    there, absent = beyond
    watch = Watch(place, own=writes)
    await watch.begin()
    known = await commands_of(place.raw)
    assert len(known) > 300
    denied = [command for command in known if command.name not in granted]
    refused: set[str] = set()
    for first in range(0, len(denied), 25):
        some = denied[first : first + 25]
        tries = [(command, one) for command in some for one in attempts(command, own, there)]
        replies = await tenant.send([one for _, one in tries], apart=False)
        for (command, one), reply in zip(tries, replies, strict=True):
            assert isinstance(reply, Exception), f"{one} is allowed"
            if isinstance(reply, NoPermissionError):
                refused.add(command.name)
        await watch.same(", ".join(command.name for command in some))
    # By permission, not for its form: but for what the server has switched off, or has for itself.
    left = {command.name for command in denied} - refused
    assert left <= {"debug", "module|load", "module|loadex", "module|unload"}, left
    for command in known:
        if command.name in granted:
            tries = list(attempts(command, own, there))
            apart = command.name in ALWAYS
            replies = await tenant.send(tries, apart=apart)
            _tells_nothing(place, tries, replies, there)
            # One that is not there is refused in the same words: nobody can ask what is.
            others = [tuple(absent if word == there else word for word in one) for one in tries]
            again = await tenant.send(others, apart=apart)
            named = [at for at, one in enumerate(tries) if there in one[:3] and own not in one]
            assert _said([again[at] for at in named]).replace(absent, there) == _said(
                [replies[at] for at in named]
            )
            # What the operator keeps in the tenant's own memory.
            kept = [f"mem:{{team-a/support}}:{each}" for each in ("owner", "policy", "usage")]
            tries = [one for key in kept for one in attempts(command, own, key) if key in one]
            if tries and not apart:
                _tells_nothing(place, tries, await tenant.send(tries, apart=False), there)
            await watch.same(command.name)
    for one in special(own, there):
        [reply] = await tenant.send([one], apart=True)
        _tells_nothing(place, [one], [reply], there)
        await watch.same(" ".join(one))
    await watch.end()


async def try_scripts(place: Place, kind: str) -> None:
    """Try every script that the server has, the operator's included, on keys of others."""
    grant, session, writes, _ = KINDS[kind]
    tenant = Tenant(place.server, await place.user(grant))
    other = "user:421" if grant.fixed else "known"
    memory = "team-a/support" if grant.fixed else "team-b/support"
    own = [f"mem:{{team-a/support/{session}}}:{kind}" for kind in ("meta", "log", "pin", "ids")]
    there = [
        f"mem:{{{memory}/{other}}}:{kind}" for kind in ("meta", "log", "pin", "ids", "hist", "q")
    ]
    policies = [
        f"mem:{{team-a/support}}:{kind}" for kind in ("policy", "owner", "usage", "sessions")
    ]
    watch = Watch(place, own=writes)
    await watch.begin()
    for one in all_scripts():
        tries = [
            (run, one.sha.decode(), str(len(keys)), *keys, *arguments)
            for run in ("EVALSHA", "EVALSHA_RO")
            for keys in (there, there[:5], own + there[:2], policies, [*policies, there[1]])
            for arguments in ([], there, ["0"] * 10, [CONTENT])
        ]
        for command, reply in zip(tries, await tenant.send(tries, apart=False), strict=True):
            assert isinstance(reply, Exception), command
            _tells_nothing(place, [command], [reply], there[1])
        await watch.same(one.name)
    await watch.end()


def _tells_nothing(
    place: Place, tries: Sequence[Sequence[str]], replies: Sequence[Reply], there: str
) -> None:
    for one, reply in zip(tries, replies, strict=True):
        said = _said(reply)
        assert CONTENT not in said or CONTENT in one, f"{one} reads {said[:200]}"
        assert place.hidden not in said, f"{one} lists {said[:200]}"
        if there in one[1:2] and one[0] not in KEYLESS:
            assert isinstance(reply, Exception), f"{one} is allowed"


async def _is_up(raw: Redis) -> bool:
    return b"cluster_state:ok" in await raw.execute_command("CLUSTER", "INFO")


def _said(reply: Reply) -> str:
    return str(reply)  # errors within lists included


def _content(key: str, readable: str) -> str:
    return "content-of-its-own" if re.search(readable, key) else CONTENT
