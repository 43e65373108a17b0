"""A real Kubernetes API for the tests: kube-apiserver and etcd, nothing else.

There is no controller manager, so nobody acts on objects: a deleted namespace stays Terminating,
owner references collect no garbage, and no ServiceAccount exists until a test creates it. A whole
node, with everything, is in `tests/harness/node`.
Tests share one control plane and take a namespace each.

    python -m tests.harness.control_plane build

puts the programs into the cache, or says where they already are.
"""

import argparse
import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec

from tests.harness import kubernetes_binaries
from tests.harness.administrator import Administrator
from tests.harness.certificates import CertificateAuthority, KeyPair, write_private_key
from tests.harness.control_plane_commands import (
    LOOPBACK,
    Place,
    api_server_command,
    etcd_command,
    kubelet_client_options,
    reserved_ports,
)
from tests.harness.kubernetes_binaries import ControlPlaneUnavailable, KubernetesBinaries
from tests.harness.tied_processes import LAZY_COLLECTOR, TiedProcesses

__all__ = ["ControlPlane", "ControlPlaneError", "ControlPlaneUnavailable", "KubectlError"]

_TOKEN_KEY = "service-accounts.key"


class ControlPlaneError(Exception):
    """A server ended or did not become ready in time; the message ends with its last log lines."""


class KubectlError(Exception):
    """kubectl ended with an error; `stderr` is what it said."""

    def __init__(self, arguments: Sequence[str], returncode: int, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)} ended with {returncode}: {stderr.strip()}")
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class _Connection:
    """How a client reaches the API server and believes it."""

    place: Place
    port: int
    authority: Path
    admin: KeyPair

    @property
    def url(self) -> str:
        return f"https://{self.place.address}:{self.port}"


class ControlPlane:
    """A running kube-apiserver with its etcd; made by `start`, ended by `stop` or a `with` block.

    Both servers end with this process, see `TiedProcesses`. All files, the two logs `etcd.log` and
    `kube-apiserver.log` among them, are in the directory given to `start`. Whoever has a certificate
    of `certificates` is believed by it.
    """

    def __init__(
        self,
        directory: Path,
        binaries: KubernetesBinaries,
        connection: _Connection,
        certificates: CertificateAuthority,
        commands: Mapping[str, list[str]],
    ) -> None:
        self._directory = directory
        self._binaries = binaries
        self._connection = connection
        self.certificates = certificates
        self._ports = contextlib.ExitStack()
        enter = connection.place.enter
        self._servers = TiedProcesses(
            directory, {name: [*enter, *command] for name, command in commands.items()}
        )
        self.administrator = Administrator(
            connection.port,
            host=connection.place.address,
            authority=connection.authority,
            certificate=connection.admin.certificate,
            key=connection.admin.key,
        )
        self.admin_kubeconfig = directory / "admin.kubeconfig"
        credentials = {
            "client-certificate-data": _base64(connection.admin.certificate),
            "client-key-data": _base64(connection.admin.key),
        }
        self._write_kubeconfig(self.admin_kubeconfig, credentials, "default")

    @classmethod
    def start(
        cls,
        directory: Path,
        *,
        binaries: KubernetesBinaries | None = None,
        place: Place = LOOPBACK,
        deadline: float = 120,
    ) -> Self:
        """Start both servers and wait until they answer, for at most `deadline` seconds.

        Args:
            directory: an empty one, or one to be made, for this control plane alone.
            binaries: the programs; absent: those that `kubernetes_binaries.ensure` gives.
            place: where it listens; absent: on 127.0.0.1.
            deadline: seconds. About 3 are usual; a busy machine may need many more.

        Raises:
            ControlPlaneUnavailable: there are no programs and they cannot be built.
            ControlPlaneError: a server ended or did not become ready.
        """
        programs = binaries or kubernetes_binaries.ensure()
        directory.mkdir(parents=True, exist_ok=True)
        ports = contextlib.ExitStack()
        api, etcd, peer = ports.enter_context(reserved_ports(3))
        authority = CertificateAuthority(directory, "holdfast-tests")
        connection = _Connection(
            place=place,
            port=api,
            authority=authority.certificate,
            admin=authority.client("admin", user="admin", groups=["system:masters"]),
        )
        hosts = [place.address, "localhost", "10.96.0.1", "kubernetes.default.svc"]
        serving = authority.server("kube-apiserver", hosts=hosts)
        tokens = directory / _TOKEN_KEY
        write_private_key(tokens, ec.generate_private_key(ec.SECP256R1()))
        commands = {
            "etcd": etcd_command(programs.etcd, directory / "etcd", etcd, peer),
            "kube-apiserver": api_server_command(
                programs.kube_apiserver,
                place,
                port=api,
                etcd_port=etcd,
                authority=authority.certificate,
                serving=serving,
                tokens=tokens,
            ),
        }
        if place.kubelets:
            commands["kube-apiserver"] += kubelet_client_options(authority)
        plane = cls(directory, programs, connection, authority, commands)
        plane._ports = ports
        try:
            # Both at once: the API server waits for etcd by itself.
            for name in commands:
                plane._servers.start(name)
            plane._wait_until_ready(deadline)
        except BaseException:
            plane.stop()
            raise
        return plane

    @property
    def kubectl_path(self) -> Path:
        """The kubectl of the same version as the API server."""
        return self._binaries.kubectl

    @property
    def url(self) -> str:
        """Where the API server listens: `https://<address>:<port>`. It survives a restart."""
        return self._connection.url

    @property
    def authority(self) -> Path:
        """The PEM file with the certificate authority that signed the API server's certificate."""
        return self._connection.authority

    @property
    def token_key(self) -> Path:
        """The PEM file with the key that signs the tokens of ServiceAccounts."""
        return self._directory / _TOKEN_KEY

    @property
    def kubectl_command(self) -> tuple[str, ...]:
        """What a command line of kubectl begins with, from wherever it is run."""
        return (*self._connection.place.enter, str(self._binaries.kubectl))

    def version(self) -> str:
        """The version that the API server reports, such as `v1.36.3`."""
        return json.loads(self.kubectl("get", "--raw", "/version"))["gitVersion"]

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,
        kubeconfig: Path | None = None,
    ) -> str:
        """Run kubectl as the administrator, or with another kubeconfig, and return its output.

        Args:
            arguments: what follows `kubectl` on a command line.
            input: text for standard input, for `-f -`.
            kubeconfig: who asks; absent: `admin_kubeconfig`.

        Raises:
            KubectlError: it ended with an error; a refusal of the API server is one too.
        """
        # A home of its own keeps the caller's settings and caches out, and ours out of there.
        environ = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self._directory),
            **LAZY_COLLECTOR,
        }
        config = str(kubeconfig or self.admin_kubeconfig)
        done = subprocess.run(
            [*self.kubectl_command, f"--kubeconfig={config}", *arguments],
            env=environ,
            input=input or "",
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise KubectlError(arguments, done.returncode, done.stderr)
        return done.stdout

    def apply(
        self, *manifests: str | Path, namespace: str | None = None, kubeconfig: Path | None = None
    ) -> str:
        """Apply manifests on the server side: a text (YAML or JSON), or the paths of files.

        A path may be a folder's. Server-side, because the annotation that a client-side apply
        leaves has no room for a large CustomResourceDefinition.

        Raises:
            KubectlError: as `kubectl`.
        """
        where = [] if namespace is None else [f"--namespace={namespace}"]
        paths = [f"--filename={one if isinstance(one, Path) else '-'}" for one in manifests]
        text = next((one for one in manifests if isinstance(one, str)), None)
        arguments = ("apply", "--server-side", "--force-conflicts", *where, *paths)
        return self.kubectl(*arguments, input=text, kubeconfig=kubeconfig)

    def namespace(self, prefix: str = "test") -> str:
        """Create a namespace with a new random name, `<prefix>-<8 hex digits>`, and return it.

        It has no ServiceAccount, `default` included: that one is made by the controller manager.
        """
        name = f"{prefix}-{secrets.token_hex(4)}"
        self.administrator.create_namespace(name)
        return name

    def kubeconfig_for(self, service_account_namespace: str, name: str) -> Path:
        """A kubeconfig for an existing ServiceAccount, with a token the API server issued for it.

        The token is valid for a day; the kubeconfig's namespace is the ServiceAccount's. Each call
        gives a new file. Raises `NoSuchObject` when there is no such ServiceAccount.
        """
        token = self.administrator.token(service_account_namespace, name, seconds=24 * 3600)
        unique = f"{service_account_namespace}.{name}.{secrets.token_hex(4)}.kubeconfig"
        path = self._directory / unique
        self._write_kubeconfig(path, {"token": token}, service_account_namespace)
        return path

    def restart_api_server(self, *, deadline: float = 120) -> None:
        """Kill the API server and start it again at the same address; etcd and its data stay.

        Every connection breaks, as in a crash. Raises `ControlPlaneError` when it does not come
        back within `deadline` seconds.
        """
        self._servers.kill("kube-apiserver")
        self._servers.start("kube-apiserver")
        self._wait_until_ready(deadline)

    def pause(self) -> None:
        """Stop the API server from answering: connections stay open, requests hang."""
        self._servers.signal("kube-apiserver", signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused API server go on, with what was sent to it meanwhile."""
        self._servers.signal("kube-apiserver", signal.SIGCONT)

    def stop(self) -> None:
        """End both servers and drop etcd's data; the logs stay. Again is harmless."""
        self.administrator.close()
        self._servers.stop()
        self._ports.close()
        shutil.rmtree(self._directory / "etcd", ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def kubeconfig_of(self, component: str, *, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for a part of the cluster, with a certificate that says who it is."""
        pair = self.certificates.client(component, user=user, groups=list(groups))
        path = self._directory / f"{component}.kubeconfig"
        credentials = {
            "client-certificate-data": _base64(pair.certificate),
            "client-key-data": _base64(pair.key),
        }
        self._write_kubeconfig(path, credentials, "default")
        return path

    def _write_kubeconfig(self, path: Path, user: Mapping[str, str], namespace: str) -> None:
        cluster = {
            "server": self._connection.url,
            "certificate-authority-data": _base64(self._connection.authority),
        }
        context = {"cluster": "tests", "user": "tests", "namespace": namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": user}],
            "contexts": [{"name": "tests", "context": context}],
            "current-context": "tests",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")

    def _answers(self, path: str) -> bool:
        if not self._connection.place.enter:
            return self.administrator.answers(path)
        try:
            self.kubectl("get", "--raw", path, "--request-timeout=5s")
        except KubectlError:
            return False
        return True

    def _wait_until_ready(self, deadline: float) -> None:
        end = time.monotonic() + deadline
        # The namespace is made after /readyz says yes, and clients take it for granted.
        for path in ("/readyz", "/api/v1/namespaces/default"):
            while not self._answers(path):
                if name := self._servers.ended():
                    raise ControlPlaneError(f"{name} ended:\n{self._servers.log_tail(name)}")
                if time.monotonic() > end:
                    raise ControlPlaneError(
                        f"kube-apiserver did not answer {path} within {deadline:g} s:\n"
                        + self._servers.log_tail("kube-apiserver")
                    )
                time.sleep(0.05)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def main() -> int:
    """`build`: make sure the programs are there, and print where."""
    parser = argparse.ArgumentParser(prog="python -m tests.harness.control_plane")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build what is missing and print where everything is")
    parser.parse_args()
    try:
        binaries = kubernetes_binaries.ensure()
    except ControlPlaneUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    for path in (binaries.kube_apiserver, binaries.etcd, binaries.kubectl):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
