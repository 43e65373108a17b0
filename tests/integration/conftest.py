"""Fixtures of the tests against real servers."""

import secrets
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.harness.parts import need_server
from tests.harness.sentinels import Sentinels
from tests.harness.servers import Product, Server
from tests.integration.world import World


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture(params=list(Product))
def each_server(request: pytest.FixtureRequest) -> Server:
    """Each server in turn."""
    return request.getfixturevalue(f"{request.param}_server")


@pytest_asyncio.fixture
async def world(each_server: Server) -> AsyncGenerator[World]:
    async with each_server.client() as raw:
        world = World(each_server, raw)
        await world.hands.load_scripts()
        yield world
        await world.aclose()


@pytest_asyncio.fixture
async def own_server(tmp_path: Path) -> AsyncGenerator[Server]:
    """A server that the test may restart and fill up."""
    async with Server(Product.VALKEY, tmp_path, persist=True) as server:
        yield server


@pytest_asyncio.fixture
async def own_sentinels(tmp_path: Path) -> AsyncGenerator[Sentinels]:
    """Servers and sentinels that the test may kill."""
    need_server(Product.VALKEY)
    async with Sentinels(tmp_path) as sentinels:
        yield sentinels


@pytest_asyncio.fixture
async def own_world(own_server: Server) -> AsyncGenerator[World]:
    async with own_server.client() as raw:
        world = World(own_server, raw)
        yield world
        await world.aclose()
