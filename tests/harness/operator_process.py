"""The operator as a process of its own, with exactly the rights it ships with."""

import contextlib
import os
import re
import signal
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from tests.harness.administrator import Refused
from tests.harness.control_plane import ControlPlane
from tests.harness.forks import Call, Program
from tests.harness.tied_processes import TiedProcesses
from tests.harness.waiting import wait

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "crds"
RBAC = ROOT / "charts/holdfast/files/rbac"
HOME = "holdfast-system"
"""The namespace of the operator's ServiceAccount."""
ACCOUNT = "holdfast-operator"

_NAME = "operator"
_PORT = "--health-port"
_ENDED = "The operator has ended."


class OperatorProcess:
    """The operator on a control plane; its log is `operator.log` in the directory, over restarts.

    Args:
        plane: the control plane.
        directory: for the log, for this operator alone.
        arguments: more of the command line.
        elected: it waits for the leader's lease; else it is alone, and acts at once also after it was
            killed.
        kubeconfig: how it reaches the API server; absent: the control plane's own address.
        forked: from a process that has loaded its code, which saves a second of processor time; else it
            is a fresh interpreter, as it ships.
    """

    def __init__(
        self,
        plane: ControlPlane,
        directory: Path,
        *,
        arguments: Sequence[str] = (),
        elected: bool = False,
        kubeconfig: Path | None = None,
        forked: bool = False,
    ) -> None:
        self._directory = directory
        kubeconfig = kubeconfig or plane.kubeconfig_for(HOME, ACCOUNT)
        words = [
            f"--kubeconfig={kubeconfig}",
            f"--leader-election={str(elected).lower()}",
            # Ports are shared by everything on this machine.
            *([] if any(_PORT in argument for argument in arguments) else [f"{_PORT}=0"]),
            *arguments,
        ]
        command = [sys.executable, "-m", "holdfast_operator", *words]
        self._processes = (
            _Forked(directory, words) if forked else TiedProcesses(directory, {_NAME: command})
        )

    @property
    def log(self) -> str:
        """Everything the operator wrote so far."""
        path = self._directory / f"{_NAME}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self) -> None:
        """Start it; it is ready when it acts."""
        self._processes.start(_NAME)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._processes.kill(_NAME)

    def pause(self) -> None:
        """Stop it where it is, with SIGSTOP."""
        self._processes.signal(_NAME, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on."""
        self._processes.signal(_NAME, signal.SIGCONT)

    def terminate(self, *, deadline: float = 120) -> None:
        """End it as Kubernetes does, with SIGTERM, and wait until it has ended in order."""
        before = self.log.count(_ENDED)
        self._processes.signal(_NAME, signal.SIGTERM)
        self.wait_until_ended(deadline=deadline)
        assert self.log.count(_ENDED) == before + 1, self.tail()

    def wait_until_ended(self, *, deadline: float = 120) -> None:
        """Wait until it ended by itself."""
        wait(
            lambda: self._processes.ended() is not None,
            lambda: f"the operator ends:\n{self.tail()}",
            deadline=deadline,
            every=0.02,
        )

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._processes.pid(_NAME)

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended by itself."""
        return self._processes.ended() is None

    def stop(self) -> None:
        """End it for good, however it is."""
        self._processes.stop()

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.splitlines()[-lines:])

    def errors(self) -> list[str]:
        """The lines of the log that say ERROR or begin a traceback.

        An API server asks to be left alone for a moment where a definition is new, and Kopf, which comes back
        then, calls that an error.
        """
        return [
            line
            for line in self.log.splitlines()
            if re.search(r"\[ERROR|\"severity\": \"error\"|Traceback", line)
            and not re.search(r"will retry: .*TooManyRequests", line)
        ]


class _Forked:
    """As `TiedProcesses`, for an operator that is forked."""

    def __init__(self, directory: Path, words: Sequence[str]) -> None:
        self._log = directory / f"{_NAME}.log"
        self._call = Call(
            "holdfast_operator.__main__:main",
            [list(words)],
            load=["holdfast_operator.process"],
            environ={"PATH": os.defpath, "HOME": str(directory)},
            directory=str(directory),
        )
        self._running: dict[str, Program] = {}

    def start(self, name: str) -> None:
        self._running[name] = Program(self._call, self._log)

    def kill(self, name: str) -> None:
        program = self._running.pop(name)
        program.kill()
        program.wait()

    def signal(self, name: str, number: signal.Signals) -> None:
        self._running[name].send_signal(number)

    def pid(self, name: str) -> int:
        return self._running[name].pid

    def stop(self) -> None:
        for name in list(self._running):
            self.kill(name)

    def ended(self) -> str | None:
        return next((name for name, one in self._running.items() if one.poll() is not None), None)


def install(plane: ControlPlane) -> None:
    """Apply the definitions and what the operator may do in the whole cluster. Again is harmless."""
    with contextlib.suppress(Refused):
        plane.administrator.create_namespace(HOME)
    names = ("serviceaccount", "discovery", "operator", "leader", "users")
    for path in (*sorted(CRDS.glob("*.yaml")), *(RBAC / f"{name}.yaml" for name in names)):
        plane.administrator.apply(HOME, path.read_text(encoding="utf-8"))


def grant_secrets(plane: ControlPlane, namespace: str) -> None:
    """Let the operator read the Secrets of backends in a namespace."""
    text = (RBAC / "backend-secrets.yaml").read_text(encoding="utf-8")
    plane.administrator.apply(namespace, text)


@contextlib.contextmanager
def running_operator(
    plane: ControlPlane, directory: Path, *, arguments: Sequence[str] = (), forked: bool = False
) -> Generator[OperatorProcess]:
    """Install and run the operator; it ends with the block. `forked`: as `OperatorProcess` says."""
    install(plane)
    directory.mkdir(parents=True, exist_ok=True)
    operator = OperatorProcess(plane, directory, arguments=arguments, forked=forked)
    operator.start()
    try:
        yield operator
    finally:
        operator.stop()


@contextlib.contextmanager
def serving_operator(
    plane: ControlPlane, directory: Path, *, arguments: Sequence[str] = ()
) -> Generator[OperatorProcess]:
    """Run a forked operator for the tests of a module; no bug may have shown in its log by the end.

    None of our objects is left to the next module's operator, which would look at each of them again and
    again, also where their servers are gone.
    """
    try:
        with running_operator(plane, directory, arguments=arguments, forked=True) as operator:
            yield operator
            assert not [line for line in operator.errors() if "Traceback" in line], operator.tail()
    finally:
        plane.administrator.clear()
