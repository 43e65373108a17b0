"""The lease of the leader, in the API server: `coordination.k8s.io/v1`."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from holdfast_operator.leadership import Lease, LeaseHasNoPlace
from holdfast_operator.services.objects import mapping
from holdfast_operator.services.ports import Body, ClusterConflict
from holdfast_operator.storage.kubernetes import Kubernetes

_KIND: Final = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}


class Leases:
    """Reads and writes one lease.

    Args:
        kubernetes: with connections of its own, so that no other request keeps a renewal waiting.
        namespace: where the lease is.
        name: its name.
        now: the time of day, which is only shown to people.
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        namespace: str,
        name: str,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._kubernetes = kubernetes
        self._namespace = namespace
        self._name = name
        self._now = now

    async def read(self) -> Lease | None:
        """Return the lease; None when there is none.

        Raises:
            ClusterForbidden, ClusterUnavailable: as `Kubernetes.get`.
        """
        body = await self._kubernetes.get(f"{self._path}/{self._name}")
        return None if body is None else _read(body)

    async def write(self, lease: Lease) -> Lease:
        """Write the lease if it is as it was when it was read, and return what is stored.

        Raises:
            ClusterConflict: it changed meanwhile, or is gone; nothing was written.
            LeaseHasNoPlace: there is no such namespace.
            ClusterForbidden, ClusterUnavailable: as `Kubernetes.get`.
        """
        if lease.version:
            written = await self._kubernetes.replace(
                f"{self._path}/{self._name}", self._body(lease)
            )
            if written is None:
                raise ClusterConflict("the lease is gone")
        else:
            written = await self._kubernetes.create(self._path, self._body(lease))
            if written is None:
                raise LeaseHasNoPlace(
                    f"There is no namespace {self._namespace} for the leader's lease: create it, name "
                    "another one with --leader-namespace, or run a single operator with "
                    "--leader-election=false."
                )
        return _read(written)

    @property
    def _path(self) -> str:
        return f"/apis/coordination.k8s.io/v1/namespaces/{self._namespace}/leases"

    def _body(self, lease: Lease) -> Body:
        now = self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata: dict[str, str] = {"name": self._name, "namespace": self._namespace}
        if lease.version:
            metadata["resourceVersion"] = lease.version
        spec: dict[str, Any] = {
            "holderIdentity": lease.holder,
            "leaseDurationSeconds": int(lease.seconds),
            "leaseTransitions": lease.transitions,
            "acquireTime": lease.acquired or now,
            "renewTime": now,
        }
        return {**_KIND, "metadata": metadata, "spec": spec}


def _read(body: Body) -> Lease:
    spec: Mapping[str, Any] = mapping(body.get("spec"))
    return Lease(
        holder=str(spec.get("holderIdentity") or ""),
        seconds=float(spec.get("leaseDurationSeconds") or 0),
        transitions=int(spec.get("leaseTransitions") or 0),
        acquired=str(spec.get("acquireTime") or ""),
        version=str(mapping(body.get("metadata")).get("resourceVersion") or ""),
    )
