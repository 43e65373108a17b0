"""HTTP/1.1 by hand over a Unix socket: for requests that no client would send."""

import contextlib
import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class RawConnection:
    """A connection of blocking calls.

    Args:
        path: of the socket.
        timeout: seconds for each call.
    """

    def __init__(self, path: Path, *, timeout: float = 30.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(path))  # without a limit: then it waits where the line is full
        except OSError:
            self.socket.close()
            raise
        self.socket.settimeout(timeout)

    def send(self, data: bytes) -> bool:
        """Send all, and say whether the other side took it."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self, method: str = "POST") -> Reply | None:
        """Return the next answer; None when the connection was closed without one."""
        response = http.client.HTTPResponse(self.socket, method=method)
        try:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, headers, response.read())
        except (http.client.BadStatusLine, ConnectionResetError):
            return None

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Reply | None:
        """Send one request and return its answer."""
        self.send(request(method, path, body, headers))
        return self.receive(method)

    def drain(self) -> bytes:
        """Return all that still comes, until the other side closes."""
        parts: list[bytes] = []
        with contextlib.suppress(ConnectionResetError):
            while part := self.socket.recv(65536):
                parts.append(part)
        return b"".join(parts)

    def __enter__(self) -> Self:
        """Return the connection."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close it."""
        self.socket.close()


def request(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """Return a request as it goes over the wire; JSON unless the headers say otherwise."""
    named = {"host": "localhost", "content-length": str(len(body))}
    if body:
        named["content-type"] = "application/json"
    named |= {name.lower(): value for name, value in (headers or {}).items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
