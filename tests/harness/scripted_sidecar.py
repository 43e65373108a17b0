"""Answers HTTP on a Unix socket as it is told to, from threads: also while the client's loop stands still."""

import contextlib
import shutil
import socket
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

APPENDED = {"seq": 1, "count": 1, "duplicate": False, "tokens": 1, "length": 1, "evicted": 0}


@dataclass(slots=True)
class Reply:
    """What is done about one request.

    Attributes:
        data: that is sent.
        close: the connection is closed afterwards.
        may: is waited for before anything is sent.
        rest: is sent once `later` is set.
        later: see `rest`.
    """

    data: bytes = b""
    close: bool = False
    may: threading.Event | None = None
    rest: bytes = b""
    later: threading.Event = field(default_factory=threading.Event)


def answer(body: Any, status: str = "200 OK", kind: str = "application/json") -> bytes:
    """Return a whole answer."""
    text = body if isinstance(body, bytes) else msgspec.json.encode(body)
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(text)}\r\n\r\n"
    return head.encode() + text


def problem(code: str, status: int, **more: Any) -> bytes:
    """Return an answer that is a problem."""
    document = {
        "type": f"urn:holdfast:problem:{code}",
        "title": "it went wrong",
        "status": status,
        "detail": f"it went wrong: {code}",
        "code": code,
        "retryable": False,
    }
    return answer(document | more, f"{status} Oh", "application/problem+json")


LOST = Reply(close=True)
"""The request is read, and the connection closed."""


class ScriptedSidecar:
    """Listens while it is entered.

    Args:
        replies: to the requests in the order in which they come, over all connections; what comes later gets
            the last one.

    Attributes:
        requests: what came so far, such as `GET /v1/memories`.
        connections: how many were opened so far.
    """

    def __init__(self, *replies: Reply | bytes) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self._all = [Reply(one) if isinstance(one, bytes) else one for one in replies]
        self._replies = list(self._all)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []

    @property
    def url(self) -> str:
        """What `connect` takes."""
        return f"http+unix://{self._path}"

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="hf-"))
        self._path = self._directory / "s"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen(64)
        self._run(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for reply in self._all:
            reply.later.set()
            if reply.may is not None:
                reply.may.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()
        for thread in self._threads:
            thread.join(20)
        shutil.rmtree(self._directory)

    def hang_up(self) -> None:
        """Close all connections."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _run(self, call: Any, *given: Any) -> None:
        thread = threading.Thread(target=call, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                self._open.append(connection)
            self._run(self._talk, connection)

    def _talk(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            reader = connection.makefile("rb")
            while self._read(reader):
                with self._lock:
                    reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
                if reply.may is not None:
                    reply.may.wait(60)
                connection.sendall(reply.data)
                if reply.rest:
                    reply.later.wait(60)
                    connection.sendall(reply.rest)
                if reply.close:
                    return

    def _read(self, reader: Any) -> bool:
        first = reader.readline().decode()
        length = 0
        while line := reader.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        reader.read(length)
        if first:
            with self._lock:
                self.requests.append(first.rpartition(" ")[0])
        return bool(first)
