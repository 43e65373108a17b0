"""What happened: each process writes a line when a call begins and one when it ends.

A line is one `write` to a file that is open for appending, so what a process wrote is there even if it
is killed with its next instruction. Times are those of the machine's monotonic clock, which all of its
processes share.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import msgspec

OK = "ok"
CUT_OFF = "cut off"
"""The outcome of a call whose process ended before it: it may have happened, once at most."""

CANCELLED = "cancelled"
"""The outcome of a call that its caller did not wait for: likewise."""


class Op(StrEnum):
    """The calls of an agent."""

    APPEND = "append"
    READ = "read"
    PAGE = "read_page"
    POP = "pop"
    PIN = "pin"
    CLEAR = "clear"
    ERASE = "erase"
    FLUSH = "flush"
    ENTER = "turn"
    LEAVE = "release"
    CHECK = "check"


class Begin(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="begin"):
    """A call begins.

    Attributes:
        n: number of the call in its process.
        at: nanoseconds.
        actor: who calls; makes one call after the other.
        session: `profile/name`.
        op: which call.
        markers: of an append, one for each message: nothing else ever carries the same.
        id: of an append.
        turn: within which it is made, by the number of the call that began that.
        detail: an argument worth seeing.
    """

    n: int
    at: int
    actor: str
    session: str
    op: Op
    markers: tuple[str, ...] = ()
    id: str | None = None
    turn: int | None = None
    detail: str = ""


class End(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="end"):
    """A call ended.

    Attributes:
        n: number of the call.
        at: nanoseconds.
        outcome: `OK`, or the code of the error.
        seq: of an append, the first.
        epoch: of the session as the caller knows it then.
        duplicate: of an append: its id was known.
        fence: of a turn.
        queued: of a turn: when its caller was told that it is in line; 0: it never was.
        seen: of a read, what it showed: sequence numbers, 0 where it shows none, and markers.
        torn: the store found that records had vanished.
        detail: a result worth seeing.
    """

    n: int
    at: int
    outcome: str
    seq: int = 0
    epoch: int = 0
    duplicate: bool = False
    fence: int = 0
    queued: int = 0
    seen: tuple[tuple[int, str], ...] = ()
    torn: bool = False
    detail: str = ""


class Summarised(msgspec.Struct, frozen=True, gc=False, tag="summarised"):
    """A summary was written, which may or may not be stored.

    Attributes:
        marker: of the summary.
        markers: of the messages it is made of.
        folds: of the summaries it is made of.
    """

    marker: str
    markers: tuple[str, ...]
    folds: tuple[str, ...]


class Fault(msgspec.Struct, frozen=True, gc=False, tag="fault"):
    """Something was done to a process, a server or a connection.

    Attributes:
        kind: what, in a few words.
        target: to whom.
        begin: nanoseconds.
        end: when it was over.
        times: how often it struck.
        loses: an acknowledged write may be lost by it.
    """

    kind: str
    target: str
    begin: int
    end: int
    times: int = 1
    loses: bool = False


Line: TypeAlias = Begin | End | Summarised | Fault


@dataclass(frozen=True, slots=True)
class Call:
    """A call from its begin to its end; see `Begin` and `End`.

    Attributes:
        process: whose it is, by the name of its file.
    """

    process: str
    begun: Begin
    ended: End | None

    @property
    def begin(self) -> int:
        """When it began."""
        return self.begun.at

    @property
    def end(self) -> int | None:
        """When it ended; None: never."""
        return None if self.ended is None else self.ended.at

    @property
    def outcome(self) -> str:
        """How it ended."""
        return CUT_OFF if self.ended is None else self.ended.outcome

    @property
    def ok(self) -> bool:
        """Whether it was carried out and its caller knows."""
        return self.outcome == OK

    @property
    def result(self) -> End:
        """What it returned; for calls that ended."""
        assert self.ended is not None
        return self.ended

    @property
    def turn(self) -> tuple[str, int] | None:
        """The turn it is made in, or begins."""
        number = self.begun.n if self.begun.op is Op.ENTER else self.begun.turn
        return None if number is None else (self.process, number)

    def __str__(self) -> str:
        """Return one line for people."""
        begun = self.begun
        words = [f"{begun.at / 1e9:.4f}", begun.actor, begun.op.value, begun.session]
        words += [f"[{' '.join(begun.markers)}]"] if begun.markers else []
        words += [f"id={begun.id}"] if begun.id else []
        words += [f"turn={begun.turn}"] if begun.turn is not None else []
        words += [begun.detail] if begun.detail else []
        if self.ended is None:
            return f"{' '.join(words)} ... {CUT_OFF}"
        ended = self.ended
        words += [f"-> {ended.at / 1e9:.4f} {ended.outcome}"]
        for name in ("seq", "epoch", "fence", "duplicate", "torn", "detail"):
            value = getattr(ended, name)
            words += [f"{name}={value}"] if value else []
        words += [f"saw {len(ended.seen)}"] if ended.seen else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class History:
    """All that was recorded in one run.

    Attributes:
        calls: in the order in which they began.
        summaries: by their marker.
        faults: in the order in which they began.
    """

    calls: Sequence[Call] = ()
    summaries: dict[str, Summarised] = field(default_factory=dict[str, Summarised])
    faults: Sequence[Fault] = ()


class Recorder:
    """Writes one process's part of the history.

    Args:
        path: of its file, made if absent; the name without its end is the process's.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._encoder = msgspec.json.Encoder()
        self._numbers = 0

    def number(self) -> int:
        """Return the next number of a call."""
        self._numbers += 1
        return self._numbers

    def write(self, line: Line) -> None:
        """Write a line; when this returns, not even SIGKILL takes it back."""
        os.write(self._file, self._encoder.encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_history(directory: Path) -> History:
    """Put the files of a directory together.

    Raises:
        msgspec.MsgspecError: a line that is no line, other than a last one that was cut off.
    """
    calls: list[Call] = []
    summaries: dict[str, Summarised] = {}
    faults: list[Fault] = []
    for path in sorted(directory.glob("*.jsonl")):
        begun: dict[int, Begin] = {}
        for line in _lines(path):
            match line:
                case Begin():
                    begun[line.n] = line
                case End():
                    calls.append(Call(path.stem, begun.pop(line.n), line))
                case Summarised():
                    summaries[line.marker] = line
                case Fault():
                    faults.append(line)
        calls += [Call(path.stem, begin, None) for begin in begun.values()]
    calls.sort(key=lambda call: call.begin)
    faults.sort(key=lambda fault: fault.begin)
    return History(calls, summaries, faults)


def _lines(path: Path) -> Iterable[Line]:
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Line)
    *whole, torn = path.read_bytes().split(b"\n")
    for line in whole:
        yield decoder.decode(line)
    if torn:
        try:
            yield decoder.decode(torn)
        except msgspec.DecodeError:
            return  # its process was killed while it wrote
