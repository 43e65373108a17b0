"""`holdfast-webhook`: run the webhook.

Every option has an environment variable, for a Deployment: HOLDFAST_WEBHOOK_LISTEN, _STATUS, _CERTIFICATES,
_SETTINGS, _LINGER and _LOG_FORMAT.
"""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from holdfast_webhook.server import Options

_log: Final = logging.getLogger("holdfast.webhook")
_EXTRA: Final = frozenset(
    {"uvicorn", "starlette", "uvloop", "httptools", "prometheus_client", "cryptography"}
)
_FORMATS: Final = ("text", "json")
_SEVERITIES: Final = {"WARNING": "warn", "CRITICAL": "fatal"}


class JsonLines(logging.Formatter):
    """One JSON object a line: `timestamp`, `severity`, `logger`, `message`, perhaps `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": _SEVERITIES.get(record.levelname, record.levelname.lower()),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return the parser of the command line, with defaults from the environment."""
    prefix = "HOLDFAST_WEBHOOK_"
    parser = argparse.ArgumentParser(
        prog="holdfast-webhook",
        description="Puts the Holdfast sidecar into pods that ask for it. Every option has an environment "
        "variable, HOLDFAST_WEBHOOK_ and its name.",
    )
    for option, metavar, standard, meaning in (
        ("listen", "[HOST]:PORT", ":9443", "address for the API server, with TLS"),
        (
            "status",
            "[HOST]:PORT",
            ":8081",
            "address of /healthz, /readyz and /metrics, without TLS",
        ),
        (
            "certificates",
            "DIR",
            "/certificates",
            "folder with tls.crt and tls.key; changes are picked up",
        ),
        (
            "settings",
            "FILE",
            "/etc/holdfast/injection.yaml",
            "file that says what is injected; changes are picked up",
        ),
        ("linger", "SECONDS", "5", "how long it goes on after SIGTERM, 0 to 300"),
        ("log-format", "text|json", "text", "of the log"),
    ):
        parser.add_argument(
            f"--{option}",
            metavar=metavar,
            default=environ.get(f"{prefix}{option.upper().replace('-', '_')}") or standard,
            help=f"{meaning} (default: {standard})",
        )
    return parser


def options(arguments: Sequence[str] | None, environ: Mapping[str, str]) -> "Options":
    """Read the command line; exits with a sentence on a wrong one."""
    reader = parser(environ)
    found = reader.parse_args(arguments)
    # Only now, so that --help answers at once, and without the packages of the extra.
    from holdfast_webhook.server import Address, Options  # noqa: PLC0415 - as said

    addresses: dict[str, Address] = {}
    for name in ("listen", "status"):
        try:
            addresses[name] = Address.of(getattr(found, name))
        except ValueError as error:
            reader.error(f"--{name}: {error}")
    try:
        linger = float(found.linger)
    except ValueError:
        linger = -1.0
    if not 0 <= linger <= 300:
        reader.error("--linger is not between 0 and 300 seconds")
    if found.log_format not in _FORMATS:
        reader.error("--log-format is neither text nor json")
    return Options(
        listen=addresses["listen"],
        status=addresses["status"],
        certificates=Path(found.certificates),
        settings=Path(found.settings),
        linger=linger,
        json_logs=found.log_format == "json",
    )


def configure_logs(*, json_lines: bool) -> None:
    """Set up the logs of the process."""
    handler = logging.StreamHandler()
    text = logging.Formatter("[%(asctime)s] %(name)-20.20s [%(levelname)-8.8s] %(message)s")
    handler.setFormatter(JsonLines() if json_lines else text)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the webhook until SIGTERM. Returns 1 when it cannot start."""
    # The first process of a container gets no signal that nobody handles, and loading takes a moment.
    signal.signal(signal.SIGTERM, _end)
    try:
        chosen = options(arguments, os.environ)
        import uvloop  # noqa: PLC0415 - of the extra

        from holdfast_webhook.server import NoPort, serve  # noqa: PLC0415 - as above
        from holdfast_webhook.settings import SettingsUnusable  # noqa: PLC0415 - as above
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("the webhook needs more packages: pip install 'holdfast[webhook]'\n")
        return 1
    configure_logs(json_lines=chosen.json_logs)
    try:
        uvloop.run(serve(chosen))
    except (SettingsUnusable, NoPort) as error:
        _log.error("%s", error)
        return 1
    return 0


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's
    """End before anything was begun."""
    sys.exit(0)


if __name__ == "__main__":
    sys.exit(main())
