"""What a process wrote is read again, also when it was killed while it wrote."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.verify.history import (
    CUT_OFF,
    OK,
    Begin,
    End,
    Fault,
    Op,
    Recorder,
    Summarised,
    read_history,
)

BEGIN = Begin(1, 100, "w0/0", "plain/a", Op.APPEND, markers=("w0.1.0",), id="i", turn=7)
END = End(1, 200, OK, seq=3, epoch=5, duplicate=True, seen=((3, "w0.1.0"),))


def test_calls_are_put_together(tmp_path: Path) -> None:
    with Recorder(tmp_path / "w0.jsonl") as one, Recorder(tmp_path / "w1.jsonl") as other:
        one.write(BEGIN)
        other.write(msgspec.structs.replace(BEGIN, at=50, turn=None))
        other.write(Summarised("s1", ("a", "b"), ("s0",)))
        one.write(END)
    with Recorder(tmp_path / "faults.jsonl") as faults:
        faults.write(Fault("server killed", "server", 10, 20, loses=True))
    history = read_history(tmp_path)
    first, second = history.calls
    assert (first.process, first.outcome, first.end, first.ok) == ("w1", CUT_OFF, None, False)
    assert (second.process, second.begun, second.ended) == ("w0", BEGIN, END)
    assert (first.turn, second.turn) == (None, ("w0", 7))
    assert history.summaries == {"s1": Summarised("s1", ("a", "b"), ("s0",))}
    assert history.faults == [Fault("server killed", "server", 10, 20, loses=True)]
    assert str(second).endswith("turn=7 -> 0.0000 ok seq=3 epoch=5 duplicate=True saw 1")
    assert str(first).endswith("... cut off")


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    with Recorder(path) as recorder:
        recorder.write(BEGIN)
        recorder.write(END)
    path.write_bytes(path.read_bytes()[:-20])
    [call] = read_history(tmp_path).calls
    assert call.outcome == CUT_OFF


def test_a_line_in_the_middle_that_is_none_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w0.jsonl"
    with Recorder(path) as recorder:
        recorder.write(BEGIN)
    path.write_bytes(b'{"type":\n' + path.read_bytes())
    with pytest.raises(msgspec.DecodeError):
        read_history(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.verify.history import Begin, Op, Recorder
recorder = Recorder(Path(sys.argv[1]))
for number in range(1000):
    recorder.write(Begin(recorder.number(), number, "w0/0", "plain/a", Op.APPEND))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_written_survives_a_kill(tmp_path: Path) -> None:
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "w0.jsonl")]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [call.begun.n for call in read_history(tmp_path).calls] == list(range(1, 1001))
