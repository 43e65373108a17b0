"""MCP of a real sidecar on a real server, spoken by the official SDK's client."""

import json
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
import pytest_asyncio
from mcp import Client as McpClient
from mcp import MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult

import holdfast
from holdfast.client import Client
from holdfast.policy import load_policy
from holdfast.store.maintenance import Owner
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast.values import MemoryAddress
from tests.harness.binding_files import BindingFiles, entry
from tests.harness.servers import Server
from tests.harness.sidecar_process import SidecarProcess, running_sidecar
from tests.integration.world import call, result, spec, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio(loop_scope="module")]

MODES = ["auto", "legacy"]
"""What is spoken: without a handshake, and with one, as clients did before 2026."""
POLICY = spec(locking={"leaseTTL": "3s", "waitTimeout": "20s", "mode": "Enforced"})


@pytest.fixture(scope="module")
def namespace() -> str:
    return f"team-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sidecar(
    valkey_server: Server, namespace: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[SidecarProcess]:
    """One sidecar with one memory for the tests of this module, which use sessions of their own."""
    policy = tmp_path_factory.mktemp("policy") / "policy.json"
    policy.write_text(json.dumps(POLICY))
    store = ("--url", valkey_server.url, "--namespace", namespace, "--memories", "support")
    async with running_sidecar(*store, "--policy", str(policy)) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="module")
async def library(valkey_server: Server, namespace: str) -> AsyncGenerator[Client]:
    """The same memory, without a sidecar."""
    async with holdfast.connect(valkey_server.url, namespace=namespace, policy=POLICY) as client:
        yield client


@pytest.fixture
def session() -> str:
    return f"s-{uuid.uuid4().hex}"


@asynccontextmanager
async def connected(
    sidecar: SidecarProcess, query: str = "", *, mode: str = "auto", **headers: str
) -> AsyncIterator[McpClient]:
    """The SDK's client over the Unix socket."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    transport = httpx2.AsyncHTTPTransport(uds=str(sidecar.socket))
    async with (
        httpx2.AsyncClient(transport=transport, headers=named, timeout=120) as http,
        McpClient(
            streamable_http_client(f"http://localhost/mcp{query}", http_client=http), mode=mode
        ) as client,
    ):
        yield client


def value(answer: CallToolResult) -> Any:
    """What a call gave; as text and as JSON it is the same."""
    [text] = answer.content
    assert text.type == "text"
    assert not answer.is_error, text.text
    assert json.loads(text.text) == answer.structured_content
    return answer.structured_content


def problem(answer: CallToolResult, code: str) -> Any:
    """What a call failed with: a sentence for the model, and the problem of the HTTP API."""
    [text] = answer.content
    assert text.type == "text"
    assert answer.is_error
    assert answer.structured_content["code"] == code, answer
    assert answer.structured_content["detail"] == text.text
    return answer.structured_content


class TestTools:
    """`remember`, `recall` and `search`, by both protocols."""

    @pytest.mark.parametrize("mode", MODES)
    async def test_what_is_remembered_is_recalled_and_found(
        self, sidecar: SidecarProcess, library: Client, session: str, mode: str
    ) -> None:
        here = {"session": session}
        async with connected(sidecar, mode=mode) as client:
            said = {"text": "The parcel goes to Straße 5", "id": "r1"} | here
            first = value(await client.call_tool("remember", said))
            assert (first["seq"], first["duplicate"]) == (1, False)
            assert value(await client.call_tool("remember", said))["duplicate"]
            noted = {"text": "Noted.", "role": "assistant"} | here
            assert value(await client.call_tool("remember", noted))["length"] == 2
            recalled = value(await client.call_tool("recall", here))
            found = value(await client.call_tool("search", {"text": "STRASSE"} | here))
        messages = [user("The parcel goes to Straße 5"), {"role": "assistant", "content": "Noted."}]
        assert recalled == {"messages": messages, "stale": False}
        [match] = found["matches"]
        assert (match["seq"], match["role"]) == (1, "user")
        assert match["snippet"] == "The parcel goes to Straße 5"
        assert (found["searched"], found["complete"]) == (2, True)
        assert await library.memory("support").session(session).read() == messages

    async def test_the_tools_are_told_with_schemas_that_leave_out_what_is_known(
        self, sidecar: SidecarProcess
    ) -> None:
        async with connected(sidecar) as client:
            tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"remember", "recall", "search"}
        for name, tool in tools.items():
            assert "session" in tool.input_schema["required"]
            assert "memory" not in tool.input_schema["properties"], "there is only one"
            assert tool.input_schema["additionalProperties"] is False
            assert tool.annotations is not None
            assert tool.annotations.read_only_hint is (name != "remember")
            assert tool.annotations.destructive_hint is False

    async def test_recall_keeps_to_its_budget_and_to_whole_groups(
        self, sidecar: SidecarProcess, library: Client, session: str
    ) -> None:
        log = library.memory("support").session(session)
        await log.append_many([user(f"question {number}") for number in range(50)])
        await log.append_many([call("c1"), result("c1")])
        here = {"session": session}
        async with connected(sidecar) as client:
            some = value(await client.call_tool("recall", here | {"max_tokens": 60}))
            assert some["messages"] == await log.read(max_tokens=60)
            assert some["messages"][-2:] == [call("c1"), result("c1")]
            small = problem(
                await client.call_tool("recall", here | {"max_tokens": 1}), "BudgetTooSmall"
            )
            enough = here | {"max_tokens": small["needed"]}
            assert value(await client.call_tool("recall", enough))["messages"]

    async def test_a_search_goes_on_where_it_stopped(
        self, sidecar: SidecarProcess, library: Client, session: str
    ) -> None:
        log = library.memory("support").session(session)
        await log.append_many([user(f"{'needle' if at % 2 else 'hay'} {at}") for at in range(30)])
        seen: list[int] = []
        async with connected(sidecar) as client:
            asked: dict[str, Any] = {"session": session, "text": "needle", "limit": 4}
            while True:
                found = value(await client.call_tool("search", asked))
                seen += [match["seq"] for match in found["matches"]]
                if found["complete"]:
                    break
                asked["before"] = found["before"]
        assert seen == list(range(30, 0, -2))

    async def test_whatever_goes_wrong_is_a_sentence_for_the_model(
        self, sidecar: SidecarProcess, session: str
    ) -> None:
        here = {"session": session}
        async with connected(sidecar) as client:
            await client.call_tool("remember", here | {"text": "a", "id": "once"})
            failures = {
                "IdempotencyConflict": ("remember", here | {"text": "b", "id": "once"}),
                "MemoryNotFound": ("recall", here | {"memory": "somebody's"}),
                "SessionKeyError": ("recall", {"session": "x" * 600}),
                "RequestInvalid": ("recall", here | {"max_tokens": "many"}),
            }
            for code, (tool, arguments) in failures.items():
                problem(await client.call_tool(tool, arguments), code)
            for arguments in ({}, {"session": ""}, here | {"role": "system"}, here | {"pin": True}):
                failed = await client.call_tool("remember", {"text": "x"} | arguments)
                problem(failed, "RequestInvalid")
            with pytest.raises(MCPError, match="no tool 'forget'"):
                await client.call_tool("forget", here)
            assert len(value(await client.call_tool("recall", here))["messages"]) == 1


class TestAddress:
    """What the address fixes is no choice of the model's."""

    async def test_a_fixed_session_is_no_argument(
        self, sidecar: SidecarProcess, session: str
    ) -> None:
        async with connected(sidecar, f"?memory=support&session={session}") as client:
            tools = (await client.list_tools()).tools
            assert all("session" not in tool.input_schema["properties"] for tool in tools)
            value(await client.call_tool("remember", {"text": "mine"}))
            told = await client.call_tool("recall", {"session": "somebody-else"})
            assert "leave it out" in problem(told, "RequestInvalid")["detail"]
            messages = value(await client.call_tool("recall", {}))["messages"]
        assert messages == [user("mine")]

    async def test_an_address_that_says_anything_else_is_refused(
        self, sidecar: SidecarProcess
    ) -> None:
        """A typing error would leave the model the choice that was meant to be taken from it."""
        async with sidecar.client() as api:
            for query in ("sesion=a", "session=", "session=a&session=b", "session=%ff", "x"):
                answer = await api.post(f"/mcp?{query}", json={})
                assert (answer.status_code, answer.json()["code"]) == (400, "RequestInvalid")

    async def test_a_turn_that_the_program_holds_is_used(
        self, sidecar: SidecarProcess, library: Client, session: str
    ) -> None:
        path = f"/v1/memories/support/sessions/{session}/turns"
        text = {"session": session, "text": "in turn"}
        async with sidecar.client() as api:
            grant = (await api.post(path, json={"ttl": "5m"})).json()
            async with connected(sidecar) as client:
                busy = problem(await client.call_tool("remember", text), "SessionBusy")
                assert busy["remaining"] > 0
            async with connected(sidecar, holdfast_turn=grant["token"]) as client:
                value(await client.call_tool("remember", text))
                await api.delete(f"{path}/{grant['token']}")
                problem(await client.call_tool("remember", text), "LeaseLost")
        assert await library.memory("support").session(session).length() == 1


class TestBinding:
    """Only what the binding gives, and no more of it."""

    async def test_memories_are_those_of_the_binding_and_read_only_ones_stay_as_they_are(
        self, valkey_server: Server, tmp_path: Path
    ) -> None:
        namespace = f"team-{uuid.uuid4().hex[:12]}"
        await applied(valkey_server, namespace, "support", "archive", "secret")
        files = BindingFiles(tmp_path / "support-agent")
        memories = [
            entry("support", f"mem:{{{namespace}/support"),
            entry("archive", f"mem:{{{namespace}/archive", "ReadOnly"),
        ]
        files.write(memories, host="127.0.0.1", port=str(valkey_server.port))
        async with (
            running_sidecar(environ={"SERVICE_BINDING_ROOT": str(tmp_path)}) as sidecar,
            holdfast.connect(valkey_server.url, namespace=namespace) as library,
        ):
            await library.memory("archive").session("s").append(user("kept"))
            here = {"memory": "archive", "session": "s"}
            async with connected(sidecar) as client:
                tool = (await client.list_tools()).tools[0]
                assert tool.input_schema["properties"]["memory"]["enum"] == ["support", "archive"]
                denied = await client.call_tool("remember", here | {"text": "changed"})
                problem(denied, "AccessDenied")
                assert value(await client.call_tool("recall", here))["messages"] == [user("kept")]
                assert value(await client.call_tool("search", here | {"text": "kept"}))["matches"]
                for name in ("secret", f"{namespace}/secret", "../secret"):
                    foreign = await client.call_tool("recall", here | {"memory": name})
                    problem(foreign, "MemoryNotFound")
                unnamed = await client.call_tool("recall", {"session": "s"})
                assert problem(unnamed, "RequestInvalid")["detail"] == "name the memory"
            async with connected(sidecar, "?memory=archive") as client:
                offered = {tool.name for tool in (await client.list_tools()).tools}
                assert offered == {"recall", "search"}
                with pytest.raises(MCPError, match="no tool 'remember'"):
                    await client.call_tool("remember", {"session": "s", "text": "changed"})
            assert await library.memory("archive").session("s").read() == [user("kept")]

    async def test_a_store_that_is_away_is_said_and_nothing_hangs(self, tmp_path: Path) -> None:
        policy = tmp_path / "policy.json"
        policy.write_text(json.dumps(POLICY))
        store = ("--url", "redis://127.0.0.1:1", "--memories", "support")
        async with (
            running_sidecar(*store, "--policy", str(policy)) as sidecar,
            connected(sidecar) as client,
        ):
            assert len((await client.list_tools()).tools) == 3
            away = await client.call_tool("recall", {"session": "s"})
            assert problem(away, "StoreUnavailable")["retryable"]

    async def test_before_the_binding_a_call_says_so_to_the_model(self, tmp_path: Path) -> None:
        """As an answer of the tool, not as a fault of the protocol."""
        environ = {"SERVICE_BINDING_ROOT": str(tmp_path)}
        async with running_sidecar(environ=environ) as sidecar, connected(sidecar) as client:
            early = await client.call_tool("recall", {"session": "s"})
            assert problem(early, "Starting")["retryable"]
            with pytest.raises(MCPError, match="no tool 'other'"):
                await client.call_tool("other", {})
            with pytest.raises(MCPError, match="no binding") as unknown:
                await client.list_tools()
            assert unknown.value.error.data["code"] == "Starting"


class TestTransport:
    """Who may ask, how, and what it costs."""

    async def test_pages_of_browsers_are_refused(self, sidecar: SidecarProcess) -> None:
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        accept = {"accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(base_url=sidecar.http, headers=accept, timeout=120) as api:
            for header, named, status in [
                ("origin", "http://evil.example", 403),
                ("origin", "null", 403),
                ("origin", "http://localhost.evil.example", 403),
                ("host", "evil.example", 403),
                ("host", "127.0.0.1.evil.example:7070", 403),
                ("origin", "http://localhost:3000", 200),
                ("host", "localhost", 200),
            ]:
                answer = await api.post("/mcp", json=ping, headers={header: named})
                assert answer.status_code == status, (header, named, answer.text)

    async def test_only_calls_are_answered(self, sidecar: SidecarProcess) -> None:
        async with sidecar.client() as api:
            for method in ("GET", "DELETE", "PUT"):
                answer = await api.request(method, "/mcp")
                assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
            assert (await api.post("/mcp/x", json={})).status_code == 404
            large = await api.post("/mcp", content=b" " * (2**20 + 1))
            assert (large.status_code, large.json()["code"]) == (413, "BodyTooLarge")
            broken = await api.post(
                "/mcp", content=b"{", headers={"content-type": "application/json"}
            )
            assert broken.status_code == 400
            assert broken.json()["jsonrpc"] == "2.0"

    async def test_it_ends_in_order_after_calls(self, valkey_server: Server) -> None:
        async with running_sidecar("--url", valkey_server.url, "--memories", "support") as sidecar:
            async with connected(sidecar) as client:
                await client.list_tools()
            sidecar.terminate()
            assert await sidecar.ended() == 0
            assert "Traceback" not in sidecar.log
            assert "ERROR" not in sidecar.log


async def applied(server: Server, namespace: str, *names: str) -> None:
    """Have the operator's hands write a policy for memories."""
    hands = RedisMaintenance.connect("127.0.0.1", server.port)
    _, policy = load_policy(POLICY)
    for name in names:
        memory = MemoryAddress(namespace, name)
        owner = Owner("cluster-1", "namespace-1", namespace, name, f"uid-{name}", 1)
        await hands.claim(memory, owner)
        assert await hands.put_policy(memory, owner, policy.document(), policy.sha256())
    await hands.aclose()
