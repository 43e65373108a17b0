"""Holdfast installed with Helm on the cluster of the run, and a server for its memories."""

import contextlib
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e import manifests
from tests.harness import helm as helms
from tests.harness.helm import Helm
from tests.harness.node.cluster import Cluster, Namespace
from tests.harness.waiting import wait

HOME = "holdfast-system"
PLATFORM = "platform"


def helm_command(cluster: Cluster) -> list[str]:
    """What a command line of Helm begins with: a node is not to be seen from this machine's network."""
    program = str(helms.ensure())
    return [program] if cluster.node is None else [*cluster.node.network, program]


def helm_for(cluster: Cluster, directory: Path) -> Helm:
    """Helm as it reaches the cluster."""
    wrapper = directory / "helm"
    command = shlex.join(helm_command(cluster))
    wrapper.write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
    wrapper.chmod(0o755)
    return Helm(cluster.kubeconfig, program=wrapper)


def values(cluster: Cluster, **more: Any) -> dict[str, Any]:
    """The values of the stories: everything as the chart has it, but quick to look, in any namespace."""
    repository, _, tag = cluster.images.holdfast.rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag},
        "rbac": {"secrets": "cluster"},
        "operator": {"interval": 5, "abandonAfter": 20},
        **more,
    }


class Record(NamedTuple):
    """A stored message, and its place in the log."""

    seq: int
    item: Any


@dataclass(frozen=True, slots=True)
class Product:
    """An installed Holdfast."""

    cluster: Cluster
    helm: Helm
    home: Namespace
    platform: Namespace

    @classmethod
    def install(cls, cluster: Cluster, directory: Path) -> "Product":
        """Install the chart, and a Valkey in the namespace `platform`, and wait until both serve."""
        product = cls(
            cluster,
            helm_for(cluster, directory),
            cluster.make_namespace(HOME, manifests.RESTRICTED),
            cluster.make_namespace(PLATFORM, manifests.RESTRICTED),
        )
        product.platform.apply(manifests.valkey(cluster.images))
        product.helm.install(values(cluster), "--wait", "--timeout=5m")
        tools = manifests.agent(cluster.images, "idle", account="default")
        product.platform.apply(
            [manifests.programs(), manifests.deployment("tools", tools, strategy="Recreate")]
        )
        product.platform.rolled_out("deploy/valkey")
        product.platform.rolled_out("deploy/tools")
        product.platform.apply(manifests.backend())
        product.platform.ready("membackend/shared")
        return product

    @property
    def helm_command(self) -> list[str]:
        """What a command line of Helm begins with."""
        return helm_command(self.cluster)

    def remove(self) -> None:
        """Take everything of it out of a cluster that stays, except the definitions.

        Whoever uses it goes first, then the server, and the operator, which lets them go, last.
        """
        self.cluster.delete_namespaces(HOME, PLATFORM)
        self.cluster.delete_namespaces(HOME)
        self.helm.uninstall("--wait")
        self.cluster.delete_namespaces()

    def team(self, prefix: str = "team") -> Namespace:
        """A namespace of a team, with the programs of its agents."""
        team = self.cluster.namespace(prefix, manifests.RESTRICTED)
        team.apply(manifests.programs())
        return team

    def redis(self, *command: str, login: tuple[str, str] = ("default", manifests.PASSWORD)) -> str:
        """Run a command on the server and return its answer as JSON.

        Args:
            command: and its arguments.
            login: user and password; absent: the administrator's.

        Raises:
            KubectlError: the server refused; its word is in the message.
        """
        script = ("exec", "deploy/tools", "--", "python", "/programs/redis_command.py")
        return self.platform.kubectl(*script, manifests.SERVER, *login, *command).strip()

    def credentials(self, team: Namespace, binding: str) -> tuple[str, str]:
        """User and password of a binding, as whoever may read its Secret has them."""
        data = team.get(f"secret/{binding}-holdfast")["data"]
        return manifests.decoded(data["username"]), manifests.decoded(data["password"])

    def records(self, team: Namespace, memory: str, session: str) -> list[Record]:
        """What is stored of a session, oldest first, as an administrator finds it."""
        key = f"mem:{{{team.name}/{memory}/{session}}}:log"
        stored = json.loads(self.redis("LRANGE", key, "0", "-1"))
        return [Record(seq=record[2], item=record[-1]) for record in map(json.loads, stored)]

    def restart_redis(self) -> None:
        """End the server's process; its container comes back with its data."""
        before = self._redis_restarts()
        with contextlib.suppress(Exception):
            self.redis("SHUTDOWN", "NOSAVE")
        wait(lambda: self._redis_restarts() > before, "the server has restarted")

    def operators(self) -> list[str]:
        """The names of the operator's pods."""
        pods = self.home.pods("app.kubernetes.io/component=operator")
        return [pod["metadata"]["name"] for pod in pods]

    def kill_operators(self) -> None:
        """End all pods of the operator at once, with no time for goodbyes."""
        for name in self.operators():
            self.home.kill(name)

    def _redis_restarts(self) -> int:
        (pod,) = self.platform.pods("app=valkey")
        return pod["status"]["containerStatuses"][0]["restartCount"]
