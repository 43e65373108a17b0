"""Clients that mean no good: each function does one thing to a sidecar, and says what it saw."""

import contextlib
import selectors
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tests.harness.raw_http import RawConnection, Reply, request

CHUNK: Final = 2**20


@dataclass(frozen=True, slots=True)
class Flood:
    """What became of a body that is too large.

    Attributes:
        taken: bytes of it that the other side took.
        reply: its answer; None when it only closed.
    """

    taken: int
    reply: Reply | None


def flood(path: Path, head: bytes, *, size: int, chunked: bool) -> Flood:
    """Send a body of so many bytes after a head, until somebody stops it."""
    block = b" " * CHUNK
    framed = b"%x\r\n%s\r\n" % (CHUNK, block) if chunked else block
    with RawConnection(path, timeout=20) as connection:
        connection.send(head)
        taken = 0
        while taken < size and connection.send(framed):
            taken += CHUNK
        reply = None
        with contextlib.suppress(OSError):
            reply = connection.receive()
        return Flood(taken, reply)


def connect_many(path: Path, count: int) -> list[socket.socket]:
    """Open connections and say nothing on them."""
    found: list[socket.socket] = []
    for _ in range(count):
        one = socket.socket(socket.AF_UNIX)  # blocking: it waits where the line is full
        one.connect(str(path))
        found.append(one)
    return found


def still_open(connections: Sequence[socket.socket]) -> int:
    """Count those that the other side has not closed."""
    count = 0
    for one in connections:
        one.setblocking(False)
        try:
            count += one.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            count += 1
        except OSError:
            pass
    return count


def trickle(path: Path, count: int, sent: bytes, *, seconds: float) -> list[float]:
    """Send a request on many connections, a byte each half second, as long as they are open.

    Args:
        path: of the socket.
        count: of connections.
        sent: what is sent, the last byte never.
        seconds: after which it gives up.

    Returns:
        For each connection that was closed the seconds that it was open.
    """
    connections = connect_many(path, count)
    began = time.monotonic()
    ended: dict[socket.socket, float] = {}
    with selectors.DefaultSelector() as selector:
        for one in connections:
            one.setblocking(False)
            selector.register(one, selectors.EVENT_READ)
        at = 0
        while time.monotonic() - began < seconds and len(ended) < count:
            for one in connections:
                if one not in ended and at < len(sent) - 1:
                    with contextlib.suppress(OSError):
                        one.send(sent[at : at + 1])
            at += 1
            until = time.monotonic() + 0.5
            while (left := until - time.monotonic()) > 0:
                for key, _ in selector.select(left):
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    try:
                        over = one.recv(65536) == b""
                    except OSError:
                        over = True
                    if over:
                        ended[one] = time.monotonic() - began
                        selector.unregister(one)
    for one in connections:
        one.close()
    return list(ended.values())


def unread(path: Path, target: str, count: int) -> list[RawConnection]:
    """Ask for something on many connections and take no answer."""
    connections = [RawConnection(path) for _ in range(count)]
    for one in connections:
        one.send(request("GET", target))
    return connections


class Bomb(NamedTuple):
    """What never ends: a beginning, and what is repeated."""

    head: bytes
    block: bytes


_LINE: Final = b"GET /v1/memories HTTP/1.1\r\nhost: localhost\r\n"
_CHUNKS: Final = request(
    "POST",
    "/v1/memories/support/sessions/bomb/messages",
    b"",
    {"transfer-encoding": "chunked", "content-type": "application/json"},
).replace(b"content-length: 0\r\n", b"")

BOMBS: Final[Mapping[str, Bomb]] = {
    "value": Bomb(_LINE + b"x-bomb: ", b"A" * CHUNK),
    "name": Bomb(_LINE, b"A" * CHUNK),
    "headers": Bomb(_LINE, b"a: b\r\n" * 2**17),
    "folded": Bomb(_LINE + b"a: b\r\n", b" c\r\n" * 2**18),
    "path": Bomb(b"GET /", b"A" * CHUNK),
    "query": Bomb(b"GET /v1/memories?", b"a=b&" * 2**18),
    "method": Bomb(b"", b"A" * CHUNK),
    "empty lines": Bomb(b"", b"\r\n" * 2**19),
    "chunk extension": Bomb(_CHUNKS + b"1;", b"A" * CHUNK),
    "trailer value": Bomb(_CHUNKS + b"2\r\n{}\r\n0\r\na: ", b"A" * CHUNK),
    "trailers": Bomb(_CHUNKS + b"2\r\n{}\r\n0\r\n", b"a: b\r\n" * 2**17),
    "tiny chunks": Bomb(_CHUNKS + b'4\r\n{"a"\r\n', b"1\r\n \r\n" * 2**17),
    "pipeline": Bomb(b"", request("GET", "/v1/memories") * 10_000),
    "binary": Bomb(b"", bytes(range(256)) * 2**12),
}
"""Heads, and what stands for one, that no client would send."""


def throw(path: Path, bomb: Bomb, *, size: int, seconds: float) -> bytes:
    """Send a bomb until so many bytes are taken or the other side has had enough.

    Returns:
        The beginning of what came back.
    """
    with RawConnection(path, timeout=20) as connection:
        connection.socket.setblocking(False)
        data, taken, answer = memoryview(bomb.head + bomb.block), 0, b""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            both = selectors.EVENT_READ | selectors.EVENT_WRITE
            selector.register(connection.socket, both)
            while (left := end - time.monotonic()) > 0:
                for _, events in selector.select(left):
                    try:
                        if events & selectors.EVENT_READ:
                            part = connection.socket.recv(65536)
                            if not part:
                                return answer
                            answer = (answer + part)[:4096]
                        elif taken < size:
                            sent = connection.socket.send(data)
                            taken += sent
                            data = data[sent:] or memoryview(bomb.block)
                        else:
                            selector.modify(connection.socket, selectors.EVENT_READ)
                    except OSError:
                        return answer
        return answer
