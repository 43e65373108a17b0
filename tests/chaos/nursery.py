"""A process that has loaded the operator's code already and forks one whenever it is asked.

An operator that starts by itself spends more than a second on imports; these tests start hundreds. A fork
is a process of its own like any other: killed, it takes nothing else along.

Reads a JSON line from standard input, `{"arguments": [...], "log": "path"}`, forks, and writes the
new process's id. It ends with its standard input, and its children end with it.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from typing import NoReturn

import holdfast_operator.process  # noqa: F401 - loaded for the children
from tests.chaos import doomed_operator
from tests.chaos.doom import SIGNALS

_PDEATHSIG = 1


def main() -> None:
    """Fork until nobody asks any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    # What is said to a child before it listens is kept for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _live(order["arguments"], order["log"])
        sys.stdout.write(f"{child}\n")
        sys.stdout.flush()


def _live(arguments: list[str], log: str) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out, 1), (out, 2)):
        os.dup2(source, target)
    code = 70
    try:
        code = doomed_operator.main(arguments)
    except BaseException:  # noqa: BLE001 - the last to see it, and the parent's code is not to go on here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
