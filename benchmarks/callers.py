"""Worker of the sidecar's benchmark: many connections that each have one append under way, always.

python benchmarks/callers.py SOCKET CONNECTIONS SECONDS MEMORY

It spends as little on a request as can be, since it takes from the same processors: requests are made
before, answers are not parsed. It prints appends, seconds, and its own seconds of CPU.
"""

import json
import selectors
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from scene import FULL, MESSAGE


def request(memory: str, session: str, body: Mapping[str, Any]) -> bytes:
    """Return an append as it goes over the wire."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/memories/{memory}/sessions/{session}/messages HTTP/1.1\r\n"
        f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def answered(connection: socket.socket) -> None:
    """Read one answer.

    Raises:
        RuntimeError: it is no success.
    """
    answer = connection.recv(65536)
    while not answer.endswith(b"}"):  # head and body may come one after the other
        part = connection.recv(65536)
        if not part:
            raise RuntimeError("the connection was closed")
        answer += part
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(answer.decode("latin-1"))


class Caller:
    """A connection that appends to one session, which is full: each append evicts a message.

    Args:
        path: of the socket.
        memory: its name.
        session: its id.
    """

    def __init__(self, path: str, memory: str, session: str) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(path)
        self.connection.sendall(request(memory, session, {"messages": [MESSAGE] * FULL}))
        answered(self.connection)
        self.request = request(memory, session, {"message": MESSAGE})

    def append(self) -> None:
        """Append, and wait for the answer."""
        self.connection.sendall(self.request)
        answered(self.connection)


def main(path: str, count: int, seconds: float, memory: str) -> None:
    selector = selectors.EpollSelector()
    for at in range(count):
        caller = Caller(path, memory, f"caller-{at}")
        selector.register(caller.connection, selectors.EVENT_READ, caller)
    print("ready", flush=True)
    sys.stdin.readline()
    cpu, began, done = time.process_time(), time.monotonic(), 0
    for key in selector.get_map().values():
        key.data.connection.sendall(key.data.request)
    while (took := time.monotonic() - began) < seconds:
        for key, _ in selector.select():
            answered(key.data.connection)
            done += 1
            key.data.connection.sendall(key.data.request)
    print(done, took, time.process_time() - cpu)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4])
