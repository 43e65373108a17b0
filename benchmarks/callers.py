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

from scene import MESSAGE


def request(memory: str, session: str) -> bytes:
    """Return an append as it goes over the wire."""
    body = json.dumps({"message": MESSAGE}).encode()
    head = (
        f"POST /v1/memories/{memory}/sessions/{session}/messages HTTP/1.1\r\n"
        f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def answered(connection: socket.socket) -> None:
    """Read one answer.

    Raises:
        RuntimeError: it is no success, or not all of it came at once.
    """
    answer = connection.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 ") or not body.endswith(b"}"):
        raise RuntimeError(answer.decode("latin-1"))


class Caller:
    """A connection that appends to one session.

    Args:
        path: of the socket.
        memory: its name.
        session: its id.
    """

    def __init__(self, path: str, memory: str, session: str) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.connect(path)
        self.request = request(memory, session)

    def append(self) -> None:
        """Append, and wait for the answer."""
        self.connection.sendall(self.request)
        answered(self.connection)


def main(path: str, count: int, seconds: float, memory: str) -> None:
    selector = selectors.EpollSelector()
    for at in range(count):
        caller = Caller(path, memory, f"caller-{at}")
        for _ in range(201):  # full: from now on each append evicts one
            caller.append()
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
