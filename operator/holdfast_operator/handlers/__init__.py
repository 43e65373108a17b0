"""The only part that knows Kopf: it takes events, wakes, and calls services. It decides nothing."""

from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from holdfast_operator.handlers.echoes import Echoes
from holdfast_operator.handlers.keeper import Keeper, key_of
from holdfast_operator.handlers.listings import Listings
from holdfast_operator.handlers.losses import Losses
from holdfast_operator.handlers.sessions import counted_session
from holdfast_operator.handlers.wakers import Wakers
from holdfast_operator.services.objects import mapping
from holdfast_operator.storage.mirror import Key, Kind, Mirror

__all__ = [
    "Echoes",
    "Keeper",
    "Listings",
    "Losses",
    "Wakers",
    "counted_session",
    "letting_go",
    "register",
]

GROUP, VERSION = "holdfast.dev", "v1alpha1"


def letting_go(
    *, keeper: Keeper, mirror: Mirror, wakers: Wakers, echoes: Echoes
) -> Callable[[Key, str], None]:
    """Return what is to be called with the key and the uid of an object that is gone."""

    def gone(key: Key, uid: str) -> None:
        needed = mirror.needed_by(key)
        keeper.forget(uid)
        echoes.forget(key)
        if mirror.drop(key, uid):
            wakers.forget(key)
        wakers.wake_all(mirror.dependants(key))
        wakers.wake_all(needed)

    return gone


def register(
    registry: kopf.OperatorRegistry,
    *,
    login: Callable[[], Awaitable[kopf.AiohttpSession]],
    keeper: Keeper,
    mirror: Mirror,
    wakers: Wakers,
    echoes: Echoes,
    gone: Callable[[Key, str], None],
    watch_namespaces: bool,
    ending: Callable[[], None],
) -> None:
    """Register every handler of the operator.

    Args:
        registry: of Kopf.
        login: gives the connection to the API server; called again when it is refused.
        keeper: of the objects.
        mirror: takes in every state that is seen.
        wakers: rung when something changed.
        echoes: hears every event.
        gone: told of every object that is gone; see `letting_go`.
        watch_namespaces: whether the operator serves all namespaces, and so may watch them.
        ending: called when Kopf ends, whatever it was told by; it sets the flag that Kopf was given.
    """

    # Kopf takes the signals itself, and would wait for five seconds for its own look at that flag.
    @kopf.on.cleanup(id="ending", registry=registry)
    async def end(**_: Any) -> None:
        ending()

    @kopf.on.login(id="login", registry=registry)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        return await login()

    for kind in Kind:
        _register_kind(
            registry, kind, keeper=keeper, mirror=mirror, wakers=wakers, echoes=echoes, gone=gone
        )
    if watch_namespaces:
        _register_namespaces(registry, mirror, wakers)


def _register_kind(
    registry: kopf.OperatorRegistry,
    kind: Kind,
    *,
    keeper: Keeper,
    mirror: Mirror,
    wakers: Wakers,
    echoes: Echoes,
    gone: Callable[[Key, str], None],
) -> None:
    selector = (GROUP, VERSION, kind.value)

    # An index, because Kopf calls no other handler before it has indexed everything there is: no
    # memory is told that its backend is missing just because the operator starts. A coroutine, because Kopf
    # calls a function in a thread: bells are no thread's but the loop's, which would hear them late.
    @kopf.index(*selector, id=f"seen-{kind.value}", registry=registry)
    async def seen(body: kopf.Body, **_: Any) -> None:
        key = key_of(kind, body)
        echoes.heard(key, body)
        if mirror.put(key, dict(body)):
            wakers.wake(key)
            wakers.wake_all(mirror.dependants(key))

    @kopf.on.event(*selector, id=f"gone-{kind.value}", registry=registry)
    async def went(type: str | None, body: kopf.Body, **_: Any) -> None:
        if type == "DELETED":
            gone(key_of(kind, body), str(body.metadata.uid))

    @kopf.daemon(*selector, id=f"keep-{kind.value}", registry=registry, cancellation_timeout=1.0)
    async def keep(body: kopf.Body, stopped: kopf.DaemonStopped, **_: Any) -> None:
        await keeper.keep(key_of(kind, body), body, stopped)

    @kopf.on.delete(*selector, id="deletion", registry=registry)
    async def end(body: kopf.Body, **_: Any) -> None:
        await keeper.end(key_of(kind, body), body)


def _register_namespaces(registry: kopf.OperatorRegistry, mirror: Mirror, wakers: Wakers) -> None:
    @kopf.index("", "v1", "namespaces", id="seen-namespaces", registry=registry)
    async def seen(body: kopf.Body, **_: Any) -> None:
        mirror.put_namespace(body)

    @kopf.on.event("", "v1", "namespaces", id="changed-namespaces", registry=registry)
    async def changed(type: str | None, body: kopf.Body, **_: Any) -> None:
        name = str(mapping(body.get("metadata")).get("name"))
        if type == "DELETED":
            mirror.drop_namespace(name, str(body.metadata.uid))
        for kind in Kind:
            wakers.wake_all(mirror.keys(kind, name))
