"""How nodes of a Cluster and a watched primary are found: what they say of each other, what they refuse."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, ReadOnlyError, ResponseError

from holdfast.errors import AccessDenied, ConfigurationError, HoldfastError, StoreUnavailable
from holdfast.store.addresses import Node
from holdfast.store.redis.carrier import Broken, Command, PoolCarrier
from holdfast.store.redis.cluster import ClusterCarrier
from holdfast.store.redis.cluster_map import members_in, replicas_in
from holdfast.store.redis.sentinel import Prepare, SentinelCarrier
from tests.harness.listener import Listener
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio

HERE, THERE = b"b", b"a"  # keys of the slots 3300 and 15495
HI = b"$2\r\nhi\r\n"


def connect(node: Node, **more: Any) -> PoolCarrier:
    settings = {"retry": Retry(NoBackoff(), 0), "socket_timeout": None, **more}
    pool = ConnectionPool(host=node[0], port=node[1], **settings)
    return PoolCarrier(pool, owned=True)


def moved(slot: int, to: Listener) -> bytes:
    return f"-MOVED {slot} 127.0.0.1:{to.port}\r\n".encode()


def slots(*ranges: tuple[int, int, Listener]) -> bytes:
    """Return what CLUSTER SLOTS answers."""
    shards = b"".join(
        f"*3\r\n:{first}\r\n:{last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{node.port}\r\n".encode()
        for first, last, node in ranges
    )
    return b"*%d\r\n%b" % (len(ranges), shards)


def cluster_of(*nodes: Listener) -> ClusterCarrier:
    """Return a carrier over nodes, the first of which has all slots but those of the others."""
    if len(nodes) == 1:
        said = slots((0, 16383, nodes[0]))
    else:
        said = slots((0, 8191, nodes[0]), (8192, 16383, nodes[1]))
    for node in nodes:
        node.answers[b"CLUSTER"] = said
    return ClusterCarrier([("127.0.0.1", node.port) for node in nodes], connect)


def names(node: Listener, *, without: Sequence[bytes] = (b"HELLO", b"CLIENT", b"CLUSTER")) -> Any:
    return [command[0] for command in node.heard if command[0] not in without]


class TestCluster:
    async def test_what_has_no_key_goes_to_a_node_that_others_go_to_as_well(self) -> None:
        async with Listener({b"GET": HI}) as one, Listener({b"GET": HI}) as two:
            carrier = cluster_of(one, two)
            assert await carrier.exchange([(b"TIME",), (b"GET", THERE)]) == [b"OK", b"hi"]
            assert (names(one), names(two)) == ([], [b"TIME", b"GET"])
            assert await carrier.exchange([(b"PING",)]) == [b"OK"]
            assert sorted(names(one) + names(two)) == [b"GET", b"PING", b"TIME"]
            await carrier.aclose()

    async def test_who_was_sent_elsewhere_looks_at_the_map_and_first_where_it_was_sent(
        self,
    ) -> None:
        async with Listener() as one, Listener({b"GET": HI}) as two:
            carrier = cluster_of(one, two)
            one.answers[b"GET"] = moved(3300, two)
            assert await carrier.exchange([(b"GET", HERE)]) == [b"hi"]
            two.answers[b"CLUSTER"] = slots((0, 16383, two))
            heard = len(one.heard)

            async def looked() -> bool:
                assert await carrier.exchange([(b"GET", HERE)]) == [b"hi"]
                return bool(two.named(b"CLUSTER"))

            await until(looked, "the map was looked at again")
            assert len(one.heard) == heard, "the node that was left was asked"
            await carrier.aclose()

    async def test_nodes_that_send_a_call_to_each_other_for_ever_are_left(self) -> None:
        async with Listener() as one, Listener() as two:
            carrier = cluster_of(one, two)
            one.answers[b"GET"], two.answers[b"GET"] = moved(3300, two), moved(3300, one)
            with pytest.raises(StoreUnavailable, match="send the call to each other"):
                await carrier.exchange([(b"GET", HERE)])
            assert len(one.named(b"GET") + two.named(b"GET")) == 6
            await carrier.aclose()

    async def test_a_slot_on_its_way_is_asked_for_by_asking_until_it_is_there(self) -> None:
        async with Listener() as one, Listener({b"GET": HI}) as two:
            carrier = cluster_of(one)
            one.answers[b"GET"] = f"-ASK 3300 127.0.0.1:{two.port}\r\n".encode()
            assert await carrier.exchange([(b"GET", HERE), (b"GET", HERE)]) == [b"hi", b"hi"]
            assert names(two) == [b"ASKING", b"GET", b"ASKING", b"GET"]
            one.answers[b"GET"] = HI
            assert await carrier.exchange([(b"GET", HERE)]) == [b"hi"]
            assert len(one.named(b"CLUSTER")) == 1, "nothing has moved for good"
            await carrier.aclose()

    async def test_what_concerns_a_slot_on_its_way_goes_where_its_key_was_asked_for(self) -> None:
        async with Listener() as one, Listener({b"GET": HI}) as two:
            carrier = cluster_of(one)
            one.answers[b"GET"] = f"-ASK 3300 127.0.0.1:{two.port}\r\n".encode()
            await carrier.exchange([(b"GET", HERE)])
            await carrier.exchange([(b"SCRIPT", b"LOAD", b"")], near=HERE)
            assert (names(one), names(two)[-1]) == ([b"GET"], b"SCRIPT")
            one.answers[b"GET"] = HI
            await carrier.exchange([(b"GET", HERE)])
            await carrier.exchange([(b"SCRIPT", b"LOAD", b"")], near=HERE)
            assert names(one) == [b"GET", b"GET", b"SCRIPT"]
            await carrier.aclose()

    async def test_a_transaction_is_asked_for_once_and_as_a_whole(self) -> None:
        asked = {b"MULTI": b"+OK\r\n", b"GET": b"+QUEUED\r\n", b"EXEC": b"*1\r\n" + HI}
        async with Listener() as one, Listener(asked) as two:
            carrier = cluster_of(one)
            one.answers[b"GET"] = f"-ASK 3300 127.0.0.1:{two.port}\r\n".encode()
            one.answers[b"EXEC"] = b"-EXECABORT discarded\r\n"
            replies = await carrier.exchange([(b"MULTI",), (b"GET", HERE), (b"EXEC",)])
            assert replies == [b"OK", b"QUEUED", [b"hi"]]
            assert names(two) == [b"ASKING", b"MULTI", b"GET", b"EXEC"]
            await carrier.aclose()

    async def test_one_whose_nodes_have_no_slots_holds_nothing(self) -> None:
        async with Listener() as one:
            carrier = cluster_of(one)
            one.answers[b"CLUSTER"] = b"*0\r\n"
            with pytest.raises(StoreUnavailable, match="no node of the Cluster has any slots"):
                await carrier.primaries()
            await carrier.aclose()

    async def test_one_that_refuses_the_map_to_these_credentials_says_so(self) -> None:
        async with Listener() as one:
            carrier = cluster_of(one)
            one.answers[b"CLUSTER"] = b"-NOPERM no permission to run cluster|slots\r\n"
            with pytest.raises(AccessDenied):
                await carrier.exchange([(b"GET", HERE)])
            await carrier.aclose()

    async def test_replicas_are_in_the_map_where_the_list_of_members_is_denied(self) -> None:
        asked = ("10.0.0.1", 6379)
        denied = NoPermissionError("no permission to run cluster|shards")
        assert members_in(denied, asked, secure=False) == []
        said = [[0, 16383, [b"", 1], [b"10.0.0.2", 2], [b"?", 3]]]
        assert replicas_in(said, asked) == [("10.0.0.2", 2), ("10.0.0.1", 3)]


class Hand:
    """A carrier whose exchanges end when the test says so."""

    def __init__(self, node: Any = None) -> None:
        self.node = node
        self.asked: list[asyncio.Future[list[Any]]] = []

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Any]:
        self.asked.append(asyncio.get_running_loop().create_future())
        return await self.asked[-1]

    async def next(self, number: int) -> asyncio.Future[list[Any]]:
        """Wait for the so-manieth exchange."""
        await until(lambda: len(self.asked) > number, "it is asked")
        return self.asked[number]

    async def retire(self) -> None: ...

    async def aclose(self) -> None: ...


PRIMARY, REPLICA = b"*1\r\n$6\r\nmaster\r\n", b"*1\r\n$5\r\nslave\r\n"


def address_of(server: Listener, *, host: bytes = b"127.0.0.1") -> bytes:
    """Return what a sentinel answers that names it."""
    port = b"%d" % server.port
    return b"*2\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(host), host, len(port), port)


def watching(*sentinels: Listener) -> SentinelCarrier:
    """Return a carrier to what these name."""

    def server(node: Node, on_connect: Prepare | None) -> PoolCarrier:
        return connect(node, redis_connect_func=on_connect)

    asked = [connect(("127.0.0.1", sentinel.port)) for sentinel in sentinels]
    return SentinelCarrier(asked, "main", server)


async def away(server: Listener) -> None:
    """Close every connection, as a server that ends and is back at once."""
    server.hang_up()
    await until(lambda: server.open == 0, "nobody is connected")


class Watched:
    """Primaries that one sentinel watches."""

    def __init__(self) -> None:
        self.sentinel = Hand()
        self.servers: dict[Any, Hand] = {}
        sentinel: Any = self.sentinel
        self.carrier = SentinelCarrier([sentinel], "main", self._connect)

    def _connect(self, node: Node, on_connect: Any) -> Any:
        return self.servers.setdefault(node, Hand(node))

    def get(self) -> asyncio.Task[list[Any]]:
        return asyncio.create_task(self.carrier.exchange([(b"GET", b"a")]))

    async def name(self, number: int, host: str) -> Hand:
        """Answer the sentinel's question of this number, and return the server that is named."""
        (await self.sentinel.next(number)).set_result([[host.encode(), b"1"]])
        await until(lambda: (host, 1) in self.servers, "it is connected to")
        return self.servers[host, 1]


class TestSentinel:
    async def test_those_who_come_at_once_ask_once(self) -> None:
        watched = Watched()
        calls = [watched.get(), watched.get()]
        server = await watched.name(0, "one")
        for number, call in enumerate(calls):
            (await server.next(number)).set_result([b"hi"])
            await call
        assert len(watched.sentinel.asked) == 1

    async def test_a_primary_that_is_none_any_more_is_looked_for_anew(self) -> None:
        watched = Watched()
        call = watched.get()
        refusal = ReadOnlyError("You can't write against a read only replica.")
        (await (await watched.name(0, "one")).next(0)).set_result([refusal])
        assert await call == [refusal]
        call = watched.get()
        (await (await watched.name(1, "two")).next(0)).set_result([b"hi"])
        assert await call == [b"hi"]

    async def test_what_breaks_on_a_server_that_was_left_casts_no_doubt_on_the_next(self) -> None:
        watched = Watched()
        late, soon = watched.get(), watched.get()
        server = await watched.name(0, "one")
        (await server.next(1)).set_exception(Broken("gone"))
        call = watched.get()
        (await (await watched.name(1, "two")).next(0)).set_result([b"hi"])
        await call
        server.asked[0].set_exception(Broken("gone as well"))
        assert {type(one) for one in await asyncio.gather(late, soon, return_exceptions=True)} == {
            Broken
        }
        call = watched.get()
        (await watched.servers["two", 1].next(1)).set_result([b"hi"])
        assert await call == [b"hi"]
        assert len(watched.sentinel.asked) == 2

    @pytest.mark.parametrize("kind", [StoreUnavailable, AccessDenied, ConfigurationError])
    async def test_where_no_sentinel_answers_the_last_known_primary_is_tried(
        self, kind: type[HoldfastError]
    ) -> None:
        watched = Watched()
        call = watched.get()
        server = await watched.name(0, "one")
        (await server.next(0)).set_exception(Broken("gone"))
        with pytest.raises(Broken):
            await call
        call = watched.get()
        (await watched.sentinel.next(1)).set_exception(kind("away"))
        (await server.next(1)).set_result([b"hi"])
        assert await call == [b"hi"]

    async def test_replicas_that_it_may_not_name_are_not_taken_for_none(self) -> None:
        watched = Watched()
        call = asyncio.create_task(watched.carrier.nodes())
        denied = NoPermissionError("no permission to run sentinel|replicas")
        (await watched.sentinel.next(0)).set_result([[b"one", b"1"], denied])
        with pytest.raises(AccessDenied):
            await call

    async def test_an_error_of_one_is_no_answer(self) -> None:
        watched = Watched()
        call = watched.get()
        (await watched.sentinel.next(0)).set_result([ResponseError("-IDONTKNOW")])
        with pytest.raises(StoreUnavailable):
            await call

    async def test_a_server_that_is_named_and_is_no_primary_is_refused(self) -> None:
        async with Listener({b"ROLE": REPLICA}) as server, Listener() as sentinel:
            sentinel.answers[b"SENTINEL"] = address_of(server)
            carrier = watching(sentinel)
            with pytest.raises(StoreUnavailable):
                await carrier.exchange([(b"SET", b"a", 1)])
            assert server.named(b"SET") == []
            server.answers[b"ROLE"] = PRIMARY
            assert await carrier.exchange([(b"SET", b"a", 1)]) == [b"OK"]
            await carrier.aclose()

    async def test_a_primary_that_is_back_and_not_named_any_longer_is_refused(self) -> None:
        """It was not told yet that another took over, and would lose what it takes."""
        async with (
            Listener({b"ROLE": PRIMARY}) as former,
            Listener({b"ROLE": PRIMARY}) as primary,
            Listener() as sentinel,
        ):
            sentinel.answers[b"SENTINEL"] = address_of(former)
            carrier = watching(sentinel)
            assert await carrier.exchange([(b"PING",)]) == [b"OK"]
            sentinel.answers[b"SENTINEL"] = address_of(primary)
            await away(former)
            with pytest.raises((StoreUnavailable, Broken)):
                await carrier.exchange([(b"SET", b"a", 1)])
            assert await carrier.exchange([(b"SET", b"a", 1)]) == [b"OK"]
            assert (former.named(b"SET"), len(primary.named(b"SET"))) == ([], 1)
            await carrier.aclose()

    async def test_what_named_it_is_asked_and_no_sentinel_that_may_write_its_address_otherwise(
        self,
    ) -> None:
        async with (
            Listener({b"ROLE": PRIMARY}) as server,
            Listener() as one,
            Listener() as other,
        ):
            one.answers[b"SENTINEL"] = address_of(server)
            other.answers[b"SENTINEL"] = address_of(server, host=b"localhost")
            carrier = watching(one, other)
            for number in range(4):
                assert await carrier.exchange([(b"PING",)]) == [b"OK"]
                asked = len(one.named(b"SENTINEL")), len(other.named(b"SENTINEL"))
                assert asked == (number // 2 * 2 + 2, (number + 1) // 2 * 2)
                server.answers[b"SET"] = b"-READONLY You can't write\r\n"
                [refusal] = await carrier.exchange([(b"SET", b"a", number)])
                assert isinstance(refusal, ReadOnlyError)
            await carrier.aclose()

    @pytest.mark.parametrize(
        "answer", [b"", b"*-1\r\n", b"-NOPERM no\r\n", b"-ERR unknown command\r\n"]
    )
    async def test_where_no_sentinel_knows_anything_a_primary_that_is_back_is_believed(
        self, answer: bytes
    ) -> None:
        async with Listener({b"ROLE": PRIMARY}) as server, Listener() as sentinel:
            sentinel.answers[b"SENTINEL"] = address_of(server)
            carrier = watching(sentinel)
            assert await carrier.exchange([(b"PING",)]) == [b"OK"]
            sentinel.answers[b"SENTINEL"] = answer
            await away(server)
            with contextlib.suppress(Broken):  # it may not have been heard of yet
                await carrier.exchange([(b"PING",)])
            assert await carrier.exchange([(b"SET", b"a", 1)]) == [b"OK"]
            await carrier.aclose()
