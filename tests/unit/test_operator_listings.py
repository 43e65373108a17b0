"""What a list of all objects says about those that were seen before."""

from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from holdfast_operator.handlers import Listings
from holdfast_operator.storage.mirror import Key, Kind, Mirror

pytestmark = pytest.mark.asyncio

API = "/apis/holdfast.dev/v1alpha1"


def seen(name: str, version: int, namespace: str = "team") -> dict[str, Any]:
    metadata = {"namespace": namespace, "name": name, "uid": f"uid-{name}"}
    return {"metadata": {**metadata, "resourceVersion": str(version)}}


def part(version: int, *names: str, further: str = "") -> dict[str, Any]:
    metadata = {"resourceVersion": str(version), "continue": further}
    return {"metadata": metadata, "items": [seen(name, 1) for name in names]}


class ApiServer:
    """Answers with these bodies in turn; and a client of it whose lists are read.

    Attributes:
        mirror: what was seen.
        gone: what was told to be gone.
    """

    def __init__(self) -> None:
        self.mirror, self.gone = Mirror(), list[str]()
        self.base = ""
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.listings = Listings(
            self.mirror, lambda key, uid: self.gone.append(f"{key.name} {uid}")
        )

    async def answer(self, _: web.Request) -> web.Response:
        status, body = self.answers.pop(0)
        return web.json_response(body, status=status)

    async def get(self, url: str, *answers: dict[str, Any], status: int = 200) -> None:
        """Get an address once for each of these answers, and let the client read each as Kopf does."""
        self.answers += [(status, body) for body in answers]
        async with aiohttp.ClientSession(self.base, middlewares=(self.listings,)) as session:
            for at, body in enumerate(answers):
                mark = "&" if "?" in url else "?"
                more = f"{mark}continue=there" if at else ""
                answer = await session.get(url + more)
                assert await answer.json() == body


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[ApiServer]:
    known, app = ApiServer(), web.Application()
    app.router.add_route("*", "/{path:.*}", known.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    known.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    for name, version in (("a", 5), ("b", 6), ("new", 20)):
        known.mirror.put(Key(Kind.RESOURCE, "team", name), seen(name, version))
    known.mirror.put(Key(Kind.RESOURCE, "other", "c"), seen("c", 7, "other"))
    known.mirror.put(Key(Kind.BINDING, "team", "d"), seen("d", 8))
    yield known
    await runner.cleanup()


async def test_what_is_on_no_part_of_a_list_is_gone_unless_it_is_newer(server: ApiServer):
    url = f"{API}/memoryresources?limit=1"
    await server.get(url, part(10, "a", further="there"), part(10, "c"))
    assert server.gone == ["b uid-b"]


async def test_a_list_of_one_namespace_says_nothing_of_another(server: ApiServer):
    await server.get(f"{API}/namespaces/team/memoryresources", part(10))
    assert server.gone == ["a uid-a", "b uid-b"]


async def test_what_is_no_whole_list_says_nothing(server: ApiServer):
    await server.get(f"{API}/memoryresources", part(10, further="there"))
    await server.get(f"{API}/memoryresources", part(10), status=410)
    await server.get(f"{API}/memoryresources?watch=true", part(10))
    await server.get("/api/v1/namespaces", part(10))
    assert server.gone == []
    # A list that broke off is begun anew.
    await server.get(f"{API}/memoryresources", part(10, "a", "b", "c"))
    assert server.gone == []
