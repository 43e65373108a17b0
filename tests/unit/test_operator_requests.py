"""Requests to an API server whose credentials end, over a small one that speaks HTTP."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from holdfast_operator.services.ports import ClusterConflict, ClusterForbidden, ClusterUnavailable
from holdfast_operator.storage.cluster import WatchedCluster
from holdfast_operator.storage.kubernetes import Kubernetes
from holdfast_operator.storage.mirror import Key, Kind, Mirror
from tests.harness.waiting import until


class Server:
    """An API server that knows one token, and answers every GET with an empty object.

    Attributes:
        token: the one that it takes.
        status: what it says to whoever has that token.
        asked: how many requests there were.
    """

    def __init__(self) -> None:
        self.token, self.port, self.asked = "first", 0, 0
        self.status = b"200 OK"
        self.gate = asyncio.Event()
        self.gate.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                await self.gate.wait()
                right = f"Bearer {self.token}".encode() in head
                length = re.search(rb"Content-Length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                status = self.status if right else b"401 Unauthorized"
                writer.write(
                    b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n"
                    b"Content-Length: 2\r\n\r\n{}"
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest_asyncio.fixture
async def server() -> AsyncGenerator[Server]:
    known = Server()
    listening = await asyncio.start_server(known.answer, "127.0.0.1", 0)
    known.port = listening.sockets[0].getsockname()[1]
    yield known
    listening.close()


def write_kubeconfig(path: Path, server: Server, token: str) -> None:
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
    user = {"name": "u", "user": {"token": token}}
    context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
    whole = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [cluster],
        "users": [user],
        "contexts": [context],
    }
    path.write_text(json.dumps(whole), encoding="utf-8")


@pytest.fixture
def kubeconfig(server: Server, tmp_path: Path) -> Path:
    """Credentials that the server takes."""
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, server, "first")
    return path


@pytest.mark.asyncio
async def test_a_token_that_ends_under_many_requests_is_renewed_once_and_fails_none(
    server: Server, kubeconfig: Path
):
    async with Kubernetes(kubeconfig) as kubernetes:
        assert await kubernetes.get("/first") == {}
        server.token = "second"
        write_kubeconfig(kubeconfig, server, "second")
        server.gate.clear()
        asking = [asyncio.create_task(kubernetes.get(f"/{at}")) for at in range(100)]
        await asyncio.sleep(0)
        server.gate.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert [one for one in answers if one != {}] == []


@pytest.mark.asyncio
async def test_what_a_policy_refuses_is_no_change_meanwhile(server: Server, kubeconfig: Path):
    """Both may be 422: a patch that tests for a version, and what an admission policy does not take."""
    server.status = b"422 Unprocessable Entity"
    async with Kubernetes(kubeconfig) as kubernetes:
        with pytest.raises(ClusterConflict):
            await kubernetes.put_status(Key(Kind.BINDING, "team", "agent"), "1", {})
        for write in (kubernetes.create, kubernetes.replace):
            with pytest.raises(ClusterForbidden):
                await write("/api/v1/namespaces/team/secrets", {})


@pytest.mark.asyncio
async def test_many_who_want_the_newest_share_what_was_asked_after_they_came(
    server: Server, kubeconfig: Path
):
    async with Kubernetes(kubeconfig) as kubernetes:
        cluster = WatchedCluster(kubernetes, Mirror(), namespaces=["team"])
        assert await cluster.namespace("team") == await cluster.namespace("team")
        assert server.asked == 1
        server.gate.clear()
        first = asyncio.create_task(cluster.namespace("team", newest=True))
        await until(lambda: server.asked == 2, "it is asked")
        # What is under way may have been answered before these came.
        asking = [asyncio.create_task(cluster.namespace("team", newest=True)) for _ in range(99)]
        await asyncio.sleep(0)
        server.gate.set()
        assert None not in await asyncio.gather(first, *asking)
        assert server.asked == 3
        server.status = b"500 Internal Server Error"
        with pytest.raises(ClusterUnavailable):
            await cluster.namespace("team", newest=True)
        server.status = b"200 OK"
        assert await cluster.namespace("team", newest=True) is not None
