"""The webhook as a process of its own, registered with the API server by its address."""

import re
import signal
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import ROOT
from tests.harness.tied_processes import TiedProcesses
from tests.harness.waiting import wait

INJECTION = ROOT / "charts/holdfast/files/injection"
CONFIGURATION = "holdfast-injection"
IMAGE = "registry.example/holdfast:1.2.3"
SETTINGS: dict[str, Any] = {"image": IMAGE, "imagePullSecrets": [{"name": "registry"}]}

_NAME = "webhook"
_ENDED = "The webhook has ended."
_LISTENS = re.compile(r"listens on \S+?:(\d+); its status on \S+?:(\d+)\.")


class WebhookProcess:
    """The webhook on free ports of 127.0.0.1; its log is `webhook.log` in the directory.

    Args:
        directory: for the log, the settings and the certificate: `certificates/tls.crt` and `tls.key`,
            written by the test.
    """

    def __init__(self, directory: Path, *, linger: float = 0) -> None:
        self._directory = directory
        self.ports = (0, 0)
        self.certificates = directory / "certificates"
        self.certificates.mkdir(parents=True, exist_ok=True)
        self.settings = directory / "injection.yaml"
        self.settings.write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "holdfast_webhook",
            "--listen=127.0.0.1:0",
            "--status=127.0.0.1:0",
            f"--certificates={self.certificates}",
            f"--settings={self.settings}",
            f"--linger={linger}",
        ]
        self._processes = TiedProcesses(directory, {_NAME: command})

    @property
    def log(self) -> str:
        """Everything it wrote so far."""
        path = self._directory / f"{_NAME}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def start(self, *, deadline: float = 120) -> tuple[int, int]:
        """Start it, and return the ports it listens on: for pods, and for its status."""
        before = len(_LISTENS.findall(self.log))
        self._processes.start(_NAME)

        def listens() -> bool:
            assert self._processes.ended() is None, self.log
            return len(_LISTENS.findall(self.log)) > before

        wait(listens, lambda: f"the webhook starts:\n{self.log}", deadline=deadline, every=0.02)
        ports = _LISTENS.findall(self.log)[-1]
        self.ports = (int(ports[0]), int(ports[1]))
        return self.ports

    def terminate(self) -> None:
        """Send SIGTERM, and return at once."""
        self._processes.signal(_NAME, signal.SIGTERM)

    def wait_until_ended(self, *, deadline: float = 120) -> None:
        """Wait until it ended in order."""
        wait(
            lambda: self._processes.ended() is not None,
            lambda: f"the webhook ends:\n{self.log}",
            deadline=deadline,
            every=0.02,
        )
        assert _ENDED in self.log, self.log
        self._processes.kill(_NAME)  # takes it off the list of those that run

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._processes.kill(_NAME)

    def stop(self) -> None:
        """End it for good, however it is."""
        self._processes.stop()


def configuration(port: int, authority: str | None, *, label: str = "") -> dict[str, Any]:
    """Return the configuration of the chart, with an address instead of the Service.

    Args:
        port: of the webhook on 127.0.0.1.
        authority: the caBundle, base64; None leaves it to the operator.
        label: restricts it to namespaces that carry this label, so that tests do not meet.
    """
    text = (INJECTION / "webhook.yaml").read_text(encoding="utf-8")
    body: dict[str, Any] = yaml.safe_load(text)
    [webhook] = body["webhooks"]
    webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}/mutate-pods"}
    if authority is not None:
        webhook["clientConfig"]["caBundle"] = authority
    if label:
        expression = {"key": label, "operator": "Exists"}
        webhook["namespaceSelector"]["matchExpressions"].append(expression)
    return body


def unregister(plane: ControlPlane) -> None:
    """Take the configuration away: pods are created without a question again."""
    plane.kubectl("delete", "mutatingwebhookconfiguration", CONFIGURATION, "--ignore-not-found")
