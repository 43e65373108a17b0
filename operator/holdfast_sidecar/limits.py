"""How much of everything: what one pod may ask of its sidecar at a time."""

from dataclasses import dataclass

from holdfast.wire import MAX_BODY


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep the sidecar's memory bounded, whatever its clients do.

    Attributes:
        connections: open ones; beyond that the one that has been idle for longest is closed.
        requests: in work at a time, those that wait for a turn or hold one by their connection not counted.
        turns: held or waited for at a time.
        head: bytes of a request's line and headers.
        fields: how many headers.
        pipeline: requests that a client may send before the answer to its first one.
        body: bytes of a body, but for an import's.
        line: bytes of a line of an import.
        bodies: bytes of all bodies above `small` that are being read or worked on.
        answers: bytes of all answers above `small` that clients have not taken yet.
        small: bytes of a body or an answer that count for nothing.
        head_seconds: for a request's line and headers to arrive.
        body_seconds: for a body to arrive; for each part of an import.
        write_seconds: for a client to take what is sent.
        fresh_seconds: for a connection without a request.
        idle_seconds: for a connection between requests.
        heartbeat: seconds between signs of life in an event stream.
    """

    connections: int = 1000
    requests: int = 256
    turns: int = 512
    head: int = 64 * 1024
    fields: int = 128
    pipeline: int = 32
    body: int = MAX_BODY
    line: int = 5 * 1024 * 1024
    bodies: int = 32 * 1024 * 1024
    answers: int = 32 * 1024 * 1024
    small: int = 64 * 1024
    head_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 60.0
    fresh_seconds: float = 60.0
    idle_seconds: float = 300.0
    heartbeat: float = 15.0
