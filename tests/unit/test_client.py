"""From `connect()` to a session: what may be given, what is refused, and in which words."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
from redis.asyncio import Redis

import holdfast
from holdfast.client import Client, Memory
from holdfast.connecting import connect
from holdfast.errors import (
    BudgetTooSmall,
    ConfigurationError,
    MemoryNotFound,
    MessageTooLarge,
    PolicyInvalid,
    PolicyNotFound,
    SessionKeyError,
    TokenCountFailed,
)
from holdfast.policy import Policy, load_policy
from holdfast.session import Session
from holdfast.store import SessionStore
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.redis import RedisStore
from holdfast.tokens import MESSAGE_OVERHEAD, Count
from holdfast.values import MemoryAddress, PolicyDocument
from tests.harness.listener import Listener
from tests.harness.waiting import until

SPEC: dict[str, Any] = {
    "model": {"tokenizer": "approximate"},
    "limits": {"maxTokens": 100_000},
    "retention": {"ttl": "1h"},
}
MANIFEST: dict[str, Any] = {
    "apiVersion": "holdfast.dev/v1alpha1",
    "kind": "MemoryResource",
    "metadata": {"name": "support"},
    "spec": SPEC | {"backendRef": {"name": "shared"}},
}
TEMPLATE = SPEC | {"keyTemplate": "chat:{tenant}:{user_id}"}
SECRET = "s3cret"

NO_POLICY = b"*4\r\n" + b"$-1\r\n" * 4


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_URL", raising=False)


@pytest_asyncio.fixture
async def listener() -> AsyncGenerator[Listener]:
    async with Listener({b"HMGET": NO_POLICY}) as listening:
        yield listening


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def heard_keys(listener: Listener, client: Client) -> list[bytes]:
    """The keys of the first question a client asks."""
    with pytest.raises(PolicyNotFound):
        await client.memory("support").session("any").length()
    await client.aclose()
    return [command[1] for command in listener.named(b"HMGET")]


# --- where to connect to


def test_nothing_says_where_to_connect_to() -> None:
    with pytest.raises(ConfigurationError) as refusal:
        connect()
    assert str(refusal.value) == (
        "nothing says where the memory is: give a url to connect(), such as "
        "'redis://localhost:6379' or 'memory://', set HOLDFAST_URL, or mount a binding. Tried: the "
        "argument (not given), HOLDFAST_URL (not set), SERVICE_BINDING_ROOT (not set)"
    )


@pytest.mark.parametrize("empty", ["url", "environment"])
def test_an_empty_address_is_none(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_URL", "")
    with pytest.raises(ConfigurationError, match="nothing says where"):
        connect("" if empty == "url" else None)


def test_the_environment_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_URL", "memory://?namespace=team-b")
    assert connect().memory("support").address == ("team-b", "support")
    assert connect("").memory("support").address == ("team-b", "support")


def test_the_argument_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_URL", "nonsense://?what=ever")
    assert connect("memory://").memory("support").address == ("local", "support")
    with pytest.raises(ConfigurationError, match="'what'"):
        connect()


@pytest.mark.asyncio
async def test_connecting_does_no_io(listener: Listener) -> None:
    client = connect(f"redis://127.0.0.1:{listener.port}", policy=SPEC)
    session = client.memory("support").session("42")
    session.turn()
    await asyncio.sleep(0)
    assert listener.connections == 0
    await client.aclose()
    assert listener.connections == 0


def test_connecting_needs_no_event_loop_and_no_server() -> None:
    for url in ("redis://127.0.0.1:1", "unix:///no/such/socket", "redis://no.such.host.invalid"):
        assert isinstance(connect(url, policy=SPEC).memory("support").session("42"), Session)


@pytest.mark.asyncio
async def test_the_library_closes_what_it_opened(listener: Listener) -> None:
    client = connect(f"redis://127.0.0.1:{listener.port}")
    await heard_keys(listener, client)
    assert listener.connections == 1
    await until(lambda: listener.open == 0, "the connection was closed")
    await client.aclose()


# --- options in the address


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("options", "namespace", "key"),
    [
        ("", None, b"mem:{local/support}:policy"),
        ("?namespace=team-a", None, b"mem:{team-a/support}:policy"),
        ("?prefix=prod", None, b"prod:{local/support}:policy"),
        ("?namespace=team-a&prefix=prod", None, b"prod:{team-a/support}:policy"),
        ("?namespace=team-a", "team-b", b"mem:{team-b/support}:policy"),
        ("?namespace=x&namespace=team-a", None, b"mem:{team-a/support}:policy"),
    ],
)
async def test_options_in_the_address(
    listener: Listener, options: str, namespace: str | None, key: bytes
) -> None:
    url = f"redis://127.0.0.1:{listener.port}/3{options}"
    client = connect(url, namespace=namespace)
    assert await heard_keys(listener, client) == [key, key.replace(b":policy", b":usage")]
    assert [command[1] for command in listener.named(b"SELECT")] == [b"3"]


@pytest.mark.parametrize(
    "options",
    [
        *(
            "replicas=",
            "replicas=-1",
            "replicas=0",
            "replicas=101",
            "replicas=one",
            "replicas=\u0663",
        ),
        *("replicas=1&wait=soon", "replicas=1&wait=11s"),
    ],
)
def test_a_durability_that_cannot_be(options: str) -> None:
    with pytest.raises(ConfigurationError, match="the durability cannot be"):
        connect(f"redis://localhost?{options}")


def test_a_durability_in_the_address() -> None:
    connect("redis://localhost?replicas=1")
    connect("redis://localhost?replicas=100&wait=10s")


@pytest.mark.asyncio
async def test_credentials_in_the_address(listener: Listener) -> None:
    client = connect(f"redis://agent:p%40ss%2F%3F%23@127.0.0.1:{listener.port}")
    await heard_keys(listener, client)
    said = [*listener.named(b"HELLO"), *listener.named(b"AUTH")]
    assert any(b"agent" in command and b"p@ss/?#" in command for command in said)


@pytest.mark.parametrize("url", ["redis://localhost", "memory://", "unix:///socket"])
@pytest.mark.parametrize("option", ["db", "Prefix", "ssl_cert_reqs", "timeout"])
def test_an_unknown_option_is_named(url: str, option: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        connect(f"{url}?namespace=a&{option}=1")
    assert str(refusal.value) == (
        f"the url has the unknown option '{option}'; there are namespace, prefix, replicas, wait, "
        "ca, cert, key, server-name, sentinel-username, sentinel-password"
    )


@pytest.mark.parametrize("prefix", ["", "A", "a:b", "a*", "{a}", "x" * 17])
def test_a_prefix_that_cannot_be_is_refused_at_once(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"key prefix .* is not"):
        connect(f"redis://localhost?prefix={prefix}")


# --- addresses that cannot be used


@pytest.mark.parametrize(
    "url", ["nonsense://host", "localhost:6379", "localhost", "//host", "/path"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address of a Redis server: use redis://"):
        connect(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://host:port",
        "redis://host:99999999",
        "redis://[::1",
        f"redis://user:{SECRET}/x@host:6379",
        f"redis://user:{SECRET}#x@host:6379",
        f"redis://user:{SECRET}[x@host:6379",
        f"redis://user:x?{SECRET}@host:6379",
        f"redis://user:x?{SECRET}=1&y@host:6379",
        f"redis://user:x&{SECRET}?@host:6379",
        f"redis://user:x#?{SECRET}@host:6379",
        f"redis://user:{SECRET}\u2100@host:6379",
        f"rediss://user:x?{SECRET}@host:6379",
        f"nonsense://user:{SECRET}/x@host:6379",
        f"user:{SECRET}@host:6379",
    ],
)
def test_an_address_that_cannot_be_read_shows_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        connect(url)
    assert SECRET not in str(refusal.value)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None


@pytest.mark.parametrize("url", ["redis://[::1", "redis://host/one", "redis://host:port"])
def test_a_store_reads_its_address_as_strictly(url: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: write it as redis://"):
        RedisStore.from_url(url)


# --- a client of one's own


@pytest.mark.asyncio
@pytest.mark.parametrize("url", [None, "redis://elsewhere?namespace=team-a&prefix=prod"])
async def test_a_client_of_ones_own_is_used_and_not_closed(
    listener: Listener, url: str | None
) -> None:
    mine = Redis(host="127.0.0.1", port=listener.port)
    client = connect(url, client=mine)
    key = b"mem:{local/support}:policy" if url is None else b"prod:{team-a/support}:policy"
    assert await heard_keys(listener, client) == [key, key.replace(b":policy", b":usage")]
    assert listener.open == 1
    assert await mine.set("a", "b")
    assert listener.connections == 1
    await mine.aclose()


@pytest.mark.asyncio
async def test_an_address_beside_ones_own_client_gives_options_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOLDFAST_URL", "memory://?namespace=not-read")
    mine = Redis(host="127.0.0.1", port=1)
    assert connect(client=mine).memory("support").address.namespace == "local"
    assert connect(client=mine, namespace="n").memory("support").address.namespace == "n"
    with pytest.raises(ConfigurationError, match="unknown option 'x'"):
        connect("redis://host?x=1", client=mine)
    await mine.aclose()


# --- memories


def test_the_name_of_a_memory() -> None:
    client = connect("memory://")
    assert client.memory().address == ("local", "default")
    assert client.memory("support").address == ("local", "support")


@pytest.mark.parametrize("policy", [SPEC, load_policy(SPEC)[1]], ids=["a mapping", "a Policy"])
def test_a_bare_policy_is_for_any_memory(policy: Policy | Mapping[str, Any]) -> None:
    client = connect("memory://", policy=policy)
    assert client.memory().address.name == "default"
    assert client.memory("support").policies.given == client.memory("other").policies.given


def test_a_manifest_is_for_the_memory_of_its_name() -> None:
    client = connect("memory://", policy=MANIFEST, namespace="team-a")
    assert client.memory().address == ("team-a", "support")
    assert client.memory("support") is client.memory()
    with pytest.raises(MemoryNotFound) as refusal:
        client.memory("billing")
    assert str(refusal.value) == (
        "there is no memory 'billing' here; there is 'support' (memory 'team-a/billing')"
    )


@pytest.mark.parametrize("name", ["", "A", "a/b", "a}", "x" * 64])
def test_a_memory_that_could_not_be_in_kubernetes(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^memory name .* is no Kubernetes name"):
        connect("memory://").memory(name)
    if name:
        with pytest.raises(ConfigurationError, match=r"^namespace .* is no Kubernetes name"):
            connect("memory://", namespace=name).memory("support")


class Counting:
    """The in-memory store, counting how often it is asked for the policy."""

    def __init__(self) -> None:
        self.store = InMemoryStore()
        self.asked = 0
        self.gate: asyncio.Event | None = None

    def session(self, memory: MemoryAddress, key: str) -> SessionStore:
        return self.store.session(memory, key)

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        return await self.store.policy(memory)

    async def aclose(self) -> None:
        await self.store.aclose()


@pytest.mark.asyncio
async def test_a_memory_read_in_two_formats_is_one_memory() -> None:
    store = Counting()
    client = Client(store, policy=SPEC)
    plain, chat = client.memory("support"), client.memory("support", format="chat")
    assert plain is not chat
    assert client.memory("support") is plain
    assert client.memory("support", format="chat") is chat
    await plain.session("a").append(user("hi"))
    await chat.session("a").append(user("again"))
    assert await plain.session("a").read() == [user("hi"), user("again")]
    assert store.asked == 1, "they follow one policy"
    await client.aclose()


@pytest.mark.asyncio
async def test_a_format_there_is_none_of() -> None:
    session = connect("memory://", policy=SPEC).memory(format="prose").session("a")
    with pytest.raises(ConfigurationError, match="'prose' is no message format"):
        await session.append(user("hi"))


# --- sessions


@pytest.fixture
def memory() -> Memory:
    return connect("memory://", policy=SPEC).memory("support")


@pytest.fixture
def templated() -> Memory:
    return connect("memory://", policy=TEMPLATE).memory("support")


def test_a_session_is_named_one_way(memory: Memory) -> None:
    for arguments, fields in (((), {}), (("a",), {"user_id": "b"})):
        with pytest.raises(SessionKeyError, match="by its id, or by the fields") as refusal:
            memory.session(*arguments, **fields)
        assert refusal.value.memory == "local/support"


@pytest.mark.parametrize("session_id", ["", "x" * 513, "\ud800"])
@pytest.mark.parametrize("known", [True, False], ids=["policy given", "policy not known yet"])
def test_an_id_that_cannot_be_is_refused_at_once(session_id: str, known: bool) -> None:
    memory = connect("memory://", policy=SPEC if known else None).memory("support")
    with pytest.raises(SessionKeyError) as refusal:
        memory.session(session_id)
    assert refusal.value.memory == "local/support"


def test_without_a_template_an_id_is_asked_for(memory: Memory) -> None:
    with pytest.raises(SessionKeyError, match="no key template: give the session's id"):
        memory.session(user_id="42")


@pytest.mark.parametrize(
    ("arguments", "fields", "sentence"),
    [
        (("42",), {}, "the memory has the key template 'chat:{tenant}:{user_id}': give its fields"),
        ((), {"tenant": "a"}, "takes exactly the fields tenant, user_id"),
        ((), {"tenant": "a", "user_id": "b", "more": "c"}, "takes exactly the fields"),
        ((), {"tenant": "a", "user_id": ""}, "field 'user_id': a session key must not be empty"),
    ],
)
def test_with_a_template_its_fields_are_asked_for(
    templated: Memory, arguments: tuple[str, ...], fields: dict[str, str], sentence: str
) -> None:
    with pytest.raises(SessionKeyError) as refusal:
        templated.session(*arguments, **fields)
    assert sentence in str(refusal.value)
    assert refusal.value.memory == "local/support"


@pytest.mark.asyncio
async def test_a_field_may_be_called_like_an_argument() -> None:
    spec = SPEC | {"keyTemplate": "{id}:{self}:{name}"}
    session = connect("memory://", policy=spec).memory().session(id="a", self="b", name="c")
    await session.append(user("hi"))
    assert await session.length() == 1


@pytest.mark.asyncio
async def test_sessions_are_found_again_by_what_names_them() -> None:
    store = InMemoryStore()
    plain = Client(store, policy=SPEC).memory("plain")
    await plain.session("user:42 é").append(user("hi"))
    assert await plain.session("user:42 é").length() == 1
    assert await plain.session("user:42 e").length() == 0
    stored = store.session(MemoryAddress("local", "plain"), "user:42%20%C3%A9")
    assert (await stored.status()).messages == 1
    by_fields = Client(store, policy=TEMPLATE).memory("fields")
    await by_fields.session(user_id="a:b", tenant="t").append(user("hi"))
    stored = store.session(MemoryAddress("local", "fields"), "chat:t:a%3Ab")
    assert (await stored.status()).messages == 1


def managed(spec: Mapping[str, Any], *, own: Mapping[str, Any] | None = None) -> Memory:
    """A memory whose policy an operator wrote."""
    store = InMemoryStore()
    document = load_policy(spec)[1].document().encode()
    store.put_policy(MemoryAddress("local", "support"), PolicyDocument(1, True, document))
    return Client(store, policy=own).memory("support")


@pytest.mark.asyncio
async def test_the_operators_template_is_found_with_the_first_call() -> None:
    memory = managed(TEMPLATE)
    by_id, by_fields = memory.session("42"), memory.session(tenant="a", user_id="b")
    await by_fields.append(user("hi"))
    for _ in range(2):
        with pytest.raises(SessionKeyError, match="has the key template") as refusal:
            await by_id.append(user("hi"))
        assert (refusal.value.memory, refusal.value.session) == ("local/support", None)
    assert await memory.session(tenant="a", user_id="b").length() == 1


@pytest.mark.asyncio
async def test_an_operators_policy_without_a_template() -> None:
    memory = managed(SPEC)
    by_fields = memory.session(user_id="b")
    with pytest.raises(SessionKeyError, match="has no key template"):
        await by_fields.length()
    assert await memory.session("b").length() == 0


@pytest.mark.asyncio
async def test_errors_say_which_session_they_are_about() -> None:
    session = connect("memory://", policy=SPEC).memory("support").session("user 42")
    with pytest.raises(holdfast.RecordNotFound) as refusal:
        await session.pin(7)
    assert (refusal.value.memory, refusal.value.session) == ("local/support", "user%2042")


# --- reading: arguments, and groups that reach far back


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "arguments", [{"limit": 1, "max_tokens": 1}, {"limit": -1}, {"max_tokens": -1}]
)
async def test_what_cannot_be_read(memory: Memory, arguments: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=" or ".join(arguments)):
        await memory.session("a").read(**arguments)


@pytest.mark.asyncio
@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_pages_have_1_to_1000_records(memory: Memory, limit: int) -> None:
    with pytest.raises(ValueError, match=r"limit is a whole number, 1\.\.1000"):
        await memory.session("a").read_page(limit=limit)


def call(*ids: str) -> dict[str, Any]:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in ids]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def result(call_id: str, text: str = "done") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


@pytest.mark.asyncio
async def test_a_call_answered_late_is_read_with_its_result(memory: Memory) -> None:
    session = memory.session("a")
    aside = [user(f"message {number} " * 3) for number in range(30)]
    await session.append_many([call("slow"), *aside, result("slow")])
    found = await session.read(max_tokens=40)
    assert found == [call("slow"), *aside[-2:], result("slow")]


@pytest.mark.asyncio
async def test_what_would_do_is_the_whole_newest_group(memory: Memory) -> None:
    session = memory.session("a")
    names = [f"call-{number}" for number in range(20)]
    items = [call(*names), *(result(name, "x" * 100) for name in names)]
    await session.append_many([user("before"), *items])
    with pytest.raises(BudgetTooSmall) as refusal:
        await session.read(max_tokens=50)
    needed = refusal.value.needed
    assert await session.read(max_tokens=needed) == items
    with pytest.raises(BudgetTooSmall):
        await session.read(max_tokens=needed - 1)


@pytest.mark.asyncio
async def test_what_is_hidden_takes_no_room(memory: Memory) -> None:
    session = memory.session("a")
    shown = [user(f"message {number}") for number in range(20)]
    hidden = [call("never"), *(result(f"unknown-{number}", "x" * 400) for number in range(5))]
    await session.append_many([*shown, *hidden, user("last")])
    tokens = sum(
        record.tokens
        for record in (await session.read_page()).records
        if record.item in [*shown, user("last")]
    )
    assert await session.read(max_tokens=tokens) == [*shown, user("last")]


@pytest.mark.asyncio
async def test_nothing_appended_is_nothing_done(memory: Memory) -> None:
    session = memory.session("a")
    await session.append(user("hi"))
    done = await session.append_many([])
    assert (done.seq, done.count, done.duplicate, done.length) == (2, 0, False, 1)
    assert await session.length() == 1


# --- closing


@pytest.mark.asyncio
async def test_a_client_closes_itself_and_may_be_closed_twice() -> None:
    async with connect("memory://", policy=SPEC) as client:
        await client.memory().session("a").append(user("hi"))
    await client.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
async def test_an_error_within_a_client_comes_out() -> None:
    class BodyError(Exception):
        pass

    with pytest.raises(BodyError):
        async with connect("memory://", policy=SPEC):
            raise BodyError


@pytest.mark.asyncio
async def test_closing_frees_the_turns_that_are_being_left() -> None:
    client = connect("memory://", policy=SPEC)
    async with client.memory().session("a").turn() as turn:
        await turn.append(user("hi"))
    await client.aclose()
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["limit", "max_tokens", "after"])
async def test_reads_take_whole_numbers(memory: Memory, name: str) -> None:
    """Of NaN, no budget is ever large enough."""
    session = memory.session("a")
    await session.append(user("hi"))
    for number in (float("nan"), float("inf"), 1.5, "1"):
        with pytest.raises(ValueError, match=f"{name} is a whole number"):
            await session.read(**{name: cast("int", number)})


# --- a policy from a file


GOOD = """\
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata:
  name: support
spec:
  backendRef: {name: shared}
  limits:
    maxTokens: 12000
  retention: {ttl: 24h}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "support.yaml"


@pytest.mark.parametrize("form", [str, Path])
def test_a_policy_from_a_file(file: Path, form: type[str] | type[Path]) -> None:
    file.write_text(GOOD)
    memory = connect("memory://", policy=form(file)).memory()
    assert memory.address.name == "support"
    assert memory.policies.given is not None
    assert memory.policies.given.max_tokens == 12000


@pytest.mark.parametrize(
    ("before", "after", "line", "rest"),
    [
        (
            "maxTokens: 12000",
            "maxTokens: 0",
            8,
            "spec.limits.maxTokens: should be greater than or equal to 1 (FieldValueInvalid)",
        ),
        (
            "maxTokens: 12000",
            "maxTokenz: 1",
            8,
            "spec.limits.maxTokenz: unknown field (FieldValueForbidden)",
        ),
        ("  retention: {ttl: 24h}\n", "", 5, "spec.retention: Required value (FieldValueRequired)"),
        (
            "24h",
            "24",
            9,
            "spec.retention.ttl: must be of type duration (FieldValueTypeInvalid)",
        ),
        ("kind: MemoryResource", "kind: Pod", 2, "kind: "),
    ],
)
def test_a_fault_in_a_file_is_placed(
    file: Path, before: str, after: str, line: int, rest: str
) -> None:
    file.write_text(GOOD.replace(before, after))
    with pytest.raises(PolicyInvalid) as refusal:
        connect("memory://", policy=file)
    assert str(refusal.value).startswith(f"{file}:{line}: {rest}")
    assert (refusal.value.file, refusal.value.line) == (str(file), line)
    assert rest.startswith(f"{refusal.value.path}: ")
    assert str(refusal.value).endswith(f"({refusal.value.reason})")


def test_a_fault_in_a_mapping_has_no_line() -> None:
    with pytest.raises(PolicyInvalid) as refusal:
        connect("memory://", policy={"retention": {"ttl": "never"}})
    assert str(refusal.value).startswith("spec.retention.ttl: should match ")
    assert (refusal.value.file, refusal.value.line) == (None, None)


def test_a_policy_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"support\.yaml cannot be read: No such file"):
        connect("memory://", policy=file)


def test_a_fault_in_the_policy_is_found_before_the_address_is_used() -> None:
    with pytest.raises(PolicyInvalid):
        connect("redis://127.0.0.1:1", policy={"retention": {}})


# --- a token counter of one's own


class Letters:
    """A token a letter; does not count everything."""

    name = "letters"

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()

    def count(self, text: str) -> Count:
        self.threads.add(threading.current_thread())
        if text == "uncountable":
            raise ValueError(text)
        return Count(len(text), exact=True)


@pytest.mark.asyncio
async def test_a_counter_of_ones_own_counts_for_every_memory() -> None:
    letters = Letters()
    async with connect("memory://", policy=SPEC, counter=letters) as client:
        for name in ("support", "sales"):
            session = client.memory(name).session("42")
            await session.append(user("x" * 10))
            assert await session.token_count() == 10 + MESSAGE_OVERHEAD
    assert threading.current_thread() not in letters.threads


@pytest.mark.asyncio
async def test_limits_hold_for_the_counter_of_ones_own() -> None:
    policy = SPEC | {"limits": {"maxTokens": 100}}
    async with connect("memory://", policy=policy, counter=Letters()) as client:
        session = client.memory("support").session("42")
        with pytest.raises(MessageTooLarge, match="has 104 tokens"):
            await session.append(user("x" * 100))
        for _ in range(3):
            await session.append(user("x" * 40))
        assert (await session.length(), await session.token_count()) == (2, 88)


@pytest.mark.asyncio
async def test_nothing_is_stored_that_could_not_be_counted() -> None:
    async with connect("memory://", policy=SPEC, counter=Letters()) as client:
        session = client.memory("support").session("42")
        with pytest.raises(TokenCountFailed) as refusal:
            await session.append_many([user("good"), user("uncountable")], id="request-1")
        assert isinstance(refusal.value.__cause__, ValueError)
        assert (refusal.value.memory, refusal.value.session) == ("local/support", "42")
        assert await session.read() == []
        assert (await session.append(user("good"), id="request-1")).duplicate is False


@pytest.mark.asyncio
async def test_the_loop_goes_on_while_four_mebibytes_are_counted() -> None:
    spec = {
        "limits": {"maxTokens": 10_000_000, "maxMessageSize": "4Mi"},
        "retention": {"ttl": "1h"},
    }
    async with connect("memory://", policy=spec) as client:
        session = client.memory("support").session("42")
        await session.append(user("loads the vocabulary"))
        message = user("^" * (4 * 2**20 - 100))
        call = asyncio.create_task(session.append(message))
        ticks = 0
        while not call.done():
            await asyncio.sleep(0.001)
            ticks += 1
        assert (await call).tokens > 500_000
    # It takes more than half a second. Encoding the JSON and storing it hold the loop a few times.
    assert ticks > 50
