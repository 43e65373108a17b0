"""What is given to the library and cannot be: refused at once, in the library's own words."""

from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster

from holdfast.client import Client
from holdfast.connecting import connect
from holdfast.errors import ConfigurationError, HoldfastError, SessionKeyError
from holdfast.telemetry import Call
from holdfast.values import MemoryAddress

SPEC: dict[str, Any] = {"limits": {"maxTokens": 1000}, "retention": {"ttl": "1h"}}


class Ears:
    """An observer that keeps the names of calls."""

    def __init__(self) -> None:
        self.heard: list[Call] = []

    def begun(self, call: Call, memory: MemoryAddress, /) -> object:
        self.heard.append(call)
        return None

    def ended(self, *told: object) -> None: ...

    def counted(self, *told: object) -> None: ...

    def measured(self, *told: object) -> None: ...


class Deaf:
    """No observer: one of the methods is none."""

    begun = ended = counted = print
    measured = None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"url": 5}, "url is text, not int"),
        ({"url": b"redis://host"}, "url is text, not bytes"),
        ({"namespace": 5}, "namespace is text, not int"),
        ({"holder": 5}, "holder is text, not int"),
        ({"observers": Ears()}, "observers is a list of observers, not Ears"),
        ({"observers": None}, "observers is a list of observers, not NoneType"),
        ({"observers": [Ears(), Deaf()]}, "Deaf has no measured"),
        ({"observers": "ears"}, "str has no begun"),
        ({"summarizer": 5}, "a summarizer is a function of the request or an object"),
        ({"counter": 5}, "counter is an object with a name"),
        ({"url": "redis://host", "durability": "1"}, "durability is a holdfast.Durability"),
        ({"durability": 1}, "durability is a holdfast.Durability"),
    ],
)
def test_what_cannot_be_given_to_connect(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        connect(**{"url": "memory://", "policy": SPEC} | given)
    assert sentence in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (redis.Redis, "redis.client.Redis"),
        (lambda: Redis().pipeline(), "redis.asyncio.client.Pipeline"),
        (redis.ConnectionPool, "redis.connection.ConnectionPool"),
        (lambda: "redis://host", "str"),
        (lambda: "", "str"),
        (lambda: 0, "int"),
    ],
)
def test_a_client_of_another_kind(make: Callable[[], Any], kind: str) -> None:
    with pytest.raises(ConfigurationError, match="give a url instead") as refusal:
        connect(client=make(), policy=SPEC)
    assert f"not {kind}: " in str(refusal.value)


@pytest.mark.parametrize(
    "make", [Redis, type("Own", (Redis,), {}), lambda: RedisCluster(host="127.0.0.1")]
)
def test_a_client_of_the_right_kind(make: Callable[[], Any]) -> None:
    assert isinstance(connect(client=make(), policy=SPEC), Client)


@pytest.mark.asyncio
async def test_observers_may_come_one_after_the_other() -> None:
    ears = Ears()
    observers: Any = (one for one in [ears])
    async with connect("memory://", policy=SPEC, observers=observers) as client:
        await client.memory("support").session("42").append("hi")
    assert ears.heard == [Call.APPEND]


@pytest.mark.parametrize("url", ["memory://", "http://127.0.0.1:1"])
@pytest.mark.parametrize("odd", [5, b"42", ["42"], True])
def test_names_are_text(url: str, odd: Any) -> None:
    client = connect(url, policy=SPEC) if url == "memory://" else connect(url)
    memory = client.memory("support")
    with pytest.raises(SessionKeyError, match="a session key is text, not ") as refusal:
        memory.session(odd)
    assert refusal.value.memory == str(memory.address)
    with pytest.raises(HoldfastError):
        memory.session(user_id=odd)
    with pytest.raises(ConfigurationError, match="label"):
        memory.session("42", labels={"user": odd})
    if not isinstance(odd, list):
        with pytest.raises(ConfigurationError, match="is no Kubernetes name"):
            client.memory(odd)


def test_a_field_of_the_key_is_text() -> None:
    memory = connect("memory://", policy=SPEC | {"keyTemplate": "user:{user_id}"}).memory()
    odd: Any = 42
    with pytest.raises(SessionKeyError, match="field 'user_id': a session key is text, not int"):
        memory.session(user_id=odd)
