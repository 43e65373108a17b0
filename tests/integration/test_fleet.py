"""The operator's hands in a Cluster, behind Sentinel, over TLS, and where much is denied."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import pytest
import pytest_asyncio
from redis.asyncio import Redis

import holdfast
from holdfast.embedded import reserve_port
from holdfast.errors import (
    AccessDenied,
    ConfigurationError,
    HoldfastError,
    StoreUnavailable,
    UnknownKeys,
)
from holdfast.policies import terms_of
from holdfast.policy import load_policy
from holdfast.store.addresses import Address, Login, Mode, Tls, read_address
from holdfast.store.maintenance import Owner, Ownership
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.values import MemoryAddress, Terms
from holdfast_operator.services.ports import UnusableCertificates
from holdfast_operator.storage.backends import ConnectionPool
from tests.harness.certificates import CertificateAuthority
from tests.harness.cluster_of_servers import ClusterOfServers
from tests.harness.parts import need_server
from tests.harness.sentinels import Sentinels
from tests.harness.servers import Product, Server, knows_scripts
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]


@pytest.fixture
def memory() -> MemoryAddress:
    """Return a memory that no other test has."""
    return MemoryAddress(f"t-{secrets.token_hex(6)}", work.MEMORY)


async def apply(hands: RedisMaintenance, memory: MemoryAddress, ttl: str = "1h") -> Terms:
    owner = Owner("cluster-1", "namespace-1", memory.namespace, memory.name, "uid-1", 1)
    assert await hands.claim(memory, owner) is Ownership.OURS
    _, policy = load_policy(work.policy(retention={"ttl": ttl}))
    revision = await hands.put_policy(memory, owner, policy.document(), policy.sha256())
    assert revision is not None
    return terms_of(policy, revision)


async def fill(url: str, memory: MemoryAddress, count: int) -> None:
    async with holdfast.connect(url, namespace=memory.namespace) as client:
        for number in range(count):
            await client.memory(memory.name).session(f"s-{number}").append(user("x"))


class TestCluster:
    async def test_walks_scripts_and_what_the_servers_say(
        self, tmp_path: Path, memory: MemoryAddress
    ) -> None:
        async with AsyncExitStack() as stack:
            servers = ClusterOfServers(tmp_path, replicas=1)
            cluster = await stack.enter_async_context(servers)
            hands = RedisMaintenance.over(read_address(cluster.url))
            await stack.enter_async_context(aclosing(hands))
            everybody = [*cluster.nodes, *cluster.replicas]
            await hands.load_scripts()
            assert all([await knows_scripts(server) for server in everybody])
            info = await hands.server()
            assert (info.product, info.mode, info.servers, info.silent) == (
                "valkey",
                "cluster",
                4,
                0,
            )
            assert (info.persists, info.min_replicas, info.manages_users) == (False, 0, True)
            assert info.default_open is True
            assert info.most_full is None

            assert await hands.instance() is None
            assert await hands.mark("uid", "0123456789abcdef") == "0123456789abcdef"
            assert await hands.mark("other", "f" * 16) == "0123456789abcdef"
            await apply(hands, memory)
            await fill(cluster.url, memory, 30)
            terms = await apply(hands, memory, ttl="2h")
            cursor, seen = 0, 0
            while True:
                step = await hands.roll_out(memory, terms, cursor=cursor, limit=7, grace=0)
                seen, cursor = seen + step.changed, step.cursor
                if cursor == 0:
                    break
            assert seen == 30
            _, totals = await hands.measure(memory, cursor=0, limit=1000)
            assert (totals.sessions, totals.messages) == (30, 30)

            # One replica is down, and comes back without scripts.
            [replica] = cluster.replicas
            await replica.kill()
            answer = await hands.server()
            assert (answer.servers - answer.silent) == 3
            await hands.load_scripts()
            await replica.start()
            assert not await knows_scripts(replica)

            async def loaded() -> bool:
                await hands.load_scripts()
                return await knows_scripts(replica)

            await until(loaded, "it has the scripts again")
            step = await hands.bury(memory, terms.revision + 1, cursor=0, limit=1000)
            assert step.changed == 30

            # Nor is it an error where one of several primaries is down.
            await cluster.nodes[2].kill()
            answer = await hands.server()
            assert (answer.servers - answer.silent) == 3
            await hands.load_scripts()

    async def test_the_memory_of_each_primary_counts(
        self, cluster_of_servers: ClusterOfServers
    ) -> None:
        nodes = cluster_of_servers.nodes
        hands = RedisMaintenance.over(read_address(cluster_of_servers.url))
        async with aclosing(hands), nodes[0].client() as raw:
            await raw.config_set("maxmemory", "1000000000")
            try:
                info = await hands.server()
            finally:
                await raw.config_set("maxmemory", "0")
            assert info.most_full is not None
            assert info.most_full < 10
            assert info.least_full is None, "two of three have no limit"

    async def test_servers_that_are_organised_otherwise_are_told_apart(
        self, valkey_server: Server, cluster_of_servers: ClusterOfServers, sentinels: Sentinels
    ) -> None:
        plain = ("127.0.0.1", valkey_server.port)
        node = ("127.0.0.1", cluster_of_servers.nodes[0].port)
        sentinel = ("127.0.0.1", sentinels.ports[0])
        for address, mode in (
            (Address(Mode.STANDALONE, (plain,)), "standalone"),
            (Address(Mode.STANDALONE, (node,)), "cluster"),
            (Address(Mode.STANDALONE, (sentinel,)), "sentinel"),
            (Address(Mode.CLUSTER, (plain,)), None),
            (Address(Mode.SENTINEL, (plain,), primary="memory"), None),
        ):
            async with aclosing(RedisMaintenance.over(address, timeout=5)) as hands:
                if mode is None:
                    with pytest.raises(ConfigurationError):
                        await hands.server()
                else:
                    assert (await hands.server()).mode == mode


class TestReplication:
    async def test_who_has_no_replica_waits_for_none(
        self, valkey_server: Server, cluster_of_servers: ClusterOfServers, memory: MemoryAddress
    ) -> None:
        for url, primaries in ((valkey_server.url, 1), (cluster_of_servers.url, 3)):
            async with aclosing(RedisMaintenance.over(read_address(url))) as hands:
                before = await hands.replication()
                await apply(hands, memory)
                after = await hands.replication()
            assert len(before) == primaries
            assert after.keys() == before.keys()
            assert {one.confirmed for one in after.values()} == {None}

    async def test_a_replica_is_behind_until_it_says_what_it_has(
        self, own_sentinels: Sentinels, memory: MemoryAddress
    ) -> None:
        async with aclosing(RedisMaintenance.over(read_address(own_sentinels.url))) as hands:
            primary, replica = await own_sentinels.primary(), await own_sentinels.replica()
            await own_sentinels.in_step()
            replica.pause()
            try:
                await apply(hands, memory)
                [(name, history)] = (await hands.replication()).items()
                assert history.confirmed is not None
                assert history.confirmed < history.written
            finally:
                replica.resume()

            async def followed() -> bool:
                confirmed = (await hands.replication())[name].confirmed
                return confirmed is not None and confirmed >= history.written

            await until(followed, "the replica has it")
            await primary.kill()
            await own_sentinels.agreed(replica)

            async def taken_over() -> bool:
                try:
                    return name not in await hands.replication()
                except HoldfastError:
                    return False

            await until(taken_over, "the replica writes a history of its own")


class TestSentinel:
    async def test_a_replica_alone_is_no_server(self, sentinels: Sentinels) -> None:
        replica = await sentinels.replica()
        address = Address(Mode.STANDALONE, (("127.0.0.1", replica.port),))
        async with aclosing(RedisMaintenance.over(address)) as hands:
            with pytest.raises(StoreUnavailable, match="no primary"):
                await hands.server()

    async def test_a_walk_goes_on_where_another_server_takes_over(
        self, own_sentinels: Sentinels, memory: MemoryAddress
    ) -> None:
        async with aclosing(RedisMaintenance.over(read_address(own_sentinels.url))) as hands:
            primary, replica = await own_sentinels.primary(), await own_sentinels.replica()
            await hands.load_scripts()
            assert await knows_scripts(replica)
            info = await hands.server()
            assert (info.servers, info.silent, info.min_replicas, info.replicas) == (2, 0, 0, 1)
            await hands.mark("uid", "0123456789abcdef")
            await apply(hands, memory)
            await fill(own_sentinels.url, memory, 200)
            terms = await apply(hands, memory, ttl="2h")
            step = await hands.roll_out(memory, terms, cursor=0, limit=20, grace=0)
            assert step.cursor != 0
            await own_sentinels.in_step()
            await primary.kill()
            with pytest.raises(HoldfastError):
                await hands.server()  # the replica answers, and is none to write to
            await own_sentinels.agreed(replica)
            cursor, changed = step.cursor, step.changed

            async def goes_on() -> bool:
                nonlocal cursor, changed
                try:
                    step = await hands.roll_out(memory, terms, cursor=cursor, limit=20, grace=0)
                except HoldfastError:
                    return False
                cursor, changed = step.cursor, changed + step.changed
                return cursor == 0

            await until(goes_on, "the walk ends on the survivor")
            assert changed == 200
            assert await hands.instance() == "0123456789abcdef", "the data are the same"

            async def alone() -> bool:
                return (await hands.server()).servers == 1

            await until(alone, "the old primary is known to be away")


@pytest_asyncio.fixture
async def secure(tmp_path: Path) -> AsyncGenerator[tuple[int, CertificateAuthority]]:
    """A server that speaks TLS with those only whose certificate is of its authority."""
    need_server(Product.REDIS)
    authority = CertificateAuthority(tmp_path, "ours")
    pair = authority.server("server", hosts=["redis.example"])
    with reserve_port(None) as port:
        options = ["--tls-port", str(port), "--tls-ca-cert-file", str(authority.certificate)]
        options += ["--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)]
        async with Server(Product.REDIS, tmp_path / "server", arguments=options):
            yield port, authority


class TestTls:
    async def test_certificates_as_data_leave_no_file_behind(
        self,
        secure: tuple[int, CertificateAuthority],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        port, authority = secure
        client = authority.client("client", user="operator", groups=[])
        pair = client.certificate.read_bytes() + client.key.read_bytes()
        pem = authority.certificate.read_text()
        (tmp_path / "other").mkdir()
        stranger = CertificateAuthority(tmp_path / "other", "theirs").certificate.read_text()
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(scratch))

        pool = ConnectionPool()
        name = "redis.example"

        async def ask(version: str, tls: Tls, *, uid: str = "uid") -> str:
            address = Address(Mode.STANDALONE, (("127.0.0.1", port),), tls=tls)
            hands = await pool.open(uid, 1, version, address, "mem")
            try:
                return (await hands.server()).product
            except HoldfastError as error:
                return "TLS" if pool.failed_tls(error) else error.code

        assert await ask("1", Tls(authority=pem, pair=pair, server_name=name)) == "redis"
        assert await ask("2", Tls(authority=stranger, pair=pair, server_name=name)) == "TLS"
        assert await ask("3", Tls(authority=pem, pair=pair)) == "TLS", "another name"
        none = Tls(authority=pem, server_name=name)
        # The server's answer and its end of the connection are in a race.
        ten = await asyncio.gather(*(ask("4", none, uid=f"uid-{at}") for at in range(10)))
        assert set(ten) == {"TLS"}, "no certificate"
        assert await ask("5", Tls(pair=pair, server_name=name)) == "TLS", "an unknown authority"
        assert await ask("6", Tls(authority=pem, pair=pair, server_name=name)) == "redis"
        for mode in (Mode.CLUSTER, Mode.SENTINEL):
            tls = Tls(authority=stranger, pair=pair, server_name=name)
            address = Address(mode, (("127.0.0.1", port),), tls=tls, primary="main")
            hands = await pool.open("uid", 2, mode, address, "mem")
            with pytest.raises(HoldfastError) as failed:
                await hands.server()
            assert pool.failed_tls(failed.value)
        broken = Tls(authority=pem, pair=client.certificate.read_bytes(), server_name=name)
        with pytest.raises(UnusableCertificates):
            await ask("7", broken)
        await pool.aclose()
        assert list(scratch.iterdir()) == []


class TestDenied:
    @pytest_asyncio.fixture
    async def raw(self, each_server: Server) -> AsyncGenerator[Redis]:
        async with each_server.client() as raw:
            yield raw
            await raw.execute_command("ACL", "DELUSER", "poor")

    @pytest.mark.parametrize(
        "case",
        [
            (["-info", "-config", "-command", "-acl"], "", None),
            (["-config", "-acl|setuser"], "any", False),
            (["-acl", "+acl|whoami"], "any", None),
            ([], "any", True),
        ],
    )
    async def test_what_is_optional_is_unknown_and_the_work_is_done(
        self,
        each_server: Server,
        raw: Redis,
        memory: MemoryAddress,
        case: tuple[list[str], str, bool | None],
    ) -> None:
        rules, product, manages = case
        await raw.execute_command("ACL", "SETUSER", "poor", "on", ">x", "~*", "+@all", *rules)
        address = Address(
            Mode.STANDALONE, (("127.0.0.1", each_server.port),), login=Login("poor", "x")
        )
        async with aclosing(RedisMaintenance.over(address)) as hands:
            await hands.load_scripts()
            info = await hands.server()
            assert info.product == (product and each_server.product.value)
            assert info.manages_users is manages
            if "-config" in rules:
                assert info.min_replicas is None
                assert info.persists is None
            await apply(hands, memory)
            await fill(each_server.url, memory, 5)
            terms = await apply(hands, memory, ttl="2h")
            step = await hands.roll_out(memory, terms, cursor=0, limit=2, grace=0)
            while step.cursor:
                step = await hands.roll_out(memory, terms, cursor=step.cursor, limit=2, grace=0)
            _, totals = await hands.measure(memory, cursor=0, limit=100)
            assert totals.sessions == 5

    async def test_what_is_needed_is_an_error(self, each_server: Server, raw: Redis) -> None:
        await raw.execute_command("ACL", "SETUSER", "poor", "on", ">x", "~*", "+info")
        address = Address(
            Mode.STANDALONE, (("127.0.0.1", each_server.port),), login=Login("poor", "x")
        )
        async with aclosing(RedisMaintenance.over(address)) as hands:
            await hands.server()
            with pytest.raises(AccessDenied):
                await hands.load_scripts()

    async def test_a_mark_that_is_none_of_ours_is_left_alone(self, raw: Redis) -> None:
        prefix = f"x{secrets.token_hex(4)}"
        port = raw.connection_pool.connection_kwargs["port"]
        address = Address(Mode.STANDALONE, (("127.0.0.1", port),))
        async with aclosing(RedisMaintenance.over(address, prefix=prefix)) as hands:
            await raw.set(f"{prefix}:{{!backend}}", "text")
            for call in (hands.instance(), hands.mark("uid", "0" * 16)):
                with pytest.raises(UnknownKeys):
                    await call
            await raw.delete(f"{prefix}:{{!backend}}")
            await raw.hset(f"{prefix}:{{!backend}}", "instance", "{not ours}")
            for call in (hands.instance(), hands.mark("uid", "0" * 16)):
                with pytest.raises(UnknownKeys):
                    await call
            await raw.delete(f"{prefix}:{{!backend}}")


def known_as(server: Server, name: str) -> RedisMaintenance:
    nodes = (("127.0.0.1", server.port),)
    return RedisMaintenance.over(Address(Mode.STANDALONE, nodes, login=Login(name, "x")))


class TestUsers:
    @pytest_asyncio.fixture
    async def raw(self, each_server: Server) -> AsyncGenerator[Redis]:
        async with each_server.client() as raw:
            yield raw
            await raw.config_set("requirepass", "")
            await raw.execute_command("ACL", "DELUSER", "admin")

    async def test_whether_they_can_be_kept_is_known_without_making_one(
        self, each_server: Server, raw: Redis
    ) -> None:
        every = ("+@all", "~*", "&*")
        await raw.execute_command("ACL", "SETUSER", "admin", "reset", "on", ">x", *every)
        async with aclosing(known_as(each_server, "admin")) as hands:
            before = await raw.acl_list()
            assert (await hands.server()).manages_users is True
            assert await raw.acl_list() == before
            for denied in ("setuser", "deluser", "users", "getuser"):
                rule = (*every, f"-acl|{denied}")
                await raw.execute_command("ACL", "SETUSER", "admin", "reset", "on", ">x", *rule)
                assert (await hands.server()).manages_users is False, denied

    async def test_a_server_without_a_password_lets_anybody_in(
        self, each_server: Server, raw: Redis
    ) -> None:
        rule = ("reset", "on", ">x", "+@all", "~*", "&*")
        await raw.execute_command("ACL", "SETUSER", "admin", *rule)
        async with aclosing(known_as(each_server, "admin")) as hands:
            assert (await hands.server()).default_open is True
            await raw.config_set("requirepass", "y")
            assert (await hands.server()).default_open is False
            await raw.execute_command("ACL", "SETUSER", "admin", "-acl|getuser")
            assert (await hands.server()).default_open is None
