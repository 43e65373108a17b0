"""What an agent needs of HTTP to use its sidecar, with the standard library alone."""

import http.client
import json
import os
import socket
from typing import Any
from urllib.parse import quote


class Refused(Exception):
    """The sidecar answered with a problem; `status` and `problem` are its own."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('detail', problem)}")
        self.status = status
        self.problem = problem


class Connection(http.client.HTTPConnection):
    """HTTP over the Unix socket that HOLDFAST_URL names."""

    def __init__(self, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = os.environ["HOLDFAST_URL"].removeprefix("http+unix://")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Session:
    """One session of one memory. Every call is one request on a connection of its own."""

    def __init__(self, memory: str, session: str, *, timeout: float = 10) -> None:
        self._path = f"/v1/memories/{quote(memory, safe='')}/sessions/{quote(session, safe='')}"
        self._timeout = timeout

    def append(self, message: object, *, key: str | None = None) -> dict[str, Any]:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self.call("POST", "/messages", {"message": message}, headers)

    def read(self) -> list[Any]:
        return self.call("GET", "/messages")["messages"]

    def records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = self.call("GET", f"/records?limit=100{after}")
            found += page["records"]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"

    def call(
        self,
        method: str,
        path: str,
        body: object | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        connection = Connection(self._timeout)
        try:
            text = None if body is None else json.dumps(body)
            given = {"Content-Type": "application/json", **(headers or {})}
            connection.request(method, self._path + path, text, given)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        found = json.loads(content) if content else {}
        if answer.status >= 400:
            raise Refused(answer.status, found)
        return found
