"""`holdfast-operator`: run the operator.

Every option has an environment variable, for a Deployment: HOLDFAST_OPERATOR_NAMESPACES (separated by
commas), KUBECONFIG, HOLDFAST_OPERATOR_CLUSTER_ID, HOLDFAST_OPERATOR_INTERVAL, HOLDFAST_OPERATOR_LOG_FORMAT,
HOLDFAST_OPERATOR_ABANDON_AFTER, HOLDFAST_OPERATOR_WEBHOOK_CERTIFICATE_SECRET,
HOLDFAST_OPERATOR_WEBHOOK_CONFIGURATION, HOLDFAST_OPERATOR_WEBHOOK_SERVICE,
HOLDFAST_OPERATOR_WEBHOOK_LIFETIME,
HOLDFAST_OPERATOR_LEADER_ELECTION, HOLDFAST_OPERATOR_LEADER_NAMESPACE, HOLDFAST_OPERATOR_LEASE_DURATION,
HOLDFAST_OPERATOR_RENEW_DEADLINE, HOLDFAST_OPERATOR_RETRY_PERIOD and HOLDFAST_OPERATOR_HEALTH_PORT.
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from holdfast_operator.process import Options
    from holdfast_operator.webhook import Webhook

_log: Final = logging.getLogger("holdfast.operator")
_FORMATS: Final = ("text", "json")
_SWITCH: Final = {"true": True, "false": False}
_EXTRA: Final = frozenset({"kopf", "kubernetes", "aiohttp", "prometheus_client", "cryptography"})


def parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    """Return the parser of the command line, with defaults from the environment."""
    prefix = "HOLDFAST_OPERATOR_"
    named = [name.strip() for name in environ.get(f"{prefix}NAMESPACES", "").split(",")]
    parser = argparse.ArgumentParser(
        prog="holdfast-operator",
        description="The Holdfast operator. Every option has an environment variable, HOLDFAST_OPERATOR_ and "
        "its name; for --namespace it is HOLDFAST_OPERATOR_NAMESPACES, separated by commas.",
    )
    parser.add_argument(
        "--namespace",
        action="append",
        metavar="NAME",
        help="serve only this namespace; may be given several times (default: all)",
    )
    parser.set_defaults(namespaces=[name for name in named if name])
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="how to reach the API server (default: KUBECONFIG, the pod's ServiceAccount, ~/.kube/config)",
    )
    parser.add_argument(
        "--cluster-id",
        metavar="TEXT",
        default=environ.get(f"{prefix}CLUSTER_ID") or None,
        help="tells this cluster from others that use the same server (default: the uid of kube-system)",
    )
    parser.add_argument(
        "--interval",
        type=float,
        metavar="SECONDS",
        default=environ.get(f"{prefix}INTERVAL") or "60",
        help="time between looks at an object at rest, 1 to 3600 (default: 60)",
    )
    parser.add_argument(
        "--abandon-after",
        type=float,
        metavar="SECONDS",
        default=environ.get(f"{prefix}ABANDON_AFTER") or "120",
        help="how long the deletion of a namespace waits for a server that does not answer; after that its "
        "sessions are left to expire, 1 to 86400 (default: 120)",
    )
    parser.add_argument(
        "--log-format",
        choices=_FORMATS,
        default=environ.get(f"{prefix}LOG_FORMAT") or "text",
        help="default: text",
    )
    parser.add_argument(
        "--health-port",
        type=int,
        metavar="PORT",
        default=environ.get(f"{prefix}HEALTH_PORT") or None,
        help="port of /healthz, /readyz and /metrics; 0 for none (default: 8080 if it is free)",
    )
    _add_leadership(parser, environ, prefix)
    _add_webhook(parser, environ, prefix)
    return parser


def _add_leadership(
    parser: argparse.ArgumentParser, environ: Mapping[str, str], prefix: str
) -> None:
    group = parser.add_argument_group("leadership", "only one of several operators acts at a time")
    group.add_argument(
        "--leader-election",
        choices=tuple(_SWITCH),
        default=environ.get(f"{prefix}LEADER_ELECTION") or "true",
        help="false only if this operator is the only one (default: true)",
    )
    group.add_argument(
        "--leader-namespace",
        metavar="NAME",
        default=environ.get(f"{prefix}LEADER_NAMESPACE") or None,
        help="where the lease is (default: the pod's own namespace, else holdfast-system)",
    )
    for option, standard, meaning in (
        ("lease-duration", "12", "how long the lease of a silent leader lasts; a whole number"),
        ("renew-deadline", "8", "a leader that could not renew the lease for this long ends"),
        ("retry-period", "2", "time between renewals"),
    ):
        group.add_argument(
            f"--{option}",
            type=float,
            metavar="SECONDS",
            default=environ.get(f"{prefix}{option.upper().replace('-', '_')}") or standard,
            help=f"{meaning} (default: {standard})",
        )


def _add_webhook(parser: argparse.ArgumentParser, environ: Mapping[str, str], prefix: str) -> None:
    group = parser.add_argument_group(
        "webhook", "the operator makes and renews its certificate if all three names are given"
    )
    for option, meaning in (
        ("webhook-certificate-secret", "Secret with the certificate, in the operator's namespace"),
        ("webhook-configuration", "MutatingWebhookConfiguration that is to trust it"),
        ("webhook-service", "Service of the webhook, in the operator's namespace"),
    ):
        group.add_argument(
            f"--{option}",
            metavar="NAME",
            default=environ.get(f"{prefix}{option.upper().replace('-', '_')}") or None,
            help=meaning,
        )
    group.add_argument(
        "--webhook-lifetime",
        type=float,
        metavar="SECONDS",
        default=environ.get(f"{prefix}WEBHOOK_LIFETIME") or "7776000",
        help="lifetime of that certificate, renewed after two thirds, 60 to 315360000 (default: 90 days)",
    )


def _webhook(found: argparse.Namespace, reader: argparse.ArgumentParser) -> "Webhook | None":
    from holdfast_operator.webhook import Webhook  # noqa: PLC0415 - as the other parts of the program

    named = (found.webhook_certificate_secret, found.webhook_configuration, found.webhook_service)
    if not any(named):
        return None
    if not all(named):
        reader.error(
            "--webhook-certificate-secret, --webhook-configuration and --webhook-service go together"
        )
    if not 60 <= found.webhook_lifetime <= 315_360_000:
        reader.error("--webhook-lifetime is not between 60 and 315360000 seconds")
    return Webhook(*named, lifetime=found.webhook_lifetime)


def options(arguments: Sequence[str] | None, environ: Mapping[str, str]) -> "Options":
    """Read the command line; exits with a sentence on a wrong one."""
    reader = parser(environ)
    found = reader.parse_args(arguments)
    # Only now, so that --help answers at once, and without the packages of the extra.
    from holdfast_operator.leadership import Times  # noqa: PLC0415 - as said
    from holdfast_operator.process import Options  # noqa: PLC0415 - as said

    if not 1 <= found.interval <= 3600:
        reader.error("--interval is not between 1 and 3600 seconds")
    if not 1 <= found.abandon_after <= 86400:
        reader.error("--abandon-after is not between 1 and 86400 seconds")
    if found.log_format not in _FORMATS:  # argparse does not look at defaults
        reader.error("--log-format is neither text nor json")
    if found.leader_election not in _SWITCH:
        reader.error("--leader-election is neither true nor false")
    if found.health_port is not None and not 0 <= found.health_port <= 65535:
        reader.error("--health-port is not between 0 and 65535")
    request = min(3.0, found.renew_deadline * 3 / 8)
    times = Times(found.lease_duration, found.renew_deadline, found.retry_period, request)
    fault = times.fault()
    if fault is not None:
        reader.error(f"the times of the lease cannot be used: {fault}")
    return Options(
        namespaces=tuple(found.namespace or found.namespaces),
        kubeconfig=found.kubeconfig,
        cluster_id=found.cluster_id,
        interval=found.interval,
        abandon_after=found.abandon_after,
        json_logs=found.log_format == "json",
        election=_SWITCH[found.leader_election],
        leader_namespace=found.leader_namespace,
        times=times,
        health_port=found.health_port,
        webhook=_webhook(found, reader),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the operator until SIGTERM. Returns 1 when it cannot start."""
    try:
        chosen = options(arguments, os.environ)
        from holdfast_operator.process import configure_logs, serve  # noqa: PLC0415 - as the other parts
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write("the operator needs more packages: pip install 'holdfast[operator]'\n")
        return 1
    from holdfast_operator.services.ports import ClusterError  # noqa: PLC0415 - as above

    configure_logs(chosen)
    try:
        asyncio.run(serve(chosen))
    except ClusterError as error:
        _log.error("%s", error)
        return 1
    except Exception:  # noqa: BLE001 - the last one to see it: a log of JSON lines stays one
        _log.exception("unexpected: the operator ends")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
