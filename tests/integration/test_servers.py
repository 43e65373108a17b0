"""The servers that other tests run on, and the embedded one when it is frozen."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
from redis import exceptions as redis_errors

from holdfast.embedded import EmbeddedServer, reserve_port
from holdfast.errors import ConfigurationError
from tests.harness.parts import VARIABLE, missing, missing_parts, need_server
from tests.harness.processes import Workers
from tests.harness.servers import Product, Server, find_redis, running_server
from tests.harness.waiting import until
from tests.integration.test_embedded import hold_server, is_locked, program

pytestmark = pytest.mark.redis


class TestFrozen:
    @pytest.mark.asyncio
    @pytest.mark.slow
    async def test_ends_with_a_killed_parent_even_frozen(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        async with Workers(hold_server, 1, tmp_path, arguments={"directory": str(data)}) as workers:
            _, pid = await workers[0].next_report()
            os.kill(pid, signal.SIGSTOP)
            workers[0].kill()
            await until(lambda: not is_locked(data), "the frozen server is gone")

    @pytest.mark.asyncio
    @pytest.mark.slow
    async def test_a_frozen_server_is_killed_at_the_stop(self, tmp_path: Path) -> None:
        server = EmbeddedServer(tmp_path, persist=False)
        await server.start()
        os.kill(server.pid, signal.SIGSTOP)
        await server.stop()
        assert not is_locked(tmp_path)


class TestServer:
    @pytest.fixture(params=list(Product))
    def product(self, request: pytest.FixtureRequest) -> Product:
        need_server(request.param)
        return request.param

    @pytest.mark.asyncio
    async def test_a_restart_keeps_port_and_data(self, product: Product, tmp_path: Path) -> None:
        async with Server(product, tmp_path, persist=True) as server:
            port, pid = server.port, server.pid
            async with server.client() as client:
                await client.set("key", "value")
            await server.restart()
            assert (server.port, server.pid != pid) == (port, True)
            async with server.client() as client:
                assert await client.get("key") == b"value"
                info = await client.info("server")
        assert ("valkey_version" in info) == (product is Product.VALKEY)
        assert not server.running

    @pytest.mark.asyncio
    async def test_a_killed_one_refuses_connections_and_comes_back(
        self, product: Product, tmp_path: Path
    ) -> None:
        async with Server(product, tmp_path) as server, server.client() as client:
            await client.set("key", "value")
            await server.kill()
            for _ in range(20):  # nobody else may answer on the port meanwhile
                with pytest.raises(redis_errors.ConnectionError):
                    await client.ping()
            await server.start()
            assert await client.dbsize() == 0

    @pytest.mark.asyncio
    async def test_a_frozen_one_keeps_connections_and_answers_later(
        self, product: Product, tmp_path: Path
    ) -> None:
        async with (
            Server(product, tmp_path) as server,
            server.client(socket_timeout=0.2) as impatient,
            server.client(socket_timeout=30) as patient,
        ):
            assert await impatient.ping()
            assert await patient.ping()
            server.pause()
            waiting = asyncio.create_task(patient.incr("key"))
            with pytest.raises(redis_errors.TimeoutError):
                await impatient.ping()
            assert not waiting.done()
            server.resume()
            assert await waiting == 1

    @pytest.mark.asyncio
    async def test_a_frozen_one_can_be_stopped(self, product: Product, tmp_path: Path) -> None:
        async with Server(product, tmp_path) as server:
            server.pause()
        assert not server.running

    @pytest.mark.asyncio
    async def test_takes_further_arguments(self, product: Product, tmp_path: Path) -> None:
        users = tmp_path / "users.acl"
        users.write_text("user default off\nuser reader on >secret ~* +get +ping\n")
        arguments = ["--aclfile", str(users), "--maxmemory", "8mb"]
        async with (
            Server(product, tmp_path / "data", arguments=arguments) as server,
            server.client(username="reader", password="secret") as client,
        ):
            assert await client.get("key") is None
            with pytest.raises(redis_errors.NoPermissionError):
                await client.set("key", "value")

    @pytest.mark.asyncio
    async def test_a_snapshot_argument_keeps_data(self, product: Product, tmp_path: Path) -> None:
        async with Server(product, tmp_path, arguments=["--save", "3600 1"]) as server:
            async with server.client() as client:
                await client.set("key", "value")
            await server.restart()
            async with server.client() as client:
                assert await client.get("key") == b"value"

    @pytest.mark.asyncio
    async def test_the_servers_of_the_run_answer(
        self, valkey_server: Server, redis_server: Server
    ) -> None:
        async with valkey_server.client() as client:
            assert "valkey_version" in await client.info("server")
        async with redis_server.client() as client:
            assert (await client.info("server"))["redis_version"].startswith("7.")

    def test_can_be_run_without_a_loop(self, product: Product, tmp_path: Path) -> None:
        with running_server(product, tmp_path) as server:
            connection = socket.create_connection(("127.0.0.1", server.port))
            with connection:
                connection.sendall(b"PING\r\n")
                assert connection.recv(16) == b"+PONG\r\n"
        assert not server.running

    def test_an_older_redis_is_not_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_redis() is None
        program(tmp_path / "redis-server", "echo 'Redis server v=6.2.14 sha=0:0 bits=64'")
        assert find_redis() is None


class TestReservedPort:
    def test_is_kept_from_others_and_free_for_the_one_it_is_for(self) -> None:
        with reserve_port(None) as port:
            with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
                stranger.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigurationError):
                reserve_port(port).__enter__()


class TestMissingParts:
    def test_is_a_skip_on_a_laptop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(VARIABLE, raising=False)
        with pytest.raises(pytest.skip.Exception) as caught:
            missing("etcd", "build it")
        assert missing_parts([f"Skipped: {caught.value}", "Skipped: else"] * 2) == [
            "etcd (build it)"
        ]

    def test_is_a_failure_where_everything_is_required(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(VARIABLE, "all")
        with pytest.raises(pytest.fail.Exception, match=r"etcd \(build it\) is missing"):
            missing("etcd", "build it")
