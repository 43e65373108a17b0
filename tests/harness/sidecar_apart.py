"""A sidecar over a store's address as a process of its own, for code without an event loop."""

import contextlib
import http.client
import json
import resource
import signal
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from holdfast.embedded import reserve_port
from tests.harness.raw_http import RawConnection, Reply
from tests.harness.tied_processes import TiedProcesses

_NAME = "sidecar"


class SidecarApart:
    """A sidecar; its log is `sidecar.log` in the directory, over restarts.

    Args:
        directory: for its socket, policy and log; of a short path, as sockets' paths have to be.
        url: of the store.
        policy: of its memories, in a manifest's form.
        memories: their names.
        namespace: of them.
        ports: for the data API over TCP, and for the status listener.
    """

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        policy: Mapping[str, Any],
        memories: Sequence[str],
        namespace: str,
        ports: tuple[int, int],
    ) -> None:
        self.directory = directory
        self.namespace = namespace
        self.socket = directory / "api.sock"
        self.port, self.status_port = ports
        manifest = directory / "policy.json"  # JSON is YAML
        manifest.write_text(json.dumps(policy))
        command = [
            sys.executable,
            "-m",
            "holdfast_sidecar",
            f"--unix={self.socket}",
            f"--http=127.0.0.1:{self.port}",
            f"--status=127.0.0.1:{self.status_port}",
            f"--url={url}",
            f"--namespace={namespace}",
            f"--memories={','.join(memories)}",
            f"--policy={manifest}",
        ]
        self._processes = TiedProcesses(directory, {_NAME: command})

    @classmethod
    @contextlib.contextmanager
    def running(
        cls,
        directory: Path,
        url: str,
        *,
        policy: Mapping[str, Any],
        memories: Sequence[str] = ("support",),
        namespace: str = "local",
    ) -> Generator[Self]:
        """Run one until the block ends; it listens when the block begins."""
        with reserve_port(None) as data, reserve_port(None) as status:
            sidecar = cls(
                directory,
                url,
                policy=policy,
                memories=memories,
                namespace=namespace,
                ports=(data, status),
            )
            try:
                sidecar.start()
                yield sidecar
            finally:
                sidecar.stop()

    @property
    def url(self) -> str:
        """The address of the data API over TCP."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._processes.pid(_NAME)

    @property
    def running_still(self) -> bool:
        """Whether it has not ended by itself."""
        return self._processes.ended() is None

    @property
    def log(self) -> str:
        """Everything it wrote so far."""
        return (self.directory / f"{_NAME}.log").read_text(encoding="utf-8", errors="replace")

    @property
    def resident(self) -> float:
        """MiB that it has in memory."""
        return self._memory("VmRSS")

    @property
    def most_resident(self) -> float:
        """MiB that it had in memory at most, since it began or since `forget_most_resident`."""
        return self._memory("VmHWM")

    def forget_most_resident(self) -> None:
        """Begin anew to watch how much memory it has at most."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def start(self, *, deadline: float = 120) -> None:
        """Start it and wait until it listens."""
        self._processes.start(_NAME)
        self._wait(self._listens, deadline)

    def wait_until_ready(self, *, deadline: float = 120) -> None:
        """Wait until its store answers."""
        self._wait(self._ready, deadline)

    def terminate(self, *, deadline: float = 120) -> None:
        """End it as Kubernetes does, and wait until it has ended."""
        self._processes.signal(_NAME, signal.SIGTERM)
        self._wait(lambda: not self.running_still, deadline, alive=False)

    def stop(self) -> None:
        """End it for good, however it is."""
        self._processes.stop()

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Ask once, on a connection of its own."""
        with RawConnection(self.socket) as connection:
            reply = connection.ask(method, path, body, headers)
        assert reply is not None, f"no answer:\n{self.tail()}"
        return reply

    def tail(self, lines: int = 30) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.splitlines()[-lines:])

    def _listens(self) -> bool:
        try:
            with RawConnection(self.socket):
                return True
        except OSError:
            return False

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.status_port, timeout=60)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _wait(self, holds: Any, deadline: float, *, alive: bool = True) -> None:
        end = time.monotonic() + deadline
        while not holds():
            assert not alive or self.running_still, f"the sidecar ended:\n{self.tail()}"
            assert time.monotonic() < end, f"not within {deadline} s:\n{self.tail()}"
            time.sleep(0.005)

    def _memory(self, name: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise LookupError(name)


def many_files() -> int:
    """Let this process open as many files as it may, and return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
