"""What the command line and the environment say."""

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from holdfast.errors import ConfigurationError

_SPAN: Final = re.compile("([1-9][0-9]{0,6})(ms|s|m)?")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, None: 1.0}
_LONGEST_DRAIN: Final = 10_000.0
"""Seconds; what an installation may ask for is below it, and a pod may have such a grace period."""
_FORMATS: Final = ("text", "json")


class Listen(NamedTuple):
    """Where to listen."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Options:
    """What a sidecar is told.

    Attributes:
        unix: path of the Unix socket of the data API.
        http: address of the data API, a loopback one.
        status: address of probes and metrics.
        memories: names of those that are served; empty: all of the binding's.
        drain: seconds that ending may take.
        url: of the store, where there is no binding.
        namespace: of the memories at the URL.
        policy: path of a manifest, for a store without an operator.
        root: of the bindings.
        pod: namespace, name and uid, as far as the downward API says them.
        log_format: `text` or `json`.
    """

    unix: Path | None = None
    http: Listen | None = None
    status: Listen | None = None
    memories: tuple[str, ...] = ()
    drain: float = 20.0
    url: str | None = None
    namespace: str | None = None
    policy: str | None = None
    root: str | None = None
    pod: tuple[str, ...] = ()
    log_format: str = "text"

    @property
    def holder(self) -> str | None:
        """How turns name their holder: the pod, and the beginning of its uid; None without a pod."""
        if not self.pod:
            return None
        *names, uid = self.pod
        return "/".join([*names, uid[:8]] if uid else names)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="holdfast-sidecar",
        description="Serve the memories of a binding over HTTP, to the containers of one pod. Every option "
        "has an environment variable, HOLDFAST_SIDECAR_ and its name.",
    )
    parser.add_argument("--unix", metavar="PATH", help="Unix socket of the data API")
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="loopback address of the data API (default: 127.0.0.1:7070 without --unix)",
    )
    parser.add_argument(
        "--status", metavar="HOST:PORT", help="address of /healthz, /readyz and /metrics"
    )
    parser.add_argument(
        "--memories", metavar="A,B", help="serve only these (default: all of the binding)"
    )
    parser.add_argument("--drain", metavar="20s", help="how long ending may take (default: 20s)")
    parser.add_argument("--url", help="address of a store, instead of a binding")
    parser.add_argument("--namespace", help="namespace of the memories at --url (default: local)")
    parser.add_argument(
        "--policy", metavar="FILE", help="manifest with the policy, if no operator writes one"
    )
    parser.add_argument("--log-format", choices=_FORMATS, help="default: text")
    return parser


def options(arguments: Sequence[str] | None, environ: Mapping[str, str]) -> Options:
    """Read the command line, and for what it leaves out the environment.

    Raises:
        ConfigurationError: a value cannot be, or nothing says where the memories are.
    """
    given = {name: value for name, value in vars(parser().parse_args(arguments)).items() if value}

    def of(name: str) -> str | None:
        return given.get(name) or environ.get(f"HOLDFAST_SIDECAR_{name.upper()}") or None

    unix, http, status = of("unix"), of("http"), of("status")
    if unix is None and http is None:
        http = "127.0.0.1:7070"
    names = tuple(name.strip() for name in (of("memories") or "").split(",") if name.strip())
    found = Options(
        unix=Path(unix) if unix is not None else None,
        http=read_loopback(http) if http is not None else None,
        status=_listen(status) if status is not None else None,
        memories=names,
        drain=_seconds(of("drain") or "20s"),
        url=of("url"),
        namespace=of("namespace"),
        policy=of("policy"),
        root=environ.get("SERVICE_BINDING_ROOT") or None,
        pod=_pod(environ),
        log_format=of("log_format") or "text",
    )
    _require_place(found)
    return found


def read_loopback(text: str) -> Listen:
    """Read the address of a data listener.

    Raises:
        ConfigurationError: it is no loopback address: whoever reaches it would have the memories.
    """
    found = _listen(text)
    try:
        inside = found.host == "localhost" or ip_address(found.host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise ConfigurationError(
            f"{text!r} is no loopback address: the data API is for the containers of one pod, so listen on "
            "127.0.0.1 or [::1]"
        )
    return found


def _listen(text: str) -> Listen:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigurationError(f"{text!r} is no address: write it as 127.0.0.1:7070")
    return Listen(host.removeprefix("[").removesuffix("]"), int(port))


def _seconds(text: str) -> float:
    match = _SPAN.fullmatch(text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0 < seconds <= _LONGEST_DRAIN:
        raise ConfigurationError(f"{text!r} is no time to drain: write it as 20s, at most 10000s")
    return seconds


def _pod(environ: Mapping[str, str]) -> tuple[str, ...]:
    namespace, name, uid = (
        environ.get(f"HOLDFAST_POD_{part}", "") for part in ("NAMESPACE", "NAME", "UID")
    )
    return (*filter(None, (namespace, name)), uid) if name else ()


def _require_place(found: Options) -> None:
    if found.url is None and found.root is None:
        raise ConfigurationError(
            "nothing says where the memories are: mount a binding and set SERVICE_BINDING_ROOT, or give "
            "--url"
        )
    if found.url is None and (found.namespace or found.policy):
        raise ConfigurationError(
            "--namespace and --policy go with --url: a binding says them itself"
        )
    if found.url is not None and not (found.memories or found.policy):
        raise ConfigurationError(
            "--url needs --memories, or --policy with a manifest: what to serve"
        )
