"""A fuzzer of what is sent: bodies and whole requests, made from good ones and from nothing."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.raw_http import RawConnection, Reply, request

SESSION: Final = "/v1/memories/support/sessions/fuzz"
_TIMEOUT: Final = 20.0

TARGETS: Final[Mapping[tuple[str, str], Sequence[bytes]]] = {
    ("POST", f"{SESSION}/messages"): [
        b'{"message":{"role":"user","content":"hello"}}',
        b'{"messages":[{"role":"user","content":"a"},"b",3,null],"role":"user","pin":true,"id":"x"}',
        b'{"message":"a","privacy":{"persist":false,"level":"PII","sensitive":["$.a"]},"group":1}',
    ],
    ("PUT", f"{SESSION}/messages"): [b'{"messages":[{"role":"system","content":"be kind"}]}'],
    ("POST", f"{SESSION}/flush"): [b'{"strategy":"FIFO","dry_run":true}', b"{}"],
    ("POST", f"{SESSION}-turns/turns"): [b'{"wait":"0s","ttl":"3s"}'],
    ("POST", f"{SESSION}/import"): [
        b'{"format":"holdfast","version":1}\n{"seq":1,"item":"a"}\n',
        b"{}\n{}\n",
    ],
    ("POST", "/mcp"): [
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        for method, params in [
            ("tools/call", {"name": "remember", "arguments": {"session": "fuzz", "text": "a"}}),
            ("tools/call", {"name": "search", "arguments": {"session": "fuzz", "text": "a"}}),
            ("tools/list", {}),
            ("initialize", {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {}}),
        ]
    ],
}
"""What takes a body, and good bodies of it."""

_PIECES: Final = [
    b'"', b"\\", b"\\u0000", b"\\ud800", b"\\udfff\\ud800", b"{", b"}", b"[", b"]", b",", b":",
    b"null", b"true", b"NaN", b"-Infinity", b"-0", b"1e400", b"-1e-400", b"0x10", b"9" * 25,
    b"9" * 5_000, b"1." + b"0" * 400, b"[" * 3_000, b'{"a":' * 3_000, b"\x00", b"\xff\xfe",
    b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b" " * 70_000,
    b'"message"', b'"messages"', b'"id"', b'"role"', b'"seq"', b'"params"', b'"method"',
    "\u2028".encode(), "\U0001f600".encode(), b"//", b"/*", b"'",
]  # fmt: skip

_HEAD_PIECES: Final = [
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"/", b"%", b"%00", b"%zz", b"%2F", b"..", b"?",
    b"#", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"Content-Length: 5\r\n", b"Content-Length: -1\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity, chunked\r\n", b"Expect: 100-continue\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b"Upgrade: h2c\r\n", b"Host: evil\r\n",
    b"Holdfast-Turn: \xff\r\n", b"Idempotency-Key: \r\n", b"Accept: text/event-stream\r\n",
    b"Accept: ,;q=,\r\n", b"Content-Type: \r\n", b" folded: x\r\n", b"A" * 9_000, b"\xff" * 40,
    b"?label=a&label=b:c&label=", b"?limit=-1", b"?after=99999999999999999999", b"&&&===", b"PRI * ",
]  # fmt: skip


def json_values() -> st.SearchStrategy[Any]:
    """Any JSON value that a message may be, small."""
    numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    return st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
        max_leaves=12,
    )


def changed(good: bytes, pieces: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Some edits of what is good: pieces put in, cut out, doubled, bytes replaced."""
    at = st.integers(0, len(good))
    edit = st.tuples(
        st.sampled_from(["insert", "replace", "cut", "double", "byte"]),
        at,
        st.integers(0, 24),
        st.sampled_from(pieces),
        st.integers(0, 255),
    )

    def apply(edits: Sequence[tuple[str, int, int, bytes, int]]) -> bytes:
        data = good
        for what, start, size, piece, byte in edits:
            part = data[start : start + size]
            middle = {
                "insert": piece + part,
                "replace": piece,
                "cut": b"",
                "double": part + part,
                "byte": bytes([byte]) + part[1:],
            }[what]
            data = data[:start] + middle + data[start + size :]
        return data

    return st.lists(edit, min_size=1, max_size=4).map(apply)


class Fuzzer:
    """Sends what it makes to a sidecar, and looks at every answer.

    Args:
        path: of the sidecar's socket.
        documented: for each method and path of a request the statuses that the document has.
        examples: how many of each kind.
    """

    def __init__(
        self, path: Path, documented: Callable[[str, str], set[int]], *, examples: int
    ) -> None:
        self._path = path
        self._documented = documented
        self._settings = settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        self.sent = 0
        self.statuses: dict[int, int] = {}

    def bodies(self) -> None:
        """Send broken bodies in requests that are in order."""

        @self._settings
        @given(data=st.data())
        def send(data: st.DataObject) -> None:
            method, path = data.draw(st.sampled_from(list(TARGETS)))
            good = data.draw(st.sampled_from(TARGETS[method, path]))
            body = data.draw(st.binary(max_size=300) | changed(good, _PIECES))
            headers = {"accept": "application/json, text/event-stream"} if path == "/mcp" else {}
            if path.endswith("/import"):
                headers["content-type"] = "application/jsonl"
            if data.draw(st.booleans()):
                raw = _chunked(method, path, body, headers, data.draw(st.integers(1, 40)))
            else:
                raw = request(method, path, body, headers)
            with RawConnection(self._path, timeout=_TIMEOUT) as connection:
                connection.send(raw)
                reply = connection.receive(method)
            assert reply is not None, "no answer"
            self._check(method, path, reply)

        send()

    def requests(self) -> None:
        """Send broken requests, byte by byte."""

        @self._settings
        @given(data=st.data())
        def send(data: st.DataObject) -> None:
            method, path = data.draw(st.sampled_from(list(TARGETS)))
            good = request(method, path, TARGETS[method, path][0])
            raw = data.draw(changed(good, _HEAD_PIECES) | st.binary(max_size=300))
            with RawConnection(self._path, timeout=_TIMEOUT) as connection:
                connection.send(raw)
                connection.socket.shutdown(1)  # nothing more comes: it may answer or close
                answer = connection.drain()
            self.sent += 1
            if answer:
                assert answer.startswith(b"HTTP/1.1 "), answer[:200]
                status = int(answer[9:12])
                self.statuses[status] = self.statuses.get(status, 0) + 1
                assert status < 500 or status == 505, answer[:500]
                assert b"Traceback" not in answer

        send()

    def values(self) -> None:
        """Append any JSON value and read the same one."""

        @self._settings
        @given(value=json_values())
        def send(value: Any) -> None:
            body = json.dumps({"message": value}, ensure_ascii=False).encode()
            with RawConnection(self._path, timeout=_TIMEOUT) as connection:
                appended = connection.ask("POST", f"{SESSION}-values/messages", body)
                assert appended is not None
                assert appended.status == 200, appended
            with RawConnection(self._path, timeout=_TIMEOUT) as connection:
                read = connection.ask("GET", f"{SESSION}-values/messages?limit=1")
            assert read is not None
            assert msgspec.json.decode(read.body)["messages"] == [value]
            self.sent += 2

        send()

    def _check(self, method: str, path: str, reply: Reply) -> None:
        self.sent += 1
        self.statuses[reply.status] = self.statuses.get(reply.status, 0) + 1
        assert reply.status < 500, reply
        assert b"Traceback" not in reply.body
        if path == "/mcp":
            return
        assert reply.status in self._documented(method, path), reply
        if reply.status >= 400:
            assert reply.headers["content-type"] == "application/problem+json"
            assert reply.json["status"] == reply.status
            assert reply.json["detail"]


def _chunked(method: str, path: str, body: bytes, headers: Mapping[str, str], size: int) -> bytes:
    head = request(method, path, b"", {"content-type": "application/json", **headers})
    head = head.replace(b"content-length: 0\r\n", b"transfer-encoding: chunked\r\n")
    size = max(size, len(body) // 50)  # tiny chunks of a long body only take long
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
