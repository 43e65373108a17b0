"""Remembers what agents tell it, outside of everything that a story disturbs."""

import json
import signal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLD: list[bytes] = []


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        TOLD.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        body = json.dumps([json.loads(each) for each in list(TOLD)]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def end(*_: object) -> None:
    raise SystemExit


signal.signal(signal.SIGTERM, end)
ThreadingHTTPServer(("", 8080), Handler).serve_forever()
