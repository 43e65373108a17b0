"""Bindings as files: which is ours, what it says, and what is said of those that cannot be used."""

from pathlib import Path
from typing import Any

import pytest

from holdfast.client import Client
from holdfast.connecting import connect
from holdfast.errors import AccessDenied, ConfigurationError, MemoryNotFound, SessionKeyError
from holdfast.store.addresses import Login, Mode, Tls
from holdfast.store.bindings import ROOT, find_binding
from holdfast.store.in_memory import InMemoryStore
from holdfast.values import MemoryAddress, PolicyDocument
from tests.harness.binding_files import BindingFiles, entry
from tests.integration.world import spec, user

SECRET = "never-shown"
ONE = {"host": "redis.platform", "port": "6380", "username": "am:me", "password": SECRET}


@pytest.fixture
def files(tmp_path: Path) -> BindingFiles:
    return BindingFiles(tmp_path / "memory")


def test_a_whole_binding_is_read(files: BindingFiles, tmp_path: Path) -> None:
    files.write(
        [entry("a", "m2:{team-a/support"), entry("b", "m2:{team-b/chat.1", "ReadOnly", user="4")],
        mode="sentinel",
        endpoints="one:26379,two",
        host="one",
        port="26379",
        database="3",
        username="am:me",
        password=f"{SECRET}\n",
        ca_crt="PEM",
        server_name="redis",
        master_name="memory",
        sentinel_username="am-discovery",
        sentinel_password="other",
        provider="valkey",
        client_id="team-a/agent",
    )
    binding = find_binding(str(tmp_path))
    address = binding.address
    assert binding.prefix == "m2"
    assert binding.memory("a").address == MemoryAddress("team-a", "support")
    assert not binding.memory("a").read_only
    assert binding.memory("b").address == MemoryAddress("team-b", "chat.1")
    assert binding.memory("b").read_only
    assert binding.memory("b").fields == {"user": "4"}
    assert address.mode is Mode.SENTINEL
    assert address.nodes == (("one", 26379), ("two", 26379))
    assert (address.database, address.primary) == (3, "memory")
    assert address.login == Login("am:me", SECRET)
    assert address.sentinel_login == Login("am-discovery", "other")
    assert address.tls == Tls(ca=str(tmp_path / "memory" / "ca.crt"), server_name="redis")
    assert SECRET not in repr(binding)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("cluster", Mode.CLUSTER), ("Cluster", Mode.CLUSTER), ("standalone", Mode.STANDALONE)],
)
def test_modes(files: BindingFiles, tmp_path: Path, mode: str, expected: Mode) -> None:
    files.write(mode=mode, **ONE)
    address = find_binding(str(tmp_path)).address
    assert (address.mode, address.nodes, address.tls) == (
        expected,
        (("redis.platform", 6380),),
        None,
    )


def test_tls_with_the_systems_authorities_is_known_by_the_address(
    files: BindingFiles, tmp_path: Path
) -> None:
    files.write(uri="rediss://x/0", **ONE)
    assert find_binding(str(tmp_path)).address.tls == Tls()


def test_the_login_is_that_of_the_moment(files: BindingFiles, tmp_path: Path) -> None:
    files.write(**ONE)
    source = find_binding(str(tmp_path)).address.login.source
    assert source is not None
    assert source() == ("am:me", SECRET)
    files.write(**(ONE | {"password": "newer"}))
    assert source() == ("am:me", "newer")


def test_other_bindings_are_left_alone(files: BindingFiles, tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    (tmp_path / "database" / "type").write_text("postgresql")
    (tmp_path / "loose").write_text("")
    files.write(**ONE)
    assert find_binding(str(tmp_path)).folder == "memory"


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"mode": "ring"}, "'mode' or 'database'"),
        ({"database": "x"}, "'mode' or 'database'"),
        ({"mode": "sentinel"}, "'master-name' is missing"),
        ({"host": "", "port": ""}, "'endpoints' and 'host' are missing"),
        ({"memories": [{"name": SECRET}]}, "'memories' is no list"),
        ({"memories": []}, "'memories' names none"),
        ({"memories": [entry(), entry("b", "x:{a/b")]}, "several key prefixes"),
        ({"memories": [entry("b", f"mem:{{a*/{SECRET}")]}, "namespace"),
    ],
)
def test_what_cannot_be_used_is_named_and_not_shown(
    files: BindingFiles, tmp_path: Path, entries: dict[str, Any], said: str
) -> None:
    files.write(**(ONE | entries))
    with pytest.raises(ConfigurationError, match=said) as refusal:
        find_binding(str(tmp_path))
    assert SECRET not in str(refusal.value)


def test_whoever_has_no_binding_is_told_what_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="names no directory"):
        find_binding(str(tmp_path / "absent"))
    with pytest.raises(ConfigurationError, match="which has no folder"):
        find_binding(str(tmp_path))
    for name in ("one", "two"):
        BindingFiles(tmp_path / name).write(**ONE)
    with pytest.raises(ConfigurationError, match=r"several bindings .* which has 'one', 'two'"):
        find_binding(str(tmp_path))


@pytest.mark.asyncio
async def test_an_address_wins_over_a_binding(
    files: BindingFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(**ONE)
    monkeypatch.setenv(ROOT, str(tmp_path))
    async with connect() as client:
        assert client.memory().address == MemoryAddress("team-a", "support")
    monkeypatch.setenv("HOLDFAST_URL", "memory://?namespace=elsewhere")
    async with connect() as client:
        assert client.memory("support").address.namespace == "elsewhere"
    async with connect("memory://?namespace=third") as client:
        assert client.memory("support").address.namespace == "third"


def test_a_namespace_goes_with_an_address_only(
    files: BindingFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write(**ONE)
    monkeypatch.setenv(ROOT, str(tmp_path))
    with pytest.raises(ConfigurationError, match="have their namespace"):
        connect(namespace="team-b")


class TestClient:
    """What a client does with what a binding says, over a store in this process."""

    @pytest.fixture
    def store(self) -> InMemoryStore:
        return InMemoryStore()

    def client(self, store: InMemoryStore, tmp_path: Path, **parts: Any) -> Client:
        return Client(store, policy=spec(**parts), binding=find_binding(str(tmp_path)))

    def test_names_are_those_of_the_binding(
        self, files: BindingFiles, tmp_path: Path, store: InMemoryStore
    ) -> None:
        files.write([entry("mine"), entry("theirs", "mem:{team-a/chat")], **ONE)
        client = self.client(store, tmp_path)
        assert client.memory("theirs").address == MemoryAddress("team-a", "chat")
        with pytest.raises(MemoryNotFound, match="no memory 'chat'; there are 'mine', 'theirs'"):
            client.memory("chat")
        with pytest.raises(MemoryNotFound, match="name it; there are 'mine', 'theirs'"):
            client.memory()

    def test_a_memory_that_was_added_meanwhile_is_found(
        self, files: BindingFiles, tmp_path: Path, store: InMemoryStore
    ) -> None:
        files.write(**ONE)
        client = self.client(store, tmp_path)
        files.write([entry(), entry("new", "mem:{team-a/new")], **ONE)
        assert client.memory("new").address.name == "new"

    @pytest.mark.asyncio
    async def test_fixed_fields_are_filled_in_and_never_others(
        self, files: BindingFiles, tmp_path: Path, store: InMemoryStore
    ) -> None:
        files.write(
            [
                entry("one", tenant="a:b"),
                entry("two", tenant="c"),
                entry("all", tenant="a:b", user="1"),
            ],
            **ONE,
        )
        client = self.client(store, tmp_path, keyTemplate="tenant:{tenant}:user:{user}")
        await client.memory("one").session(user="1").append(user("hello"))
        await client.memory("one").session(tenant="a:b", user="1").append(user("again"))
        assert await client.memory("all").session().length() == 2
        assert await client.memory("two").session(user="1").length() == 0
        with pytest.raises(SessionKeyError, match="fixes tenant"):
            client.memory("one").session(tenant="c", user="1")
        with pytest.raises(SessionKeyError, match="fixes tenant"):
            client.memory("one").session("any")
        with pytest.raises(SessionKeyError):
            client.memory("one").session()

    @pytest.mark.asyncio
    async def test_what_is_read_only_is_read_and_nothing_else(
        self, files: BindingFiles, tmp_path: Path, store: InMemoryStore
    ) -> None:
        files.write([entry("writer"), entry("reader", access="ReadOnly")], **ONE)
        client = self.client(
            store,
            tmp_path,
            retention={"ttl": "1h", "refreshOn": ["Write", "Read"]},
            flushing={"strategy": "LRU"},
        )
        session = client.memory("writer").session("a")
        await session.append(user("hello"), id="1")
        await session.append(user("hello again"))
        before = await session.health()
        reader = client.memory("reader").session("a")
        assert await reader.read() == [user("hello"), user("hello again")]
        assert len(await reader.read(limit=1)) == 1
        assert await reader.read(max_tokens=100)
        assert len((await reader.read_page()).records) == 2
        assert [line async for line in reader.export()]
        assert await reader.history() == []
        assert await reader.explain(id="1")
        assert (await reader.health()).expires_at == before.expires_at
        for change in (
            lambda: reader.append(user("x")),
            lambda: reader.append_many([user("x")]),
            lambda: reader.replace([user("x")]),
            reader.pop,
            reader.clear,
            lambda: reader.pin(1),
            reader.erase,
            lambda: reader.turn().__aenter__(),
        ):
            with pytest.raises(AccessDenied, match="read only"):
                await change()
        assert await session.length() == 2
        await client.aclose()

    @pytest.mark.asyncio
    async def test_the_operators_policy_holds_for_what_is_bound(
        self, files: BindingFiles, tmp_path: Path, store: InMemoryStore
    ) -> None:
        files.write([entry("mine")], **ONE)
        document = b'{"limits":{"maxMessages":1},"retention":{"ttl":"1h"}}'
        store.put_policy(MemoryAddress("team-a", "support"), PolicyDocument(1, True, document))
        async with Client(store, binding=find_binding(str(tmp_path))) as client:
            session = client.memory("mine").session("a")
            for text in ("one", "two"):
                await session.append(user(text))
            assert await session.length() == 1
