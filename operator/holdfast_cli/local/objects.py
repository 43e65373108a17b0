"""The objects of local mode, as an API server would keep them."""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from holdfast_cli.local.manifests import API_VERSION, BACKEND, ERASURE, RESOURCE, Key, Manifest
from holdfast_cli.local.server import ServerAddress
from holdfast_operator.services.conditions import timestamp
from holdfast_operator.services.objects import backend_ref, mapping
from holdfast_operator.services.ports import Body, Clock, ConfigMap, Namespace, Secret
from holdfast_operator.services.servers import OFFER
from holdfast_operator.status import Status

_LOGIN: Final = "local-mode"
_TOLD: Final = ("labels", "annotations")
OF_ANY_SERVER: Final = ("keyPrefix", "tenants", "durability")
"""What a backend's spec says that holds for any server; the rest is about where it is."""


@dataclass(slots=True)
class Edits:
    """What applying manifests changed.

    Attributes:
        added: objects that are new.
        edited: objects whose spec changed, with the spec as it was.
        removed: objects that are being deleted from now on.
    """

    added: list[Key] = field(default_factory=list[Key])
    edited: list[tuple[Key, Mapping[str, Any]]] = field(
        default_factory=list[tuple[Key, Mapping[str, Any]]]
    )
    removed: list[Key] = field(default_factory=list[Key])


class Objects:
    """Every object there is, with uid, generation and status. Answers what a cluster answers.

    Every MemoryBackend is the one server. One that no manifest declares is made as soon as a memory
    names it, and any lives as long as a memory does.

    Args:
        cluster: id of the cluster this stands for; uids follow from it, the object's path, and when
            it was made. A namespace has no beginning, so it is the same in every run.
        server: the one server.
        clock: for the times in metadata.
        stored: objects of an earlier run.
    """

    def __init__(
        self, cluster: str, server: ServerAddress, clock: Clock, stored: Iterable[Body] = ()
    ) -> None:
        self._cluster = cluster
        self._server = server
        self._clock = clock
        self._bodies: dict[Key, dict[str, Any]] = {}
        for body in stored:
            name = body["metadata"]
            key = Key(body["kind"], name["namespace"], name["name"])
            self._bodies[key] = dict(body)
            if key.kind == BACKEND and "status" in body:
                # Whoever starts anew with another server, or without the data, means to.
                status = {part: said for part, said in body["status"].items() if part != "server"}
                self._bodies[key]["status"] = status

    def names(self) -> list[Key]:
        """Return all keys, backends first: memories depend on them."""
        return sorted(self._bodies)

    def get(self, key: Key) -> Body | None:
        """Return an object."""
        return self._bodies.get(key)

    def bodies(self) -> Mapping[Key, Body]:
        """Return all objects."""
        return dict(self._bodies)

    def lasting(self) -> Mapping[Key, Body]:
        """Return the objects that are not on their way out."""
        return {key: body for key, body in self._bodies.items() if not self.is_deleting(key)}

    def is_deleting(self, key: Key) -> bool:
        """Whether an object is on its way out."""
        return "deletionTimestamp" in self._bodies[key]["metadata"]

    def apply(self, manifests: Mapping[Key, Manifest]) -> Edits:
        """Make the objects what the manifests say: as `kubectl apply`, and `delete` for the rest.

        What is being deleted can be edited, and stays on its way out: apply again when it is gone.
        """
        edits = Edits()
        for kind in (RESOURCE, ERASURE):
            wanted = {key for key in manifests if key.kind == kind}
            for key in sorted(wanted):
                self._put(key, manifests[key].body["spec"], manifests[key].body, edits)
            self._delete_others(kind, wanted, edits)
        backends = self._named_backends() | {key for key in manifests if key.kind == BACKEND}
        for key in sorted(backends):
            source = manifests[key].body if key in manifests else self._bodies.get(key, {})
            self._put(key, self._local_spec(mapping(source.get("spec"))), source, edits)
        self._delete_others(BACKEND, backends, edits)
        return edits

    def put_status(self, key: Key, status: Status) -> bool:
        """Set an object's status; False if it is the same."""
        shown = status.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self._bodies[key].get("status") == shown:
            return False
        self._bodies[key] = {**self._bodies[key], "status": shown}
        return True

    def drop(self, key: Key) -> None:
        """Forget an object whose deletion is done."""
        del self._bodies[key]

    def watches(self, namespace: str) -> bool:
        """Every namespace is seen; see `Cluster.watches`."""
        return bool(namespace)

    def backend(self, namespace: str, name: str) -> Body | None:
        """Return a MemoryBackend; see `Cluster.backend`."""
        return self._bodies.get(Key(BACKEND, namespace, name))

    def resource(self, namespace: str, name: str) -> Body | None:
        """Return a MemoryResource; see `Cluster.resource`."""
        return self._bodies.get(Key(RESOURCE, namespace, name))

    def binding(self, namespace: str, name: str) -> Body | None:  # noqa: ARG002 - none are in force
        """Return a MemoryBinding; see `Cluster.binding`."""
        return None

    def resources_on(self, namespace: str, name: str) -> Sequence[Body]:
        """Return the memories on a backend; see `Cluster.resources_on`."""
        return [
            body
            for key, body in self._bodies.items()
            if key.kind == RESOURCE and backend_ref(body) == (namespace, name)
        ]

    def erasures_of(self, memory: Key) -> Sequence[Key]:
        """Return the keys of the MemoryErasures that name a memory."""
        return [
            key
            for key, body in self._bodies.items()
            if key.kind == ERASURE
            and key.namespace == memory.namespace
            and body["spec"]["memoryRef"]["name"] == memory.name
        ]

    def memories(self) -> Sequence[Body]:
        """Return every memory; see `Cluster.memories`."""
        return [body for key, body in self._bodies.items() if key.kind == RESOURCE]

    async def namespace(self, name: str, *, newest: bool = False) -> Namespace | None:  # noqa: ARG002 - as asked
        """Return a namespace: whichever is asked for is there; see `Cluster.namespace`."""
        return Namespace(name, self._uid(f"Namespace/{name}"))

    async def secret(self, namespace: str, name: str) -> Secret | None:
        """Return the Secret that names the server's user; see `Cluster.secret`."""
        if name != _LOGIN or not namespace:
            return None
        label, value = OFFER
        data = {
            "username": self._server.username.encode(),
            "password": self._server.password.encode(),
        }
        return Secret(name, version="1", labels={label: value}, data=data)

    async def config_map(self, namespace: str, name: str) -> ConfigMap | None:  # noqa: ARG002 - as asked
        """Return nothing: no local backend refers to one; see `Cluster.config_map`."""
        return None

    async def cluster_id(self) -> str:
        """Return the id of the cluster this stands for; see `Cluster.cluster_id`."""
        return self._cluster

    def _put(self, key: Key, spec: Mapping[str, Any], source: Body, edits: Edits) -> None:
        """Make an object, or edit it; labels and annotations are the source's."""
        metadata = mapping(source.get("metadata"))
        told = {name: metadata[name] for name in _TOLD if name in metadata}
        old = self._bodies.get(key)
        if old is None:
            now = self._clock.now()
            made = {
                "name": key.name,
                "namespace": key.namespace,
                # As in a cluster, one that was deleted and is made again is another object.
                "uid": self._uid("/".join((*key, now.isoformat()))),
                "generation": 1,
                "creationTimestamp": timestamp(now),
            }
            head = {"apiVersion": API_VERSION, "kind": key.kind, "metadata": made | told}
            self._bodies[key] = head | {"spec": dict(spec)}
            edits.added.append(key)
            return
        kept = {name: value for name, value in old["metadata"].items() if name not in _TOLD}
        if old["spec"] != spec:
            kept["generation"] += 1
            edits.edited.append((key, old["spec"]))
        self._bodies[key] = {**old, "metadata": kept | told, "spec": dict(spec)}

    def _delete_others(self, kind: str, wanted: Collection[Key], edits: Edits) -> None:
        """Set all other objects of a kind on their way out."""
        for key, body in self._bodies.items():
            if key.kind == kind and key not in wanted and not self.is_deleting(key):
                stamp = {"deletionTimestamp": timestamp(self._clock.now())}
                self._bodies[key] = {**body, "metadata": body["metadata"] | stamp}
                edits.removed.append(key)

    def _named_backends(self) -> set[Key]:
        refs = (backend_ref(body) for key, body in self._bodies.items() if key.kind == RESOURCE)
        return {Key(BACKEND, *ref) for ref in refs if ref is not None}

    def _local_spec(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return the spec of a backend that is the one server, for whoever names it."""
        login = {"authRef": {"name": _LOGIN}} if self._server.password else {}
        return {
            **{name: spec[name] for name in OF_ANY_SERVER if name in spec},
            **login,
            "endpoints": [self._server.endpoint],
            "database": self._server.database,
            "allowedNamespaces": {"from": "All"},
        }

    def _uid(self, path: str) -> str:
        return str(uuid.uuid5(uuid.UUID(self._cluster), path))
