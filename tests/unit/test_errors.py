"""The errors: one tree, stable codes, and sentences that say what happened without showing content."""

import ast
import asyncio
import builtins
import contextlib
import inspect
import json
import re
import ssl
import sys
import tempfile
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import redis
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

import holdfast
from holdfast import errors
from holdfast.breaker import Breaker
from holdfast.client import Client
from holdfast.connecting import connect
from holdfast.counting import MOST_HANGING, OwnCounter
from holdfast.errors import HoldfastError
from holdfast.formats import read_facts
from holdfast.keys import (
    fixed_key,
    memory_address,
    memory_prefix,
    session_key,
    template_key,
    template_pattern,
)
from holdfast.messages import Preparer, encode_item
from holdfast.policies import PolicyFeed
from holdfast.policy import load_policy
from holdfast.session import Session
from holdfast.store import refusals
from holdfast.store.bindings import Binding, find_binding
from holdfast.store.in_memory import InMemoryStore
from holdfast.store.pool_in_use import PoolInUse
from holdfast.store.redis import RedisStore
from holdfast.store.redis.carrier import Broken, Carrier, Command, PoolCarrier
from holdfast.store.redis.cluster import ClusterCarrier
from holdfast.store.redis.lanes import Lanes
from holdfast.store.redis.layout import session_keys
from holdfast.store.redis.migrating import Migration
from holdfast.store.redis.replies import accept, raise_for, read_status
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import script
from holdfast.store.redis.sentinel import SentinelCarrier
from holdfast.summaries import (
    OpenAICompatibleSummarizer,
    SummaryMessage,
    SummaryRequest,
    as_summarizer,
    checked,
)
from holdfast.summaries.answer import Answer, refusal, text_of
from holdfast.summaries.key import KEY, KEY_FILE, read_key
from holdfast.sync.refusals import refuse_cancelling
from holdfast.tokens import Count, counter, read_ranks
from holdfast.values import Caller, Durability, MemoryAddress, PolicyDocument
from tests.harness.binding_files import BindingFiles, entry

LIBRARY = Path(holdfast.__file__).parent
SECRET = "s3cret"
"""Stands for content and for passwords: no sentence may show it."""

CLASSES: dict[str, type[HoldfastError]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, HoldfastError)
}


# --- the tree


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Each class drawn in the module's docstring, with its parent and the builtin it also is."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    above: list[str] = []
    lines = (errors.__doc__ or "").splitlines()
    for line in lines[lines.index("HoldfastError") :]:
        match = re.fullmatch(
            r"((?:│   |    )*)(?:├── |└── )?(\w+)(?: \((\w+)\))?(?: {2,}.+)?", line
        )
        if not line or match is None:
            break
        depth = 0 if not tree else len(match[1]) // 4 + 1
        del above[depth:]
        tree[match[2]] = (above[-1] if above else None, match[3])
        above.append(match[2])
    return tree


def test_the_tree_is_as_drawn() -> None:
    found: dict[str, tuple[str | None, str | None]] = {}
    for name, error in CLASSES.items():
        ours = [base.__name__ for base in error.__bases__ if base.__module__ == errors.__name__]
        others = [base.__name__ for base in error.__bases__ if base.__module__ != errors.__name__]
        assert len(ours) <= 1
        assert len(others) <= 1
        other = others[0] if others else None
        found[name] = (ours[0], other) if ours else (None, None)
    assert found == drawn()
    assert CLASSES["HoldfastError"].__bases__ == (Exception,)


def test_every_line_of_the_tree_says_what_it_means() -> None:
    text = errors.__doc__ or ""
    for name in CLASSES.keys() - {"HoldfastError"}:
        assert re.search(rf"── {name}\b(?: \(\w+\))? {{2,}}\S.{{10,}}", text), name


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_error_is_public_and_says_what_it_is(name: str) -> None:
    error = CLASSES[name]
    assert getattr(holdfast, name) is error
    assert name in holdfast.__all__
    assert (error.__doc__ or "").strip()
    assert error.code == ("Error" if error is HoldfastError else name)
    assert "code" in vars(error), "a code of its own"


def test_codes_are_unique() -> None:
    codes = [error.code for error in CLASSES.values()]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ConfigurationError", ValueError),
        ("PolicyInvalid", ValueError),
        ("MessageInvalid", ValueError),
        ("SessionKeyError", ValueError),
        ("MemoryNotFound", LookupError),
        ("PolicyNotFound", LookupError),
        ("RecordNotFound", LookupError),
        ("AccessDenied", PermissionError),
        ("SessionBusy", TimeoutError),
        ("AmbiguousWrite", ConnectionError),
        ("StoreUnavailable", ConnectionError),
    ],
)
def test_an_error_is_also_what_a_program_would_catch_anyway(
    name: str, builtin: type[Exception]
) -> None:
    assert issubclass(CLASSES[name], builtin)


def test_which_errors_a_plain_retry_may_help() -> None:
    retryable = {name for name, error in CLASSES.items() if error.retryable}
    assert retryable == {
        "QuotaExceeded",
        "ScriptsMissing",
        "SessionBusy",
        "StoreUnavailable",
        "SummaryFailed",
    }


# --- what an error carries

REQUIRED: dict[str, dict[str, Any]] = {
    "PolicyInvalid": {"path": "spec.limits", "reason": "FieldValueInvalid"},
    "BudgetTooSmall": {"needed": 12},
    "QuotaExceeded": {"quota": "bytes", "used": 90, "hard": 100},
    "AcknowledgedLost": {"first": 3, "last": 7},
    "NotDurable": {"seq": 3},
    "SessionBusy": {"holder": "pod-a", "remaining": 12.5, "place": 2},
}


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_keeps_what_it_is_given(name: str) -> None:
    extra = REQUIRED.get(name, {})
    error = CLASSES[name]("it happened", **extra)
    assert error.message == "it happened"
    assert error.args == ("it happened",)
    assert (error.memory, error.session) == (None, None)
    assert {key: getattr(error, key) for key in extra} == extra
    if name != "PolicyInvalid":
        assert str(error) == "it happened"
        named = CLASSES[name]("it happened", memory="team-a/support", session="a%20b", **extra)
        assert str(named) == "it happened (memory 'team-a/support', session 'a%20b')"
        named = CLASSES[name]("it happened", memory="team-a/support", **extra)
        assert str(named) == "it happened (memory 'team-a/support')"
    if isinstance(error, OSError):
        assert error.errno is None


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({}, "spec.limits: too much (FieldValueInvalid)"),
        ({"file": "a.yaml"}, "a.yaml: spec.limits: too much (FieldValueInvalid)"),
        ({"file": "a.yaml", "line": 7}, "a.yaml:7: spec.limits: too much (FieldValueInvalid)"),
        ({"line": 7}, "spec.limits: too much (FieldValueInvalid)"),
    ],
)
def test_a_fault_of_a_policy_says_where(place: dict[str, Any], text: str) -> None:
    error = errors.PolicyInvalid(
        "too much", path="spec.limits", reason="FieldValueInvalid", **place
    )
    assert str(error) == text


# --- the sentences

SPEC: dict[str, Any] = {
    "model": {"tokenizer": "approximate"},
    "limits": {"maxTokens": 1000},
    "retention": {"ttl": "1h"},
}
MANIFEST: dict[str, Any] = {
    "apiVersion": "holdfast.dev/v1alpha1",
    "kind": "MemoryResource",
    "metadata": {"name": "support"},
    "spec": SPEC | {"backendRef": {"name": "shared"}},
}
SUPPORT = MemoryAddress("local", "support")
SEEN = Caller("token", 1, 9)


class Case(NamedTuple):
    """One way to be refused."""

    name: str
    error: type[HoldfastError]
    sentence: str
    attempt: Callable[[], object | Awaitable[object]]


def client(**spec: Any) -> Client:
    return connect("memory://", policy=SPEC | spec)


def session(**spec: Any) -> Session:
    return client(**spec).memory("support").session("42")


def raised(error: Exception) -> object:
    raise error


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def big(characters: int) -> dict[str, Any]:
    return user((SECRET * characters)[:characters])


class Foreign:
    """A program's own counter, that gives whatever answer it has and shows texts in its errors."""

    name = "foreign"

    def __init__(self, answer: Any, ready: threading.Event | None = None) -> None:
        self.answer = answer
        self.ready = ready

    def count(self, text: str) -> Count:
        if self.ready is not None:
            assert self.ready.wait(60)
        if self.answer is None:
            raise ValueError(text)
        return self.answer


def counted(answer: Any) -> Awaitable[object]:
    counting = connect("memory://", policy=SPEC, counter=Foreign(answer))
    return counting.memory("support").session("42").append(user(SECRET))


async def count_for_long(times: int) -> None:
    ready = threading.Event()
    counting = OwnCounter(Foreign(Count(1, exact=True), ready), patience=0.01)
    try:
        for _ in range(times):
            with contextlib.suppress(errors.TokenCountFailed):
                await counting.count_texts([SECRET])
        await counting.count_texts([SECRET])
    finally:
        ready.set()


async def busy_turn() -> None:
    found = session()
    async with found.turn(), found.turn(wait=timedelta(0)):
        pass


async def read_too_little() -> None:
    found = session()
    await found.append(user(SECRET * 20))
    await found.read(max_tokens=5)


class Scripted:
    """A carrier that always answers the same."""

    def __init__(self, answer: list[Any] | Exception) -> None:
        self.answer = answer

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Any]:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer * len(commands)

    async def block(self, command: Command, seconds: float) -> None:
        raise AssertionError("nobody waits here")

    async def nodes(self) -> Sequence[Carrier]:
        return [self]

    async def primaries(self) -> Sequence[Carrier]:
        return [self]

    async def aclose(self) -> None:
        pass


def run(answer: list[Any] | Exception, *, repeatable: bool = False) -> Awaitable[object]:
    runner = Runner(Scripted(answer), patience=0)
    return runner.run(script("append"), [b"k"], [], repeatable=repeatable)


async def behind_a_silent_exchange() -> object:
    silence = asyncio.Event()
    now = 0.0

    async def send(packed: bytes, count: int) -> list[Any]:
        await silence.wait()
        raise Broken("x")

    lanes = Lanes(send, clock=lambda: now)
    calls = [asyncio.create_task(lanes.exchange(b"a", 1)) for _ in range(3)]
    await asyncio.sleep(0)  # two are sent by now, and one waits
    now = 5.0
    silence.set()
    *_, waiting = await asyncio.gather(*calls, return_exceptions=True)
    await lanes.aclose()
    if isinstance(waiting, BaseException):
        raise waiting
    return waiting


def policy_reply(layout: bytes) -> Awaitable[object]:
    return RedisStore(Scripted([[layout, b"3", b"active", b"{}"]])).policy(SUPPORT)


class Pointing(Scripted):
    """A node of a Cluster that has all slots, and sends every call to itself."""

    def __init__(self) -> None:
        super().__init__([MovedError("1 10.0.0.1:6379")])

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Any]:
        if commands[0][0] == b"CLUSTER":
            return [[[0, 16383, [b"10.0.0.1", 6379, b"id"]]]]
        return await super().exchange(commands)


def in_cluster(node: Any) -> Awaitable[object]:
    return ClusterCarrier([("10.0.0.1", 6379)], lambda _: node).exchange([(b"GET", b"key")])


def behind(sentinel: Any) -> Awaitable[object]:
    carrier = SentinelCarrier([sentinel], "main", lambda *_: sentinel)
    return carrier.exchange([(b"GET", b"key")])


def durable(**options: Any) -> object:
    return connect("redis://host", durability=Durability(**options))


class Refusing(ConnectionPool):
    """A pool that gives no connection, for the reason it is given."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.reason = reason

    async def get_connection(self, *args: object, **options: object) -> Any:
        raise self.reason


def away() -> Breaker:
    breaker = Breaker(patience=0, clock=lambda: 0.0, jitter=lambda: 0.0)
    for _ in range(2):
        breaker.failed("no connection")
    return breaker


def connecting(reason: Exception) -> Awaitable[object]:
    return PoolCarrier(Refusing(reason), owned=False).exchange([(b"PING",)])


def with_a_pool_in_use() -> Awaitable[object]:
    pool = ConnectionPool(max_connections=1)  # pyright: ignore[reportUnknownMemberType]
    pool.get_available_connection()
    return PoolCarrier(pool, owned=False, timeout=0.01).exchange([(b"PING",)])


class Shelf:
    """A store whose policy is what it is told to be, one answer after the other."""

    def __init__(self, *documents: PolicyDocument | None) -> None:
        self.documents = list(documents)
        self.store = InMemoryStore()

    def session(self, memory: MemoryAddress, key: str) -> Any:
        return self.store.session(memory, key)

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        return self.documents.pop(0) if len(self.documents) > 1 else self.documents[0]

    async def aclose(self) -> None:
        pass


def document(revision: int = 1, *, active: bool = True) -> PolicyDocument:
    return PolicyDocument(revision, active, load_policy(SPEC)[1].document().encode())


def leaping() -> Callable[[], float]:
    """A clock that is a minute later at every look."""
    now = iter(range(0, 6000, 60))
    return lambda: float(next(now))


def feed(*documents: PolicyDocument | None, own: bool = False) -> PolicyFeed:
    given = load_policy(SPEC)[1] if own else None
    return PolicyFeed(Shelf(*documents), SUPPORT, given, clock=leaping())


async def twice(found: PolicyFeed) -> None:
    await found.current()
    await found.current()


MEMORY = " (memory 'local/support')"
SESSION = " (memory 'local/support', session '42')"
BUSY = (
    "'pod:1' holds the turn of this session for another {} s, with 0 in line: wait longer, or try "
    "again"
)
NO_JSON = (
    "the message is not a JSON value ({}): give dicts with text keys, lists, text, finite numbers, "
    "booleans and null; call `.model_dump()` or the like on objects of an SDK"
)
UNREADABLE = (
    "the address of the server cannot be read: write it as "
    "redis://user:password@host:port/database, with '/', '?', '#', '@' and '[' in the password "
    "percent-encoded"
)


def connecting_cases() -> Iterator[Case]:
    """What `connect()` and `memory()` refuse."""
    error = errors.ConfigurationError
    yield Case(
        "no address",
        error,
        "nothing says where the memory is: give a url to connect(), such as "
        "'redis://localhost:6379' or 'memory://', set HOLDFAST_URL, or mount a binding. Tried: the "
        "argument (not given), HOLDFAST_URL (not set), SERVICE_BINDING_ROOT (not set)",
        connect,
    )
    yield Case(
        "an unknown option",
        error,
        "the url has the unknown option 'db'; there are namespace, prefix, replicas, wait, "
        "ca, cert, key, server-name, sentinel-username, sentinel-password",
        lambda: connect(f"redis://user:{SECRET}@host?db=1"),
    )
    yield Case(
        "an address that cannot be read",
        error,
        UNREADABLE,
        lambda: connect(f"redis://user:{SECRET}/x@host"),
    )
    yield Case(
        "a sidecar decides",
        error,
        "policy= is not for a program that reaches its memories through a sidecar, which decides that for "
        "all of them: leave it out, and set it where the sidecar is started",
        lambda: connect("http://127.0.0.1:7070", policy={}),
    )
    yield Case("no url", error, "url is text, not int", lambda: connect(cast("Any", 5)))
    yield Case(
        "another client",
        error,
        "client is a redis.asyncio.Redis or a redis.asyncio.RedisCluster, not redis.client.Redis: make one "
        "of those, or give a url instead",
        lambda: connect(client=cast("Any", redis.Redis(password=SECRET))),
    )
    yield Case(
        "no list of observers",
        error,
        "observers is a list of observers, not int",
        lambda: connect("memory://", observers=cast("Any", 5)),
    )
    yield Case(
        "no observer",
        error,
        "an observer has the methods begun, ended, counted, measured, as holdfast.telemetry.Observer says; "
        "object has no begun",
        lambda: connect("memory://", observers=cast("Any", [object()])),
    )
    yield Case(
        "no durability",
        error,
        "durability is a holdfast.Durability, such as Durability(replicas=1), not str",
        lambda: connect("redis://host", durability=cast("Any", SECRET)),
    )
    yield Case(
        "no primary named",
        error,
        "the address names no primary: write it as redis+sentinel://host:port,host:port/name, with "
        "the addresses of the sentinels and the name they give the primary",
        lambda: connect(f"redis+sentinel://user:{SECRET}@host"),
    )
    yield Case(
        "a database in a Cluster",
        error,
        "a Cluster has one database only: leave its number out",
        lambda: connect(f"redis+cluster://user:{SECRET}@host/1"),
    )
    yield Case(
        "TLS options without TLS",
        error,
        "the option 'ca' of the url is for rediss:// only",
        lambda: connect(f"redis://user:{SECRET}@host?ca=ca.pem"),
    )
    yield Case(
        "a key without its certificate",
        error,
        "the url has the option 'key' without 'cert': give both files",
        lambda: connect(f"rediss://user:{SECRET}@host?key=key.pem"),
    )
    yield Case(
        "another scheme",
        error,
        "ftp:// is no address of a Redis server: use redis://",
        lambda: connect(f"ftp://user:{SECRET}@host"),
    )
    yield Case(
        "a bad prefix",
        error,
        "key prefix 'Mem' is not 1..16 of a-z, 0-9 and '-'",
        lambda: connect("redis://host?prefix=Mem"),
    )
    yield Case(
        "the same, asked directly",
        error,
        "key prefix 'Mem' is not 1..16 of a-z, 0-9 and '-'",
        lambda: memory_prefix(SUPPORT, "Mem"),
    )
    yield Case(
        "a bad name",
        error,
        "memory name 'Support' is no Kubernetes name: at most 63 of a-z, 0-9, '-' and '.', starting "
        "and ending with a letter or digit",
        lambda: memory_address("local", "Support"),
    )
    yield Case(
        "another memory",
        errors.MemoryNotFound,
        "there is no memory 'billing' here; there is 'support' (memory 'local/billing')",
        lambda: connect("memory://", policy=MANIFEST).memory("billing"),
    )
    yield Case(
        "no policy file",
        error,
        "the policy file /no/such/file cannot be read: No such file or directory",
        lambda: connect("memory://", policy="/no/such/file"),
    )
    yield Case(
        "a policy file that is no text",
        error,
        f"the policy file {LIBRARY / 'store'} cannot be read: Is a directory",
        lambda: connect("memory://", policy=LIBRARY / "store"),
    )
    yield Case(
        "no such tokenizer",
        error,
        "There is no tokenizer 'p50k_base'; there are o200k_base, cl100k_base, approximate.",
        lambda: counter("p50k_base"),
    )
    yield Case(
        "a vocabulary that is not there",
        error,
        "The vocabulary x.tiktoken cannot be read: No such file or directory; install holdfast "
        "again, or in a checkout run `pip install -e .`, which fetches it.",
        lambda: read_ranks(Path("/no/such/x.tiktoken"), ""),
    )
    yield Case(
        "a vocabulary that is damaged",
        error,
        "The vocabulary errors.py is damaged: its sha256 is not 00; install holdfast again, or in "
        "a checkout run `pip install -e .`, which fetches it.",
        lambda: read_ranks(LIBRARY / "errors.py", "00"),
    )


def naming_cases() -> Iterator[Case]:
    """What `session()` refuses."""
    error = errors.SessionKeyError
    template = SPEC | {"keyTemplate": "user:{user_id}"}
    yield Case(
        "no id and no fields",
        error,
        "name the session: by its id, or by the fields of the key template" + MEMORY,
        lambda: client().memory("support").session(),
    )
    yield Case(
        "fields without a template",
        error,
        "the memory has no key template: give the session's id" + MEMORY,
        lambda: client().memory("support").session(user_id=SECRET),
    )
    yield Case(
        "an id with a template",
        error,
        "the memory has the key template 'user:{user_id}': give its fields by name" + MEMORY,
        lambda: client(**template).memory("support").session(SECRET),
    )
    yield Case(
        "other fields",
        error,
        "the key template 'user:{user_id}' takes exactly the fields user_id",
        lambda: template_key("user:{user_id}", {"user": SECRET}),
    )
    yield Case(
        "a bad field",
        error,
        "field 'user_id': a session key may have at most 512 bytes of UTF-8, this one has 600",
        lambda: template_key("user:{user_id}", {"user_id": SECRET * 100}),
    )
    yield Case(
        "no text",
        error,
        "a session key is text, not int" + MEMORY,
        lambda: client().memory("support").session(cast("Any", 5)),
    )
    yield Case("empty", error, "a session key must not be empty", lambda: session_key(""))
    yield Case(
        "too long",
        error,
        "a session key may have at most 512 bytes of UTF-8, this one has 600",
        lambda: session_key(SECRET * 100),
    )
    yield Case(
        "no Unicode",
        error,
        "a session key must be valid Unicode text",
        lambda: session_key(f"{SECRET}\ud800"),
    )


def message_cases() -> Iterator[Case]:
    """What an append refuses before anything is sent."""
    yield Case(
        "no JSON",
        errors.MessageInvalid,
        NO_JSON.format("TypeError"),
        lambda: encode_item({"content": SECRET.encode()}),  # pyright: ignore[reportArgumentType]
    )
    yield Case(
        "no JSON, in an append",
        errors.MessageInvalid,
        NO_JSON.format("UnicodeEncodeError") + SESSION,
        lambda: session().append(user(f"{SECRET}\ud800")),
    )
    deep: Any = SECRET
    for _ in range(300):
        deep = [deep]
    yield Case(
        "too deep",
        errors.MessageInvalid,
        "the message is nested more than 256 levels deep: a reader could not decode it; flatten it, "
        "or give the inner part as text",
        lambda: encode_item(deep),
    )
    yield Case(
        "no JSON, read as a format",
        errors.MessageInvalid,
        "the message is no JSON value: TypeError",
        lambda: read_facts({SECRET: SECRET.encode()}),  # pyright: ignore[reportArgumentType]
    )
    yield Case(
        "no id",
        errors.MessageInvalid,
        "an id is text of 1 to 512 characters" + SESSION,
        lambda: session().append(user("hi"), id=""),
    )
    yield Case(
        "one message alone",
        errors.MessageInvalid,
        "messages is a list of messages, not dict: put one message in a list, [message], and what gives "
        "one after the other through list()" + SESSION,
        lambda: session().replace(cast("Any", user(SECRET))),
    )
    yield Case(
        "no privacy",
        errors.ConfigurationError,
        "privacy is a holdfast.Privacy, such as Privacy(persist=False), not str" + SESSION,
        lambda: session().append(user(SECRET), privacy=cast("Any", SECRET)),
    )
    yield Case(
        "no number",
        errors.ConfigurationError,
        "after is a whole number, 0..2147483648",
        lambda: session().read(after=cast("Any", SECRET)),
    )
    yield Case(
        "no number of records",
        errors.ConfigurationError,
        "limit is a whole number, 1..1000",
        lambda: session().read_page(limit=cast("Any", SECRET)),
    )
    yield Case(
        "two ways to read",
        errors.ConfigurationError,
        "give limit or max_tokens, not both",
        lambda: session().read(limit=1, max_tokens=1),
    )
    yield Case(
        "no text",
        errors.ConfigurationError,
        "id is text, not int",
        lambda: session().explain(id=cast("Any", 5)),
    )
    yield Case(
        "an id that is no Unicode",
        errors.MessageInvalid,
        "an id must be valid Unicode text" + SESSION,
        lambda: session().append(user("hi"), id=f"{SECRET}\ud800"),
    )
    yield Case(
        "a group that cannot be",
        errors.MessageInvalid,
        "group is the sequence number of an earlier record: a whole number, 1..2147483648"
        + SESSION,
        lambda: session().append(user(SECRET), group=0),
    )
    yield Case(
        "no role",
        errors.ConfigurationError,
        "'boss' is no role; use one of assistant, developer, system, tool, user" + SESSION,
        lambda: session().append(user(SECRET), role="boss"),
    )
    yield Case(
        "no format",
        errors.ConfigurationError,
        "'prose' is no message format; use one of anthropic, bedrock, chat, gemini, langchain, "
        "pydantic_ai, responses",
        lambda: Preparer("prose").facts(user(SECRET)),
    )
    yield Case(
        "no share",
        errors.ConfigurationError,
        "tokenAllocation.userDefined has no share 'facts'; there is none" + SESSION,
        lambda: session().append(user(SECRET), share="facts"),
    )
    yield Case(
        "no level of privacy",
        errors.ConfigurationError,
        "a privacy level is one of public, private, confidential",
        lambda: holdfast.Privacy(level=SECRET),  # pyright: ignore[reportArgumentType]
    )
    yield Case(
        "no path of a field",
        errors.ConfigurationError,
        "sensitive is a tuple of paths, each of keys joined by dots, such as ('arguments.card',)",
        lambda: holdfast.Privacy(sensitive=SECRET),  # pyright: ignore[reportArgumentType]
    )
    yield Case(
        "a sensitive field that pairs",
        errors.ConfigurationError,
        "sensitive names a field that tells which result belongs to which tool call: name the fields "
        "beside or below it" + SESSION,
        lambda: session().append(
            {"role": "tool", "tool_call_id": SECRET, "content": SECRET},
            privacy=holdfast.Privacy(sensitive=("tool_call_id",)),
        ),
    )
    yield Case(
        "too many bytes",
        errors.MessageTooLarge,
        "the message has 1028 bytes of JSON, limits.maxMessageSize is 1024" + SESSION,
        lambda: session(limits={"maxMessageSize": "1Ki"}).append(big(1000)),
    )
    yield Case(
        "too many tokens",
        errors.MessageTooLarge,
        "the message has 1254 tokens, the whole session may have 1000" + SESSION,
        lambda: session().append(big(5000)),
    )
    yield Case(
        "too many tokens together",
        errors.BudgetExceeded,
        "the 2 messages have 1508 tokens, the whole session may have 1000" + SESSION,
        lambda: session().append_many([big(3000)] * 2),
    )
    yield Case(
        "more messages than there may be",
        errors.BudgetExceeded,
        "the call has 3 messages, the whole session may have 2" + SESSION,
        lambda: session(limits={"maxMessages": 2}).append_many([user(SECRET)] * 3),
    )
    yield Case(
        "more messages than a call takes",
        errors.BudgetExceeded,
        "a call takes at most 1000 messages: split it" + SESSION,
        lambda: session().append_many([user(SECRET)] * 1001),
    )
    yield Case(
        "more bytes than a call takes",
        errors.BudgetExceeded,
        "a call takes at most 8388608 bytes of JSON: split it" + SESSION,
        lambda: session(limits={"maxMessageSize": "4Mi"}).append_many([big(3 << 20)] * 3),
    )


def counter_cases() -> Iterator[Case]:
    """What is said of a program's own token counter."""
    error = errors.TokenCountFailed
    yield Case(
        "no counter",
        errors.ConfigurationError,
        "counter is an object with a name and a method count(text) that is no coroutine and returns "
        "a Count, as holdfast.TokenCounter says",
        lambda: connect("memory://", counter=cast("Any", len)),
    )
    yield Case(
        "a counter that raises",
        error,
        "the counter 'foreign' raised ValueError" + SESSION,
        lambda: counted(None),
    )
    yield Case(
        "a counter that gives no count",
        error,
        "the counter 'foreign' gave no Count of 0 to 100000000 tokens" + SESSION,
        lambda: counted((-1, SECRET)),
    )
    yield Case(
        "a counter that is slow",
        error,
        "the counter 'foreign' did not answer within 0.01 s",
        lambda: count_for_long(0),
    )
    yield Case(
        "a counter that hangs",
        error,
        "the counter 'foreign' hangs: 8 of its counts were given up and still go on",
        lambda: count_for_long(MOST_HANGING),
    )


def turn_cases() -> Iterator[Case]:
    """What a turn and a read refuse."""
    error = errors.ConfigurationError
    yield Case(
        "a short turn",
        error,
        "a turn's ttl is at least 3s and at most 1h",
        lambda: session().turn(ttl="2999ms"),
    )
    yield Case(
        "a turn that was not entered",
        errors.LeaseLost,
        "the turn was not entered, so it is not held: make calls under it within `async with "
        "session.turn() as turn` (holdfast.sync: `with`). This call wrote nothing" + SESSION,
        lambda: session().turn().append(user(SECRET)),
    )
    yield Case(
        "a long wait",
        error,
        "a turn is waited for at most 24h",
        lambda: session().turn(wait="86401s"),
    )
    odd: dict[str, Any] = {"on_interrupt": "stop"}
    yield Case(
        "an unknown way to be interrupted",
        error,
        "on_interrupt is 'cancel' or None",
        lambda: session().turn(**odd),
    )
    yield Case(
        "a thread that is to be cancelled",
        error,
        "on_interrupt='cancel' cannot be had here: nothing can cancel a thread. Look at "
        "turn.interrupted, or call turn.check()",
        lambda: refuse_cancelling("cancel"),
    )
    yield Case(
        "a negative wait",
        error,
        "a duration is not negative",
        lambda: session().turn(wait=timedelta(seconds=-1)),
    )
    yield Case(
        "no duration",
        error,
        "'soon' is no duration: a duration should match '^[1-9][0-9]{0,6}(ms|s|m|h|d)$', such as "
        "30s or 24h",
        lambda: session().turn(wait="soon"),
    )
    yield Case(
        "not enough",
        errors.BudgetTooSmall,
        "max_tokens is 5, but the protected messages and the newest group have 34 tokens: raise it "
        "or unpin some" + SESSION,
        read_too_little,
    )


async def export_too_much() -> None:
    found = session()
    await found.append(user(SECRET * 20))
    lines = [line async for line in found.export()]
    await session(limits={"maxTokens": 10}).import_(lines)


async def import_less() -> None:
    found = session()
    await found.append(user(SECRET))
    lines = [line async for line in found.export()]
    await found.import_(lines[:1])


def whole_session_cases() -> Iterator[Case]:
    """Erase, export and import."""
    labels: dict[str, dict[str, Any]] = {
        "the name and the value of a label are texts of 1 to 512 bytes of UTF-8": {"user": ""},
        "a session has at most 16 labels": {str(number): SECRET for number in range(17)},
    }
    for sentence, given in labels.items():
        yield Case(
            sentence,
            errors.ConfigurationError,
            sentence,
            lambda given=given: client().memory("support").session("42", labels=given),
        )
    yield Case(
        "labels that are none",
        errors.ConfigurationError,
        "labels is a mapping of names to values",
        lambda: client().memory("support").session("42", labels=cast("Any", [SECRET])),
    )
    yield Case(
        "no label",
        errors.ConfigurationError,
        "name at least one label of the sessions to erase" + MEMORY,
        lambda: client().memory("support").erase(labels={}),
    )
    yield Case(
        "erased meanwhile",
        errors.AmbiguousWrite,
        "the connection broke before the answer, and the session was erased while the call was "
        "repeated: nothing of it is stored. Append it again if it belongs to what comes after",
        lambda: accept([b"ERASED"], SEEN),
    )
    yield Case(
        "import overtaken",
        errors.ImportRefused,
        "somebody else changed the session since the import began: what was imported before stays, "
        "and nothing of this part was written",
        lambda: raised(refusals.import_overtaken()),
    )
    yield Case(
        "import redacted otherwise",
        errors.ImportRefused,
        "the policy's privacy was changed during the import, and this part was read under what held "
        "before; nothing of it was written: clear the session, and import it again",
        lambda: raised(refusals.import_redacted_otherwise()),
    )
    yield Case(
        "no export",
        errors.ImportRefused,
        "line 1 is no header of an export (DecodeError); nothing of this part was written"
        + SESSION,
        lambda: session().import_([SECRET]),
    )
    yield Case(
        "too large an import",
        errors.BudgetExceeded,
        "the export has 1 messages and 34 tokens, more than a session of this memory may have: raise "
        "the limits for the import" + SESSION,
        export_too_much,
    )
    yield Case(
        "too short an import",
        errors.ImportRefused,
        "the session holds more messages than the export: choose another" + SESSION,
        import_less,
    )


async def flush_while(meanwhile: Callable[[Session], Awaitable[object]]) -> None:
    """Flush, and do something else while the summary is written."""

    async def writes(request: SummaryRequest) -> str:
        await meanwhile(own)
        return "short"

    own = Client(InMemoryStore(), policy=SPEC, summarizer=writes).memory("support").session("42")
    await own.append_many([user("some words of small talk")] * 60)
    await own.flush("HybridSummary")


def flush_cases() -> Iterator[Case]:
    """What flushes and questions about them refuse."""
    yield Case(
        "no strategy",
        errors.ConfigurationError,
        "'Sometimes' is no strategy of a flush; use one of FIFO, LRU, TokenAwareLRU, HybridSummary, "
        "TimeBased",
        lambda: session().flush("Sometimes"),
    )
    yield Case(
        "no age",
        errors.ConfigurationError,
        "a flush with strategy TimeBased needs flushing.maxAge in the policy" + SESSION,
        lambda: session().flush("TimeBased"),
    )
    yield Case(
        "flushed by somebody else",
        errors.SessionBusy,
        "somebody else flushes this session: look again when that is done" + SESSION,
        lambda: flush_while(lambda own: own.flush("LRU")),
    )
    yield Case(
        "changed under a flush",
        errors.SessionBusy,
        "the session changed under the flush, which changed nothing: flush it again" + SESSION,
        lambda: flush_while(lambda own: own.clear()),
    )
    yield Case(
        "asked twice",
        errors.ConfigurationError,
        "explain() takes an id or a seq",
        lambda: session().explain(),
    )


def store_cases() -> Iterator[Case]:
    """What every store refuses, in the same words."""
    yield Case(
        "lease lost",
        errors.LeaseLost,
        "the turn is over: its lease ended or the session was cleared. This call wrote nothing; "
        "start a new turn and read again",
        lambda: accept([b"LEASELOST"], SEEN),
    )
    yield Case(
        "interrupted",
        errors.TurnInterrupted,
        "the turn was interrupted: somebody else took it, as the policy says (onBusy: Interrupt). This "
        "call wrote nothing; what the turn wrote before stays",
        lambda: accept([b"INTERRUPTED"], SEEN),
    )
    yield Case(
        "busy",
        errors.SessionBusy,
        "somebody else holds the turn of this session, and its policy lets only the holder write",
        lambda: accept([b"BUSY", 1000, b"pod-a"], SEEN),
    )
    yield Case(
        "conflict",
        errors.IdempotencyConflict,
        "the id was used before, for another content (sequence number 7): use a new id",
        lambda: accept([b"CONFLICT", 7], SEEN),
    )
    yield Case(
        "lost",
        errors.AcknowledgedLost,
        "the server no longer has the messages 6 to 9 that it had acknowledged, as after a "
        "failover: read the session again and repeat what is missing",
        lambda: accept([b"REGRESSED", 5], SEEN),
    )
    yield Case(
        "lost whole",
        errors.AcknowledgedLost,
        "the server no longer has this session, of which it had acknowledged messages up to 9, as after a "
        "failover or a restart without persistence: begin it again with what is missing",
        lambda: raised(refusals.session_vanished(9)),
    )
    yield Case(
        "full",
        errors.BudgetExceeded,
        "the session is full with 5 messages and 900 tokens, and its policy refuses instead of "
        "evicting (onFull: Refuse): clear it or raise the limits",
        lambda: accept([b"FULL", 5, 900], SEEN),
    )
    yield Case(
        "no room",
        errors.BudgetExceeded,
        "the call does not fit beside the protected messages and its own tool calls: unpin some, "
        "send less, or raise the limits",
        lambda: accept([b"NOROOM"], SEEN),
    )
    yield Case(
        "no record",
        errors.RecordNotFound,
        "the session holds no record with this sequence number" + SESSION,
        lambda: session().pin(7),
    )
    yield Case(
        "a field that the template does not have",
        errors.SessionKeyError,
        "the key template 'user:{user_id}' has the fields user_id",
        lambda: template_pattern("user:{user_id}", {"user": SECRET}),
    )
    yield Case(
        "an unreadable address",
        errors.ConfigurationError,
        UNREADABLE,
        lambda: raised(refusals.unreadable_address()),
    )
    yield Case(
        "too many sessions",
        errors.QuotaExceeded,
        "the memory has 12 sessions and may have 10 (quotas.sessions.hard), so this one cannot begin: "
        "let others expire, which is seen within a quarter of an hour, or raise the quota",
        lambda: accept([b"SESSIONS", 12, 10], SEEN),
    )
    yield Case(
        "too many bytes",
        errors.QuotaExceeded,
        "the memory holds about 990 bytes, this call adds 20, and 1000 are allowed "
        "(quotas.bytes.hard): clear sessions or let them expire, which the operator's next "
        "measurement sees within five minutes, or raise the quota",
        lambda: raised(refusals.quota_exceeded("bytes", 990, 20, 1000)),
    )
    yield Case(
        "a newer layout",
        errors.UnknownKeys,
        "the session was written by a newer version (layout 2): upgrade holdfast",
        lambda: accept([b"LAYOUT", 2], SEEN),
    )
    yield Case(
        "an older layout, and no right to change it",
        errors.StoreUnavailable,
        "the session still has an older layout, and these credentials may not change it: the operator "
        "does, try again in a moment",
        lambda: Migration(
            Runner(Scripted([NoPermissionError(SECRET)]), patience=0), script("migrate")
        ).one(session_keys(SUPPORT, "s", "mem")),
    )
    yield Case(
        "a policy of a newer layout",
        errors.ConfigurationError,
        "the keys in Redis have layout 2, this version knows 1: upgrade holdfast",
        lambda: policy_reply(b"2"),
    )
    yield Case(
        "counters that are not ours",
        errors.CorruptRecord,
        "the counters of the session do not have their form: something else wrote to the session. "
        "Remove its keys",
        lambda: read_status([SECRET.encode()] * 4, now=0),
    )


def server_cases() -> Iterator[Case]:
    """What a server in trouble answers, or does not."""
    yield Case(
        "no permission",
        errors.AccessDenied,
        "the credentials do not allow this call: check the binding's access and memory",
        lambda: raise_for(NoPermissionError(SECRET)),
    )
    yield Case(
        "out of memory",
        errors.StoreUnavailable,
        "the server is out of memory and refuses writes: free some or raise maxmemory",
        lambda: raise_for(OutOfMemoryError(SECRET)),
    )
    yield Case(
        "a replica",
        errors.StoreUnavailable,
        "the server is a read-only replica, as during a failover",
        lambda: raise_for(ReadOnlyError(SECRET)),
    )
    yield Case(
        "loading",
        errors.StoreUnavailable,
        "the server cannot serve now: it loads, moves or is busy",
        lambda: raise_for(BusyLoadingError(SECRET)),
    )
    yield Case(
        "another type of key",
        errors.UnknownKeys,
        "one of the keys holds another data type: something else writes under the same prefix. "
        "Remove the key or choose another keyPrefix",
        lambda: raise_for(ResponseError(f"WRONGTYPE {SECRET}")),
    )
    yield Case(
        "a corrupt record",
        errors.CorruptRecord,
        "a stored record does not have the form of a record: something else wrote to the session. "
        "Clear the session, or remove the record",
        lambda: raise_for(ResponseError(f"CORRUPT {SECRET}")),
    )
    yield Case(
        "anything else",
        errors.StoreUnavailable,
        "the server answered with an error (ResponseError)",
        lambda: raise_for(ResponseError(SECRET)),
    )
    yield Case(
        "a lost reply",
        errors.AmbiguousWrite,
        "the connection broke before the answer: the call may or may not have been carried out. "
        "Read the session to find out; an append with an id is repeated by itself and stored once",
        lambda: run(Broken("x")),
    )
    yield Case(
        "no reply in time",
        errors.StoreUnavailable,
        "the server does not answer in time",
        lambda: run(Broken("x"), repeatable=True),
    )
    yield Case(
        "behind one that got none",
        errors.StoreUnavailable,
        "the server was silent to the call before: nothing was sent",
        behind_a_silent_exchange,
    )
    yield Case(
        "a pool of the program's own that is in use",
        PoolInUse,
        "all 1 connections of the pool of the program's own redis client were in use, and none came free "
        "in time: nothing was sent. Give that pool more (max_connections), or hold fewer for long",
        with_a_pool_in_use,
    )
    yield Case(
        "no scripts",
        errors.ScriptsMissing,
        "the server does not have the scripts of this version and these credentials may not load "
        "them: the operator does, check that it runs",
        lambda: run([NoScriptError("x")]),
    )
    yield Case(
        "known to be away",
        errors.StoreUnavailable,
        "the server has not answered for 0 s: calls fail at once, and it is asked again in 1.0 s. The "
        "last failure: no connection",
        lambda: away().admit(),
    )
    yield Case(
        "wrong credentials",
        errors.AccessDenied,
        "the server refused the credentials: check user name and password",
        lambda: connecting(AuthenticationError(SECRET)),
    )
    yield Case(
        "no entry",
        errors.AccessDenied,
        "the server does not let these credentials connect",
        lambda: connecting(ResponseError(SECRET)),
    )
    yield Case(
        "still loading",
        errors.StoreUnavailable,
        "the server is loading its data set",
        lambda: connecting(BusyLoadingError(SECRET)),
    )
    yield Case(
        "no connection",
        errors.StoreUnavailable,
        "no connection to the server: check that it runs, its address, and that no network policy is "
        "in the way",
        lambda: connecting(OSError(SECRET)),
    )
    yield Case(
        "no TLS connection",
        errors.StoreUnavailable,
        "no TLS connection to the server: check that it speaks TLS, that its certificate names the "
        "address, and the authority it is checked against (ca)",
        lambda: connecting(ssl.SSLError(SECRET)),
    )
    yield Case(
        "a replica from the start",
        errors.StoreUnavailable,
        "the server is not the primary, as during a failover",
        lambda: connecting(ReadOnlyError(SECRET)),
    )


def several_servers_cases() -> Iterator[Case]:
    """What goes wrong between several servers."""
    yield Case(
        "too few replicas to write",
        errors.StoreUnavailable,
        "the server has fewer replicas than it needs to accept writes (min-replicas-to-write)",
        lambda: raise_for(ResponseError(f"NOREPLICAS {SECRET}")),
    )
    yield Case(
        "a node of a Cluster",
        errors.ConfigurationError,
        "the server is a node of a Cluster: write its address as redis+cluster://",
        lambda: raise_for(MovedError(f"1 {SECRET}:1")),
    )
    yield Case(
        "no Cluster",
        errors.ConfigurationError,
        "the server is no node of a Cluster: write its address as redis://",
        lambda: in_cluster(Scripted([ResponseError("ERR has cluster support disabled")])),
    )
    yield Case(
        "no node answers",
        errors.StoreUnavailable,
        "no node of the Cluster can be reached",
        lambda: in_cluster(Scripted(Broken("x"))),
    )
    yield Case(
        "a Cluster without slots",
        errors.StoreUnavailable,
        "no node of the Cluster has any slots",
        lambda: ClusterCarrier([("10.0.0.1", 6379)], lambda _: Scripted([[]])).primaries(),
    )
    yield Case(
        "nodes that do not agree",
        errors.StoreUnavailable,
        "the nodes of the Cluster send the call to each other: slots move",
        lambda: in_cluster(Pointing()),
    )
    yield Case(
        "no sentinel answers",
        errors.StoreUnavailable,
        "no sentinel can be reached: check that they run, and their addresses",
        lambda: behind(Scripted(Broken("x"))),
    )
    yield Case(
        "no sentinel at all",
        errors.ConfigurationError,
        "what answers is no Sentinel: give the addresses of the sentinels, or write the server's as "
        "redis://",
        lambda: behind(Scripted([ResponseError("unknown command 'SENTINEL'")])),
    )
    yield Case(
        "a server that wants a password",
        errors.AccessDenied,
        "the server wants a user name and a password: give them with the address",
        lambda: run([AuthenticationError(SECRET)]),
    )
    yield Case(
        "an unknown primary",
        errors.StoreUnavailable,
        "the sentinels know no primary of the name 'main'",
        lambda: behind(Scripted([None])),
    )
    yield Case(
        "not confirmed",
        errors.NotDurable,
        "the call is written (sequence number 3), but too few replicas confirmed it in time: repeat it "
        "with the same id to ask again, or check the replicas",
        lambda: raised(refusals.not_durable(3)),
    )
    yield Case(
        "a turn that is not confirmed",
        errors.SessionBusy,
        "the turn was given back: too few replicas confirmed its lease in time. Try again, or check "
        "the replicas",
        lambda: raised(refusals.unconfirmed_turn()),
    )
    for options in ({"replicas": 0}, {"timeout": "1"}, {"timeout": "11s"}):
        yield Case(
            f"a durability that cannot be: {options}",
            errors.ConfigurationError,
            "the durability cannot be: replicas is 1..100, and timeout a duration such as '100ms' of "
            "at most 10 s",
            lambda options=options: durable(**options),
        )


def policy_cases() -> Iterator[Case]:
    """What is said of a policy that is not there."""
    error = errors.PolicyNotFound
    yield Case(
        "no policy",
        error,
        "no policy: no operator wrote one for this memory, and none was given. Apply a "
        "MemoryResource, or pass `policy=` to connect()" + MEMORY,
        lambda: feed(None).current(),
    )
    yield Case(
        "removed",
        error,
        "the policy of this memory was removed" + MEMORY,
        lambda: twice(feed(document(), None)),
    )
    yield Case(
        "being deleted",
        error,
        "the memory is being deleted" + MEMORY,
        lambda: feed(document(active=False)).current(),
    )
    yield Case(
        "gone",
        error,
        "the session was written under an operator's policy, and that policy is gone: apply the "
        "MemoryResource again, or clear the session's keys" + MEMORY,
        lambda: feed(None, own=True).catch_up(3),
    )
    yield Case(
        "older than the session",
        errors.StoreUnavailable,
        "the policy in the store stays older than what the session has seen" + MEMORY,
        lambda: feed(document()).catch_up(3),
    )


def summary(answer: Any, *, seconds: float = 60) -> Awaitable[object]:
    """Let a function give the answer, or raise it, as the summary of a secret."""

    async def writes(request: SummaryRequest) -> str:
        await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    request = SummaryRequest((SummaryMessage("user", SECRET, 0),), None, 16, counter("approximate"))
    return checked(as_summarizer(writes), request, seconds=seconds)


def summary_cases() -> Iterator[Case]:
    """What is not accepted as a summary."""
    error = errors.SummaryFailed
    yield Case(
        "no summariser",
        errors.ConfigurationError,
        "a summarizer is a function of the request or an object with summarize(request), not str",
        lambda: as_summarizer(SECRET),  # pyright: ignore[reportArgumentType]
    )
    yield Case(
        "a summary that fails",
        error,
        "the summarizer 'writes' failed (OSError)",
        lambda: summary(OSError(SECRET)),
    )
    yield Case(
        "a summary that takes too long",
        error,
        "the summarizer 'writes' did not answer within 0 s",
        lambda: summary(SECRET, seconds=0),
    )
    yield Case(
        "a summary that is no text",
        error,
        "the summarizer 'writes' returned bytes instead of a text",
        lambda: summary(SECRET.encode()),
    )
    yield Case(
        "an empty summary",
        error,
        "the summarizer 'writes' returned an empty text",
        lambda: summary(" "),
    )
    yield Case(
        "a summary that is no Unicode",
        error,
        "the summarizer 'writes' returned a text that is no valid Unicode",
        lambda: summary(f"{SECRET}\ud800"),
    )
    yield Case(
        "a long summary",
        error,
        "the summarizer 'writes' returned 30 tokens, 16 were allowed",
        lambda: summary(SECRET * 20),
    )


def completed(**choice: Any) -> Answer:
    return Answer(
        200, json.dumps({"choices": [{"message": {"content": SECRET}} | choice]}).encode()
    )


async def without_the_extra() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "httpx", None)
        await endpoint().summarize(SummaryRequest((), None, 16, counter("approximate")))


def endpoint(**options: Any) -> OpenAICompatibleSummarizer:
    return OpenAICompatibleSummarizer("http://127.0.0.1:1", "m", environ={}, **options)


def endpoint_cases() -> Iterator[Case]:
    """What is said of a model's endpoint and of the key for it."""
    error = errors.SummaryFailed
    yield Case(
        "no HTTP client",
        errors.ConfigurationError,
        "a summarizer of type OpenAICompatible needs another package: "
        "pip install 'holdfast[summaries]'",
        without_the_extra,
    )
    yield Case(
        "a slow endpoint",
        error,
        "the summarizer's endpoint did not answer within 0 s",
        lambda: endpoint(timeout=0).summarize(SummaryRequest((), None, 16, counter("approximate"))),
    )
    refused = {
        0: "no answer from the summarizer's endpoint (ConnectError): check its url, that it runs, and "
        "that no network policy is in the way",
        401: "the summarizer's endpoint refused the key (status 401): check the key that "
        "HOLDFAST_SUMMARIZER_KEY_FILE or HOLDFAST_SUMMARIZER_KEY gives",
        404: "the summarizer's endpoint knows no such path or model (status 404): check url and model "
        "in the policy's summarizer",
        429: "the summarizer's endpoint takes no more requests for now (status 429)",
        500: "the summarizer's endpoint answered with status 500",
    }
    for status, sentence in refused.items():
        answer = Answer(status, SECRET.encode(), trouble="ConnectError")
        yield Case(
            f"status {status}", error, sentence, lambda answer=answer: raised(refusal(answer))
        )
    unusable = {
        "the summarizer's endpoint answered with something else than a chat completion: check the url "
        "in the policy's summarizer": Answer(200, SECRET.encode()),
        "the model at the summarizer's endpoint refused to summarize": completed(
            finish_reason="content_filter"
        ),
        "the model at the summarizer's endpoint reached the limit of tokens before the end of its "
        "summary: raise summary.maxTokens": completed(finish_reason="length"),
        "the model at the summarizer's endpoint answered without a text": completed(message={}),
    }
    for sentence, answer in unusable.items():
        yield Case(sentence, error, sentence, lambda answer=answer: text_of(answer))
    yield Case(
        "no file with a key",
        error,
        "the file that HOLDFAST_SUMMARIZER_KEY_FILE names cannot be read: No such file or directory",
        lambda: read_key({KEY_FILE: f"/{SECRET}"}),
    )
    yield Case(
        "no key",
        error,
        "HOLDFAST_SUMMARIZER_KEY does not lead to a key: one line of printable ASCII characters is "
        "expected",
        lambda: read_key({KEY: f"two {SECRET}"}),
    )


def bound(
    memories: Sequence[dict[str, Any]] = (entry(),), *, also: str = "", **entries: str
) -> Client:
    """A client of a binding whose files hold a secret."""
    with tempfile.TemporaryDirectory() as root:
        for name in filter(None, ("memory", also)):
            BindingFiles(Path(root) / name).write(memories, password=SECRET, **entries)
        policy = {"limits": {"maxTokens": 1000}, "retention": {"ttl": "1h"}}
        return Client(InMemoryStore(), policy=policy, binding=find_binding(root))


def two_memories() -> Binding:
    with tempfile.TemporaryDirectory() as root:
        BindingFiles(Path(root) / "memory").write([entry("one"), entry("two")], host="redis")
        return find_binding(root)


def binding_cases() -> Iterator[Case]:
    """What is refused of bindings, and by them."""
    error = errors.ConfigurationError
    yield Case(
        "no directory of bindings",
        error,
        "SERVICE_BINDING_ROOT names no directory that can be read",
        lambda: find_binding(f"/no-such-directory/{SECRET}"),
    )
    yield Case(
        "two bindings",
        error,
        "several bindings of the type 'holdfast' under SERVICE_BINDING_ROOT, which has 'memory', "
        "'other': give exactly one",
        lambda: bound(also="other", host="redis"),
    )
    yield Case(
        "a binding without a server",
        error,
        "the binding 'memory' cannot be used: the files 'endpoints' and 'host' are missing",
        bound,
    )
    yield Case(
        "a binding that asks for no number of replicas",
        error,
        "the binding 'memory' cannot be used: the file 'replicas' is no number",
        lambda: bound(host="redis", replicas="many"),
    )
    yield Case(
        "another memory than those of the binding",
        errors.MemoryNotFound,
        "the binding 'memory' has more than one memory: name it; there are 'one', 'two'",
        lambda: two_memories().memory(None),
    )
    yield Case(
        "a field that is fixed",
        errors.SessionKeyError,
        "the binding fixes tenant of the key template: leave it out (memory 'team-a/support')",
        lambda: bound([entry(tenant=SECRET)], host="redis").memory().session(tenant="other"),
    )
    yield Case(
        "a memory that may only be read",
        errors.AccessDenied,
        "the binding lets this memory be read only: to write, its MemoryBinding has to say "
        "`access: ReadWrite` (memory 'team-a/support', session 'a')",
        lambda: bound([entry(access="ReadOnly")], host="redis").memory().session("a").clear(),
    )
    yield Case(
        "fields that cannot be fixed",
        errors.SessionKeyError,
        "fixed fields have to be the first ones of the key template, which has a, b",
        lambda: fixed_key("{a}:{b}", {"b": SECRET}),
    )


CASES = [
    *connecting_cases(),
    *binding_cases(),
    *naming_cases(),
    *message_cases(),
    *counter_cases(),
    *turn_cases(),
    *store_cases(),
    *whole_session_cases(),
    *flush_cases(),
    *server_cases(),
    *several_servers_cases(),
    *policy_cases(),
    *summary_cases(),
    *endpoint_cases(),
]


async def attempt(case: Case) -> None:
    done = case.attempt()
    if inspect.isawaitable(done):
        await done


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_sentence_stays_as_it_is(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_URL", raising=False)
    monkeypatch.delenv("SERVICE_BINDING_ROOT", raising=False)
    with pytest.raises(case.error) as refusal:
        asyncio.run(attempt(case))
    assert type(refusal.value) is case.error
    assert str(refusal.value) == case.sentence
    assert SECRET not in str(refusal.value)
    last = traceback.format_exception_only(refusal.value)
    assert SECRET not in "".join(last)


def test_who_holds_the_turn_is_told() -> None:
    with pytest.raises(errors.SessionBusy) as refusal:
        asyncio.run(busy_turn())
    said = re.sub(r"^'[^' ]+:\d+'", "'pod:1'", str(refusal.value))
    assert re.sub(r"another (30\.0|29\.\d) s", "another {} s", said) == BUSY + SESSION
    assert (refusal.value.place, refusal.value.memory) == (0, "local/support")
    assert 29 < refusal.value.remaining <= 30


# --- no sentence is missing above

SILENT = {
    "Broken",
    "SessionVanished",
    "StalePolicy",
}  # never reach a caller
ELSEWHERE = {
    "embedded.py",  # has its own tests
    "metrics.py",  # so has it, and the next
    "tracing.py",
    "policy/faults.py",
    "wire.py",
    "store/maintenance.py",
    "store/redis/access.py",  # the operator's, as the next
    "store/redis/maintenance.py",
    "store/redis/fleet.py",
    "store/redis/index.py",
}
RAISING = CLASSES.keys() | {"_not_found"}


class Sentence(NamedTuple):
    """A sentence in the source: where, and a pattern of what it can become."""

    place: str
    pattern: str


def pattern_of(node: ast.expr) -> str | None:
    """Return a pattern of the texts that an expression can be; None for one that is no literal."""
    match node:
        case ast.Constant(value=str(text)):
            return re.escape(text)
        case ast.JoinedStr(values=parts):
            return "".join(pattern_of(part) or ".*" for part in parts)
        case ast.BinOp(left=left, right=right, op=ast.Add()):
            return f"{pattern_of(left) or '.*'}{pattern_of(right) or '.*'}"
        case _:
            return None


def sentences() -> list[Sentence]:
    """Every sentence that the library's modules give to an error, or to what makes one."""
    found: list[Sentence] = []
    for file in sorted(LIBRARY.rglob("*.py")):
        place = file.relative_to(LIBRARY).as_posix()
        if place in ELSEWHERE or place.startswith(("testing/", "remote/")):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            match node.func:
                case ast.Name(id=name) | ast.Attribute(attr=name) if name in RAISING - SILENT:
                    pattern = pattern_of(node.args[0])
                    if pattern is not None:
                        found.append(Sentence(f"{place}:{node.lineno}", pattern))
                case _:
                    pass
    return found


def test_every_sentence_of_the_library_is_above() -> None:
    known = [case.sentence for case in CASES]
    known.append(BUSY.format("30.0"))
    known.append(  # likewise, in those of bindings
        "the memories of a binding have their namespace: leave it out, or give a url. Tried: x"
    )
    known.append("the policy file x is not UTF-8")  # in the tests of policies
    known.append(  # in those of the client over HTTP, as all of `remote`
        "a sidecar is reached with another package: pip install 'holdfast[http]'"
    )
    missing = [
        sentence
        for sentence in sentences()
        if not any(re.match(sentence.pattern, text, re.DOTALL) for text in known)
    ]
    assert missing == []


def test_the_search_finds_what_there_is() -> None:
    assert len(sentences()) > 40
    assert not RAISING & vars(builtins).keys()
