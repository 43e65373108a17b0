"""The command lines of the servers of a control plane, and where they listen."""

import contextlib
import secrets
import socket
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from tests.harness.certificates import CertificateAuthority, KeyPair

HOST = "127.0.0.1"
SERVICE_RANGE = "10.96.0.0/16"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the API server listens.

    Attributes:
        address: of this machine, or of the network namespace that `enter` leads into.
        enter: what stands before a command to run it there; empty: this process's own network.
        kubelets: it serves whole nodes: pods reach it at the Service `kubernetes`, and it reaches
            kubelets, which trust the same authority.
    """

    address: str = HOST
    enter: tuple[str, ...] = ()
    kubelets: bool = False


LOOPBACK = Place()


def etcd_command(program: Path, data: Path, port: int, peer_port: int) -> list[str]:
    """Etcd, reached on the loopback alone."""
    clients, peers = f"http://{HOST}:{port}", f"http://{HOST}:{peer_port}"
    return [
        str(program),
        "--name=tests",
        f"--data-dir={data}",
        f"--listen-client-urls={clients}",
        f"--advertise-client-urls={clients}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=tests={peers}",
        # The data lives as long as the run: a disk that is busy with builds must not slow it.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def api_server_command(
    program: Path,
    place: Place,
    *,
    port: int,
    etcd_port: int,
    authority: Path,
    serving: KeyPair,
    tokens: Path,
) -> list[str]:
    """The API server: its own port and etcd's, its certificate, the key of ServiceAccount tokens."""
    return [
        str(program),
        f"--etcd-servers=http://{HOST}:{etcd_port}",
        f"--bind-address={place.address}",
        f"--advertise-address={place.address}",
        # Without pods nobody resolves the Service `kubernetes`, and an Endpoints of 127.0.0.1 is not
        # allowed.
        *([] if place.kubelets else ["--endpoint-reconciler-type=none"]),
        f"--secure-port={port}",
        f"--tls-cert-file={serving.certificate}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority}",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={tokens}",
        f"--service-account-signing-key-file={tokens}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
    ]


def kubelet_client_options(authority: CertificateAuthority) -> list[str]:
    """What lets the API server ask kubelets for logs, and carry commands into pods."""
    pair = authority.client("kubelet-client", user="kube-apiserver", groups=[])
    return [
        f"--kubelet-client-certificate={pair.certificate}",
        f"--kubelet-client-key={pair.key}",
        f"--kubelet-certificate-authority={authority.certificate}",
        "--kubelet-preferred-address-types=InternalIP",
    ]


@contextlib.contextmanager
def reserved_ports(count: int) -> Generator[list[int]]:
    """Keep different ports of 127.0.0.1 for servers that may restart.

    From below the range the kernel takes for outgoing connections, so that none of them sits on
    the API server's port while it restarts. They stay bound: whoever else looks for a port like
    this finds another one, and programs in Go can listen on them all the same.
    """
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            port = 20_000 + secrets.randbelow(12_000)
            holder = held.enter_context(socket.socket())
            try:
                holder.bind((HOST, port))
            except OSError:
                holder.close()
                continue
            # Only now: two that have it from the beginning may bind the same port.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ports.append(port)
        yield ports
