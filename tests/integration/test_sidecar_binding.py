"""A sidecar on the files of a binding: what it serves, what it refuses, and passwords that change."""

import asyncio
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from holdfast.store.access import AccessUser, Grant, password_hash, user_name
from tests.harness.binding_files import BindingFiles, entry
from tests.harness.servers import Server
from tests.harness.sidecar_process import POD, SidecarProcess, running_sidecar
from tests.harness.waiting import until
from tests.integration.world import World, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

MINE = "/v1/memories/mine/sessions"


class Bound:
    """A user of a memory, the files of its binding, and a sidecar on them."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.root = root
        self.files = BindingFiles(root / "memory")
        self.name = user_name(
            cluster="0" * 8,
            namespace=world.memory.namespace,
            binding="agent",
            uid=secrets.token_hex(4),
        )

    async def put(self, *passwords: str, read_only: bool = False) -> None:
        grants = (Grant(self.world.memory, read_only=read_only),)
        hashes = tuple(map(password_hash, passwords))
        await self.world.hands.access.put(AccessUser(self.name, grants, hashes))

    def write(self, password: str, *memories: dict[str, Any]) -> None:
        self.files.write(
            memories or (self.entry(),),
            mode="standalone",
            endpoints=f"127.0.0.1:{self.world.server.port}",
            username=self.name,
            password=password,
        )

    def entry(self, name: str = "mine", access: str = "ReadWrite", **fields: str) -> dict[str, Any]:
        return entry(name, f"mem:{{{self.world.memory}", access, **fields)

    @property
    def environ(self) -> dict[str, str]:
        return POD | {"SERVICE_BINDING_ROOT": str(self.root)}


@pytest_asyncio.fixture
async def bound(valkey_server: Server, tmp_path: Path) -> AsyncGenerator[Bound]:
    async with valkey_server.client() as raw:
        world = World(valkey_server, raw)
        await world.hands.load_scripts()
        root = tmp_path / "bindings"
        root.mkdir()
        bound = Bound(world, root)
        yield bound
        await world.hands.access.revoke(bound.name)
        await world.aclose()


async def answers(
    api: httpx.AsyncClient, method: str, path: str, **options: Any
) -> tuple[int, str]:
    """The status, and the code of a problem."""
    answer = await api.request(method, path, **options)
    code = answer.json().get("code", "") if answer.content else ""
    return answer.status_code, code


async def test_it_begins_before_its_binding_and_serves_what_the_binding_has(bound: Bound) -> None:
    async with (
        running_sidecar(environ=bound.environ) as sidecar,
        sidecar.client() as api,
        httpx.AsyncClient(base_url=sidecar.status, timeout=60) as status,
    ):
        assert (await status.get("/healthz")).status_code == 200
        assert (await status.get("/readyz")).text == "Starting\n"
        assert await answers(api, "GET", f"{MINE}/1") == (503, "Starting")
        assert await answers(api, "GET", "/v1/memories") == (503, "Starting")
        await bound.world.apply(keyTemplate="tenant:{tenant}:user:{user_id}")
        await bound.put("first")
        bound.write(
            "first",
            bound.entry(tenant="a"),
            bound.entry("shown", "ReadOnly", tenant="a", user_id="1"),
        )

        async def is_ready() -> bool:
            return (await status.get("/readyz")).text == "ready\n"

        await until(is_ready, "the binding is found")
        served = {one["name"]: one for one in (await api.get("/v1/memories")).json()["memories"]}
        assert served["mine"]["fields"] == ["user_id"]
        assert served["mine"]["fixed"] == ["tenant"]
        assert served["mine"]["template"] == "tenant:{tenant}:user:{user_id}"
        assert (served["shown"]["access"], served["shown"]["fields"]) == ("ReadOnly", [])
        one = {"json": {"message": user("x")}}
        assert await answers(api, "POST", f"{MINE}/user_id=1/messages", **one) == (200, "")
        # The same by a client that encodes the whole once more, and a value that has everything in it.
        assert await answers(api, "POST", f"{MINE}/user_id%3D1/messages", **one) == (200, "")
        assert await answers(api, "POST", f"{MINE}/user_id=a%252Cb%253D/messages", **one) == (
            200,
            "",
        )
        assert (await api.get(f"{MINE}/user_id=1/counts")).json()["messages"] == 2
        for wrong in (
            "1",
            "tenant=b,user_id=1",
            "other=1",
            "labels=x",
            "user_id=1,x=2",
        ):
            found = await answers(api, "GET", f"{MINE}/{wrong}")
            assert found == (400, "SessionKeyError"), wrong
        assert await answers(api, "GET", f"{MINE}/1?by=id") == (400, "SessionKeyError")
        # All fields of the other are fixed: it has one session, and nobody changes it.
        shown = "/v1/memories/shown/sessions/-"
        assert (await api.get(f"{shown}/counts")).json()["messages"] == 2
        for method, part in (("POST", "/messages"), ("PUT", "/messages"), ("POST", "/turns")):
            body = one if part == "/messages" else {}
            found = await answers(api, method, shown + part, **body)
            assert found == (403, "AccessDenied"), part
        for method, part in (("DELETE", ""), ("DELETE", "/messages"), ("POST", "/pop")):
            assert await answers(api, method, shown + part) == (403, "AccessDenied"), part
        assert await answers(api, "GET", "/v1/memories/other/sessions/1") == (404, "MemoryNotFound")


async def test_what_the_server_forbids_is_refused_whatever_the_files_say(bound: Bound) -> None:
    await bound.world.apply()
    await bound.put("first", read_only=True)
    bound.write("first")
    async with running_sidecar(environ=bound.environ) as sidecar, sidecar.client() as api:
        found = await answers(api, "POST", f"{MINE}/1/messages", json={"message": 1})
        assert found == (403, "AccessDenied")
        assert await answers(api, "GET", f"{MINE}/1/messages") == (200, "")


async def test_a_binding_that_changes_is_followed_and_may_be_narrowed(bound: Bound) -> None:
    await bound.world.apply()
    await bound.put("first")
    bound.write("first", bound.entry(), bound.entry("second"), bound.entry("third"))
    arguments = ("--memories", "mine,third,fourth")
    async with (
        running_sidecar(*arguments, environ=bound.environ) as sidecar,
        sidecar.client() as api,
    ):

        async def names() -> list[str]:
            return [one["name"] for one in (await api.get("/v1/memories")).json()["memories"]]

        assert await names() == ["mine", "third"]
        second = "/v1/memories/second/sessions/1"
        assert await answers(api, "GET", second) == (404, "MemoryNotFound")
        one = {"json": {"message": 1}}
        assert await answers(api, "POST", f"{MINE}/1/messages", **one) == (200, "")
        bound.write("first", bound.entry(access="ReadOnly"), bound.entry("fourth"))

        async def is_new() -> bool:
            return await names() == ["mine", "fourth"]

        await until(is_new, "the new binding is read")
        assert await answers(api, "POST", f"{MINE}/1/messages", **one) == (403, "AccessDenied")
        assert (await api.get(f"{MINE}/1/counts")).json()["messages"] == 1


class Load:
    """Agents that call without a pause, each with a turn now and then.

    Their messages have ids, as those of whoever wants a cut connection to be nobody's business: an
    append without one that was under way may have been carried out, and is never repeated.
    """

    def __init__(self, sidecar: SidecarProcess) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._sidecar = sidecar
        self._over = asyncio.Event()

    async def keep_on(self, name: str) -> None:
        async with self._sidecar.client() as api:
            session = f"{MINE}/{name}"
            while not self._over.is_set():
                turn = await self._ask(api, "POST", f"{session}/turns", json={"wait": "30s"})
                under = {"holdfast-turn": turn.json().get("token", "")}
                message = {"message": name, "id": secrets.token_hex(8)}
                await self._ask(api, "POST", f"{session}/messages", json=message, headers=under)
                await self._ask(api, "DELETE", f"{session}/turns/{under['holdfast-turn']}")
                await self._ask(api, "GET", f"{session}/messages", params={"limit": 1})

    async def _ask(self, api: httpx.AsyncClient, *call: Any, **options: Any) -> httpx.Response:
        answer = await api.request(*call, **options)
        if answer.is_error:
            self.failures.append(answer.text)
        self.done += 1
        return answer

    async def some_more(self) -> None:
        after = self.done + 120
        await until(lambda: self.done >= after, "the agents go on")

    def end(self) -> None:
        self._over.set()


async def test_no_request_fails_while_passwords_are_renewed(bound: Bound) -> None:
    await bound.world.apply()
    await bound.put("first")
    bound.write("first")
    async with running_sidecar(environ=bound.environ) as sidecar:
        load = Load(sidecar)
        async with asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(load.keep_on(f"s-{number % 3}"))
            await load.some_more()
            for old, new in (("first", "second"), ("second", "third")):
                await bound.put(old, new)
                bound.write(new)
                await load.some_more()
                # The time in which both passwords hold is over: whoever is connected stays.
                await bound.put(new)
                await load.some_more()
            # What is connected is cut off, so that connections have to be made anew.
            await bound.world.raw.execute_command("CLIENT", "KILL", "USER", bound.name)
            await load.some_more()
            load.end()
        assert load.failures == []
        assert "third" not in sidecar.log
