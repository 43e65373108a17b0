"""Writes to a memory through the sidecar of this pod, and reads it back. A step of `helm test`."""

import argparse
import http.client
import json
import os
import socket
import sys
import time
import uuid
from typing import Any
from urllib.parse import urlsplit

DEFAULT = "http+unix:///var/run/holdfast/api.sock"


class Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def call(path: str, method: str, url: str, body: Any = None) -> tuple[int, Any]:
    """Make one call; return its status, and its answer."""
    connection = Connection(path)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, url, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()


def converse(path: str, session: str) -> str:
    """Write, read, and remove; return what was wrong, or nothing."""
    message = {"role": "user", "content": "The test of the chart was here."}
    for method, url, body in (
        ("POST", f"{session}/messages", {"message": message}),
        ("GET", f"{session}/messages", None),
        ("DELETE", session, None),
    ):
        status, answer = call(path, method, url, body)
        if status >= 300:
            detail = answer.get("detail", "") if isinstance(answer, dict) else ""
            return f"{method} answers {status}: {detail}"
        if method == "GET" and answer["messages"] != [message]:
            return "what was read is not what was written"
    return ""


def main() -> int:
    """Run the step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", required=True)
    parser.add_argument("--seconds", type=float, default=180)
    options = parser.parse_args()
    path = urlsplit(os.environ.get("HOLDFAST_URL", DEFAULT)).path
    session = f"/v1/memories/{options.memory}/sessions/helm-test-{uuid.uuid4().hex}"
    end = time.monotonic() + options.seconds
    while True:
        try:
            fault = converse(path, session)
        except OSError as error:
            fault = str(error)
        if not fault:
            print("written and read back through the sidecar")
            return 0
        if time.monotonic() > end:
            print(f"the sidecar: {fault}")
            return 1
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
