"""Clients in TypeScript and Go, generated from the OpenAPI document and used against a real sidecar."""

import asyncio
import json
import shutil
import subprocess
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

import holdfast
from tests.harness.parts import missing
from tests.harness.servers import Server
from tests.harness.sidecar_apart import SidecarApart
from tests.integration.world import spec

pytestmark = [pytest.mark.redis, pytest.mark.slow, pytest.mark.timeout(600)]

CLIENTS = Path(__file__).parents[1] / "clients"
NAME = "ü/1 %,=?"
"""A session whose name needs all that a client can encode."""


@pytest.fixture
def sidecar(valkey_server: Server, tmp_path: Path) -> Generator[SidecarApart]:
    namespace = f"team-{uuid.uuid4().hex[:12]}"
    with SidecarApart.running(
        tmp_path, valkey_server.url, policy=spec(), namespace=namespace
    ) as sidecar:
        yield sidecar


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def prepared(language: str, sidecar: SidecarApart) -> Path:
    """A folder of the client's own with the document that the server gives out."""
    folder = sidecar.directory / language
    shutil.copytree(CLIENTS / language, folder)
    with urlopen(f"{sidecar.url}/openapi.json") as answer:
        (folder / "openapi.json").write_bytes(answer.read())
    return folder


async def as_the_library_sees_it(server: Server, sidecar: SidecarApart) -> tuple[Any, int]:
    url = f"{server.url}/0?namespace={sidecar.namespace}"
    async with holdfast.connect(url, policy=spec()) as client:
        session = client.memory("support").session(NAME)
        return list(await session.read()), await session.token_count()


def test_an_agent_in_typescript(valkey_server: Server, sidecar: SidecarApart) -> None:
    if shutil.which("npm") is None or shutil.which("node") is None:
        missing("npm", "apt-get install npm")
    folder = prepared("typescript", sidecar)
    run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
    tools = folder / "node_modules/.bin"
    options = ("--default-non-nullable=false", "--output=api.d.ts")
    run(str(tools / "openapi-typescript"), "openapi.json", *options, cwd=folder)
    run(str(tools / "tsc"), "--project", ".", cwd=folder)
    seen = json.loads(run("node", "use.js", sidecar.url, "support", NAME, cwd=folder))
    messages, tokens = asyncio.run(as_the_library_sees_it(valkey_server, sidecar))
    assert seen == {"messages": messages, "tokens": tokens, "lines": 4}


def test_an_agent_in_go(valkey_server: Server, sidecar: SidecarApart) -> None:
    _need_go()
    folder = prepared("go", sidecar)
    (folder / "api").mkdir()
    run("go", "tool", "oapi-codegen", "-config=generate.yaml", "openapi.json", cwd=folder)
    run("go", "build", "-o=use", ".", cwd=folder)
    seen = json.loads(run("./use", str(sidecar.socket), "support", NAME, cwd=folder))
    messages, tokens = asyncio.run(as_the_library_sees_it(valkey_server, sidecar))
    assert seen == {"messages": messages, "tokens": tokens, "lines": 4}


def _need_go() -> None:
    # An older one gets the toolchain that go.mod names by itself, where it may.
    if shutil.which("go") is None:
        missing("Go", "https://go.dev/dl")
