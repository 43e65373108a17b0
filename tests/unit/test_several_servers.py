"""What is done on every server of a backend, where one of them is away, a replica, or refuses."""

from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from holdfast.errors import AccessDenied, ServerTooOld, StoreUnavailable
from holdfast.store.access import AccessUser, Grant, password_hash
from holdfast.store.addresses import Login
from holdfast.store.redis.access import RedisAccess
from holdfast.store.redis.carrier import Broken, Carrier, Command
from holdfast.store.redis.fleet import Fleet as Servers
from holdfast.store.redis.replies import raise_for
from holdfast.store.redis.surveying import Surveyor, Task
from holdfast.store.redis.trial import NO_MAP
from holdfast.values import MemoryAddress

pytestmark = pytest.mark.asyncio

MEMORY = MemoryAddress("team-a", "support")
USER = AccessUser("am:0d8c3b1a:team-a:agent:7f1e4c0a", (Grant(MEMORY),), (password_hash("secret"),))
ORPHAN = b"mem:{team-b/gone/s}:log"


class Node:
    """A server that answers each command by its name, with a reply or an error as its fault."""

    def __init__(self, replies: dict[bytes, Any] | None = None, *, fault: Exception | None = None):
        self.replies = replies or {}
        self.fault = fault
        self.heard: list[Command] = []

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Any]:
        if self.fault is not None:
            raise self.fault
        self.heard += commands
        return [self._reply(command) for command in commands]

    def _reply(self, command: Command) -> Any:
        name = command[0]
        assert isinstance(name, bytes)
        key = b" ".join([name, *(one for one in command[1:2] if isinstance(one, bytes))])
        return self.replies.get(key, self.replies.get(name, b"OK"))

    async def block(self, command: Command, seconds: float) -> None:
        raise AssertionError("nobody waits here")

    async def nodes(self) -> Sequence[Carrier]:
        return [self]

    async def primaries(self) -> Sequence[Carrier]:
        return [self]

    async def aclose(self) -> None: ...


class Fleet(Node):
    """A carrier to several."""

    def __init__(self, *members: Node, fault: Exception | None = None) -> None:
        super().__init__(fault=fault)
        self.members = members

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Any]:
        return await self.members[0].exchange(commands)

    async def nodes(self) -> Sequence[Carrier]:
        if self.fault is not None:
            raise self.fault
        return self.members


def hands(fleet: Fleet) -> RedisAccess:
    return RedisAccess(fleet, connect=lambda _: fleet)


def refusal() -> AccessDenied:
    """The error that a denied command becomes."""
    try:
        raise_for(NoPermissionError("no permission to run cluster|slots"))
    except AccessDenied as error:
        return error


class TestUsers:
    async def test_who_is_there_gets_the_user_and_who_is_away_is_told_of(self) -> None:
        there, away = Node({b"ACL GETUSER": None}), Node(fault=Broken("gone"))
        with pytest.raises(StoreUnavailable, match="1 of 2 servers cannot be reached"):
            await hands(Fleet(away, there)).put(USER)
        assert [command[1] for command in there.heard] == [b"GETUSER", b"SETUSER"]

    async def test_a_server_alone_that_is_away_says_why(self) -> None:
        with pytest.raises(StoreUnavailable, match="does not answer in time") as silent:
            await hands(Fleet(Node(fault=Broken("no reply")))).put(USER)
        assert isinstance(silent.value.__cause__, Broken)
        away = StoreUnavailable("no connection to the server")
        with pytest.raises(StoreUnavailable) as told:
            await hands(Fleet(Node(fault=away))).put(USER)
        assert told.value is away

    async def test_who_refuses_is_told_of_before_who_is_away(self) -> None:
        refuses = Node({b"ACL": NoPermissionError("no permission to run acl|getuser")})
        with pytest.raises(AccessDenied, match="may not manage users"):
            await hands(Fleet(Node(fault=Broken("gone")), refuses)).put(USER)

    async def test_another_error_of_a_server_is_no_refusal(self) -> None:
        strange = Node({b"ACL": ResponseError("something new")})
        with pytest.raises(StoreUnavailable, match="answered with an error"):
            await hands(Fleet(strange)).revoke(USER.name)

    async def test_a_rule_that_is_refused_for_another_reason_is_not_tried_with_less(self) -> None:
        node = Node({b"ACL GETUSER": None, b"ACL SETUSER": ResponseError("out of room")})
        with pytest.raises(StoreUnavailable):
            await hands(Fleet(node)).put(USER)
        assert [command[1] for command in node.heard] == [b"GETUSER", b"SETUSER"]

    async def test_who_may_not_see_the_map_has_that_for_a_finding(self) -> None:
        found = await hands(Fleet(fault=refusal())).probe(Login("a", "b"), USER.grants)
        assert found == (NO_MAP,)
        with pytest.raises(AccessDenied):  # a wrong password is none
            await hands(Fleet(fault=AccessDenied("refused"))).probe(Login("a", "b"), USER.grants)


def survey(fleet: Fleet) -> Surveyor:
    task = Task(frozenset(), frozenset(), "cluster", frozenset(), mend=False)
    return Surveyor(fleet, "mem", task, patience=0.0)


def holding(*keys: bytes, role: Any) -> Node:
    """A server with keys, all of which are found at once, and without an expiry."""
    return Node(
        {
            b"EVALSHA": [b"0", list(keys)],
            b"EVALSHA_RO": [b"0", list(keys)],
            b"ROLE": role,
            b"HMGET": [None, None],
            b"PTTL": -1,
        }
    )


class TestSurvey:
    async def test_every_primary_is_walked_and_no_replica(self) -> None:
        primary = holding(ORPHAN, b"mem:{no memory", role=[b"master"])
        replica = holding(ORPHAN, role=[b"slave"])
        walk = survey(Fleet(primary, replica))
        first = await walk.step(0, 10)
        assert (first.cursor != 0, first.seen, len(first.orphans)) == (True, 2, 1)
        second = await walk.step(first.cursor, 10)
        assert (second.cursor, second.seen, second.orphans) == (0, 0, {})

    async def test_a_replica_that_may_not_say_so_is_walked_as_well(self) -> None:
        walk = survey(
            Fleet(holding(role=[b"master"]), holding(ORPHAN, role=NoPermissionError("no")))
        )
        assert (await walk.step((await walk.step(0, 10)).cursor, 10)).seen == 1

    async def test_one_of_several_that_is_away_is_left_out_and_one_alone_is_an_error(self) -> None:
        away = Node(fault=StoreUnavailable("away"))
        walk = survey(Fleet(away, holding(ORPHAN, role=[b"master"])))
        first = await walk.step(0, 10)
        assert (first.cursor != 0, first.seen) == (True, 0)
        with pytest.raises(StoreUnavailable):
            await survey(Fleet(away)).step(0, 10)

    async def test_what_a_server_refuses_is_an_error(self) -> None:
        with pytest.raises(AccessDenied):
            await survey(Fleet(Node({b"EVALSHA_RO": NoPermissionError("no")}))).step(0, 10)

    async def test_a_walk_over_more_servers_than_there_are_now_is_over(self) -> None:
        fleet = Fleet(*(holding(role=[b"master"]) for _ in range(2)))
        following = (await survey(fleet).step(0, 10)).cursor
        fleet.members = fleet.members[:1]
        over = await survey(fleet).step(following, 10)
        assert (over.cursor, over.seen) == (0, 0)


def server(version: str, *more: bytes, keeps: bytes = b"") -> Node:
    """A Redis that says no more than it has to."""
    facts = b"\r\n".join([f"redis_version:{version}".encode(), *more])
    return Node(
        {
            b"INFO": facts,
            b"CONFIG GET": [b"save", keeps],
            b"COMMAND": [None],
            b"ACL": [b"flags", b""],
        }
    )


class TestInfo:
    async def test_one_that_is_too_old_is_named_though_others_are_not(self) -> None:
        for fine in ("7.0.15", "8.2.1"):
            assert (await Servers(Fleet(server(fine)), patience=0).info()).version == fine
        with pytest.raises(ServerTooOld, match=r"redis 6\.2\.14"):
            await Servers(Fleet(server("7.0.15"), server("6.2.14")), patience=0).info()

    async def test_one_that_has_no_command_for_users_keeps_none(self) -> None:
        fleet = Fleet(server("7.0.15"))
        assert (await Servers(fleet, patience=0).info()).manages_users is False
        assert all(b"DRYRUN" not in command for command in fleet.members[0].heard)

    async def test_what_is_written_by_either_way_persists(self) -> None:
        ways = {
            "a file of commands": server("7.0.15", b"aof_enabled:1"),
            "snapshots": server("7.0.15", b"aof_enabled:0", keeps=b"3600 1"),
            "nothing": server("7.0.15", b"aof_enabled:0"),
            "it does not say": server("7.0.15"),
        }
        said = {
            way: (await Servers(Fleet(node), patience=0).info()).persists
            for way, node in ways.items()
        }
        assert list(said.values()) == [True, True, False, None]

    @pytest.mark.parametrize(
        "more", [(b"run_id:" + b"x" * 65,), (b"used_memory:much",), (b"role:king",)]
    )
    async def test_what_no_redis_says_of_itself_is_not_believed(
        self, more: Sequence[bytes]
    ) -> None:
        with pytest.raises(StoreUnavailable, match="neither a Redis nor a Valkey server"):
            await Servers(Fleet(server("7.0.15", *more)), patience=0).info()

    async def test_what_does_not_say_its_version_is_no_redis(self) -> None:
        strange = Node({b"INFO": b"used_memory:1", b"CONFIG": [], b"COMMAND": [None]})
        with pytest.raises(StoreUnavailable, match="neither a Redis nor a Valkey server"):
            await Servers(Fleet(strange), patience=0).info()
