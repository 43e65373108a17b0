"""The library over a sidecar, as far as it needs none: addresses, names, and that nothing is left out."""

import inspect
import sys
from typing import Any

import pytest

import holdfast
from holdfast.client import Client, Memory
from holdfast.errors import ConfigurationError, SessionKeyError
from holdfast.policy import load_policy
from holdfast.remote import RemoteClient
from holdfast.remote.addresses import read_sidecar_address
from holdfast.remote.client import RemoteMemory
from holdfast.remote.events import Event, Events
from holdfast.remote.lease import _duration
from holdfast.remote.session import RemoteSession
from holdfast.remote.turn import RemoteTurn
from holdfast.session import Session
from holdfast.store.redis import RedisStore
from holdfast.turn import Turn
from holdfast.values import Durability

URL = "http+unix:///run/holdfast/api.sock"
SECRET = "hunter2"

# --- addresses


@pytest.mark.parametrize(
    ("url", "base", "socket", "name"),
    [
        (URL, "http://localhost", "/run/holdfast/api.sock", "/run/holdfast/api.sock"),
        ("http+unix:///a%20b/%C3%BC", "http://localhost", "/a b/ü", "/a b/ü"),
        ("http://127.0.0.1:7070", "http://127.0.0.1:7070", None, "127.0.0.1:7070"),
        ("http://127.0.0.1:7070/", "http://127.0.0.1:7070", None, "127.0.0.1:7070"),
        ("http://localhost", "http://localhost:7070", None, "localhost:7070"),
        ("http://[::1]:80", "http://[::1]:80", None, "[::1]:80"),
    ],
)
def test_an_address_is_read(url: str, base: str, socket: str | None, name: str) -> None:
    assert read_sidecar_address(url) == (base, socket, name)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http+unix://run/holdfast/api.sock", "three slashes"),
        ("http+unix://", "three slashes"),
        ("http+unix:///", "three slashes"),
        ("http+unix:/run/x", "three slashes"),
        ("http://127.0.0.1:99999", "cannot be read"),
        ("http://127.0.0.1:7070/v1", "ends with its port"),
        ("http://10.0.0.1:7070", "on this machine only"),
        ("http://sidecar.default.svc:7070", "on this machine only"),
        (f"http://user:{SECRET}@127.0.0.1:7070", "on this machine only"),
        (f"http://127.0.0.1:7070?token={SECRET}", "has no options"),
        (f"{URL}?namespace={SECRET}", "has no options"),
        (f"{URL}#{SECRET}", "has no options"),
    ],
)
def test_what_cannot_be_an_address(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as refusal:
        holdfast.connect(url)
    assert SECRET not in str(refusal.value)


def test_the_store_refuses_it_as_any_other_that_is_no_redis() -> None:
    with pytest.raises(ConfigurationError, match="http:// is no address of a Redis server"):
        RedisStore.from_url("http://127.0.0.1:7070")


# --- connecting


def test_connect_makes_a_client_of_the_sidecar(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(holdfast.connect(URL), RemoteClient)
    monkeypatch.setenv("HOLDFAST_URL", URL)
    client = holdfast.connect()
    assert isinstance(client, holdfast.Client)
    (breaker,) = client.breakers
    assert (breaker.server, breaker.state) == ("/run/holdfast/api.sock", "closed")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("namespace", "team-a"),
        ("policy", load_policy({"retention": {"ttl": "1h"}})[1]),
        ("client", object()),
        ("durability", Durability()),
        ("counter", object()),
        ("summarizer", object()),
        ("holder", "me"),
    ],
)
def test_what_the_sidecar_decides_is_refused(name: str, value: Any) -> None:
    given: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=f"{name}= is not for a program that reaches"):
        holdfast.connect(URL, **given)


def test_the_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.startswith("holdfast.remote") or name.partition(".")[0] == "aiohttp":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'holdfast\[http\]'"):
        holdfast.connect(URL)


# --- the same API

PAIRS = [
    (RemoteClient, Client),
    (RemoteMemory, Memory),
    (RemoteSession, Session),
    (RemoteTurn, Turn),
]
INHERITED = {"RemoteClient": {"__aenter__", "__aexit__"}}
"""What may stay as it is, since it uses nothing but what is replaced."""


def _names(of: type) -> set[str]:
    public = {name for name in dir(of) if not name.startswith("_")}
    return public | {name for name in ("__aenter__", "__aexit__") if hasattr(of, name)}


def _owner(of: type, name: str) -> type:
    return next(one for one in of.__mro__ if name in vars(one))


@pytest.mark.parametrize(("remote", "original"), PAIRS, ids=lambda of: of.__name__)
def test_all_that_is_public_is_replaced_and_takes_the_same(remote: type, original: type) -> None:
    inherited = INHERITED.get(remote.__name__, set())
    assert issubclass(remote, original)
    assert _names(remote) - {"address"} == _names(original)
    for name in _names(original) - inherited:
        assert _owner(remote, name).__module__.startswith("holdfast.remote."), name
        mine, theirs = getattr(remote, name), getattr(original, name)
        if inspect.isfunction(theirs):
            taken = [inspect.signature(one).parameters.values() for one in (mine, theirs)]
            assert list(taken[0]) == list(taken[1]), name
            kinds = [
                (inspect.iscoroutinefunction(one), inspect.isasyncgenfunction(one))
                for one in (mine, theirs)
            ]
            assert kinds[0] == kinds[1], name
        assert inspect.getdoc(mine), name


@pytest.mark.parametrize(("remote", "original"), PAIRS, ids=lambda of: of.__name__)
def test_nothing_of_its_own_stands_in_for_a_part_of_the_original(
    remote: type, original: type
) -> None:
    """A private method of the original that was replaced by chance would be called by it."""
    ours = {
        name
        for one in remote.__mro__
        if one.__module__.startswith("holdfast.remote.")
        for name in vars(one)
        if name.startswith("_") and not name.endswith("__") and not name.startswith("_abc")
    }
    theirs = {name for one in original.__mro__ for name in vars(one)}
    assert ours & theirs == set()


# --- names


async def _path(client: holdfast.Client, *names: str, **fields: Any) -> str:
    session = client.memory("support").session(*names, **fields)
    assert isinstance(session, RemoteSession)
    return (await session._at.request("GET", "/messages")).path


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("names", "fields", "path"),
    [
        (("any id",), {}, "any%20id/messages?by=id"),
        (("a/b?c#d",), {}, "a%2Fb%3Fc%23d/messages?by=id"),
        ((".",), {}, "%2E/messages?by=id"),
        (("..",), {}, "%2E%2E/messages?by=id"),
        ((), {"user": "a,b=c", "thread": "ü"}, "user%3Da%252Cb%253Dc%2Cthread%3D%25C3%25BC"),
        (("a",), {"labels": {"tier": "x:y&z"}}, "a/messages?by=id&label=tier%3Ax%3Ay%26z"),
    ],
)
async def test_the_path_of_a_session(
    names: tuple[str, ...], fields: dict[str, Any], path: str
) -> None:
    found = await _path(holdfast.connect(URL), *names, **fields)
    assert found.startswith(f"/v1/memories/support/sessions/{path}")


def test_what_can_be_no_session_is_refused_at_once() -> None:
    memory = holdfast.connect(URL).memory("support")
    for key in ("", "x" * 513, "\ud800"):
        with pytest.raises(SessionKeyError):
            memory.session(key)
        with pytest.raises(SessionKeyError):
            memory.session(user=key)
    with pytest.raises(SessionKeyError):
        memory.session("a", user="b")
    with pytest.raises(ConfigurationError, match="has no ':'"):
        memory.session("a", labels={"a:b": "c"})
    with pytest.raises(ConfigurationError, match="no Kubernetes name"):
        holdfast.connect(URL).memory("Not/A/Name")


def test_a_memory_is_made_once_for_each_name_and_format() -> None:
    client = holdfast.connect(URL)
    one, other = client.memory("a"), client.memory("a", format="chat")
    assert client.memory("a") is one
    assert client.memory("a", format="chat") is other is not one
    assert (str(one.address), other.format) == ("sidecar/a", "chat")
    assert str(client.memory().address) == "sidecar/-"


# --- events


class _Content:
    """Bytes of an answer, in parts."""

    def __init__(self, *parts: bytes) -> None:
        self._parts = [*parts, b""]

    async def readany(self) -> bytes:
        """Return the next part."""
        return self._parts.pop(0)


STREAM = (
    b':\n\nevent: granted\ndata: {"fence":\ndata: 1}\r\n\r\n:\n\n'
    b"id: 7\nevent:lost\ndata:  x\n\n\n"
    b"event: cut off"
)


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
async def test_events_are_found_however_they_are_cut(size: int) -> None:
    parts = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    content: Any = _Content(*parts)
    events = Events(content)
    assert await events.next() == Event("granted", b'{"fence":\n1}')
    assert await events.next(10.0) == Event("lost", b" x")
    assert await events.next() is None


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, None),
        (0, "0s"),
        (1, "1ms"),
        (9_999_999, "9999999ms"),
        (10_000_001, "10001s"),
        (86_400_000, "86400s"),
    ],
)
def test_durations_are_written_as_the_sidecar_reads_them(
    milliseconds: int | None, text: str | None
) -> None:
    assert _duration(milliseconds) == text
