"""Objects that went while no watch was there to tell.

Kopf lists all objects when it starts, and again where a watch cannot go on where it stopped, as after an API
server was started anew. What is on no list any more it tells nobody. Memories that are gone would hold their
backend up for ever, and bindings that are gone would keep their users.
"""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import aiohttp

from holdfast_operator.services.objects import mapping
from holdfast_operator.storage.kubernetes import API
from holdfast_operator.storage.mirror import Key, Kind, Mirror, version_of

_ALL: Final = ""


class _Place(NamedTuple):
    """What is listed: a kind in a namespace, or everywhere."""

    kind: Kind
    namespace: str


class Listings:
    """Reads the lists that Kopf asks for, and finds what was seen before and is on none of them.

    Args:
        mirror: what was seen.
        gone: told the key and the uid of what is gone.
    """

    def __init__(self, mirror: Mirror, gone: Callable[[Key, str], None]) -> None:
        self._mirror = mirror
        self._gone = gone
        self._listed: dict[_Place, set[str]] = {}

    async def __call__(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Pass a request on, and read the answer if it is a list of ours."""
        answer = await send(request)
        place = _listed_by(request)
        if place is not None and answer.status == HTTPStatus.OK:
            self._read(place, await answer.json(), further="continue" in request.url.query)
        return answer

    def _read(self, place: _Place, part: Mapping[str, Any], *, further: bool) -> None:
        """Take in a part of a list; all parts show the same moment."""
        listed = self._listed.setdefault(place, set())
        if not further:
            listed.clear()
        listed.update(mapping(item.get("metadata"))["uid"] for item in part.get("items") or ())
        if mapping(part.get("metadata")).get("continue"):
            return
        del self._listed[place]
        for key, body in self._mirror.bodies():
            here = key.kind is place.kind and place.namespace in {_ALL, key.namespace}
            uid = str(mapping(body.get("metadata")).get("uid"))
            # What is newer than the list may be there: it was written by this process meanwhile.
            if here and uid not in listed and version_of(body) <= version_of(part):
                self._gone(key, uid)


def _listed_by(request: aiohttp.ClientRequest) -> _Place | None:
    """Return what a request lists; None for any other one."""
    url = request.url
    if request.method != "GET" or "watch" in url.query or not url.path.startswith(f"{API}/"):
        return None
    match url.path.removeprefix(f"{API}/").split("/"):
        case [kind] if kind in tuple(Kind):
            return _Place(Kind(kind), _ALL)
        case ["namespaces", namespace, kind] if kind in tuple(Kind):
            return _Place(Kind(kind), namespace)
        case _:
            return None
