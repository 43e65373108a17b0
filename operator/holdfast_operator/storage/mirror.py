"""What the watches have seen last, and what depends on what."""

from collections import defaultdict
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, cast

from holdfast_operator.services.objects import backend_ref, mapping, memory_ref, memory_refs
from holdfast_operator.services.ports import Body, Namespace


class Kind(StrEnum):
    """Our kinds, by the names they have in paths."""

    BACKEND = "memorybackends"
    RESOURCE = "memoryresources"
    BINDING = "memorybindings"
    ERASURE = "memoryerasures"


class Key(NamedTuple):
    """Names an object of our kinds."""

    kind: Kind
    namespace: str
    name: str


class Mirror:
    """The newest state of every object that is watched.

    What we wrote ourselves counts as seen, so that nobody decides on a status that is older than
    the last decision.
    """

    def __init__(self) -> None:
        self._bodies: dict[Key, Body] = {}
        self._refs: dict[Key, tuple[Key, ...]] = {}
        self._dependants: defaultdict[Key, set[Key]] = defaultdict(set)
        self._namespaces: dict[str, tuple[int, Namespace]] = {}

    def put(self, key: Key, body: Body) -> bool:
        """Take in an object; False if this state or a newer one was here already.

        Who wrote which field is taken out of it, for everybody who holds it: Kopf keeps each object as long
        as it lives, and that part is as large as the rest.
        """
        _slim(body)
        known = self._bodies.get(key)
        # Versions are those of the whole cluster: they also tell an object from an earlier one of its name.
        if known is not None and version_of(known) >= version_of(body):
            if version_of(known) == version_of(body):
                # What we wrote comes back by the watch, and Kopf keeps that one: no object is held twice.
                self._bodies[key] = body
            return False
        self._bodies[key] = body
        self._depend(key, _needs(key, body))
        return True

    def drop(self, key: Key, uid: str) -> bool:
        """Forget an object that is gone; False if another one has its name by now."""
        known = self._bodies.get(key)
        if known is not None and _uid(known) != uid:
            return False
        self._bodies.pop(key, None)
        self._depend(key, ())
        return True

    def get(self, key: Key) -> Body | None:
        """Return an object."""
        return self._bodies.get(key)

    def bodies(self) -> list[tuple[Key, Body]]:
        """Return every object; from any thread."""
        return list(self._bodies.items())

    def keys(self, kind: Kind, namespace: str) -> list[Key]:
        """Name the objects of a kind in a namespace."""
        return [key for key in self._bodies if key.kind is kind and key.namespace == namespace]

    def backend_of(self, uid: str) -> Key | None:
        """Name the backend with this uid."""
        found = (key for key, body in self._bodies.items() if _uid(body) == uid)
        return next((key for key in found if key.kind is Kind.BACKEND), None)

    def dependants(self, key: Key) -> list[Key]:
        """Name what depends on an object: of a backend its memories, and last their bindings and erasures."""
        direct = sorted(self._dependants.get(key, ()))
        further = {item for near in direct for item in self._dependants.get(near, ())}
        return [*direct, *sorted(further.difference(direct))]

    def resources_on(self, namespace: str, name: str) -> Sequence[Body]:
        """Return the memories that name a backend."""
        keys = self._dependants.get(Key(Kind.BACKEND, namespace, name), ())
        return [self._bodies[key] for key in sorted(keys)]

    def needed_by(self, key: Key) -> tuple[Key, ...]:
        """Name what an object names: a memory its backend, a binding or an erasure its memories."""
        return self._refs.get(key, ())

    def memories(self) -> list[Body]:
        """Return every memory."""
        return [body for key, body in self._bodies.items() if key.kind is Kind.RESOURCE]

    def put_namespace(self, body: Body) -> None:
        """Take in a namespace."""
        namespace, version = read_namespace(body), version_of(body)
        known = self._namespaces.get(namespace.name)
        # The last event of an earlier namespace of this name must not bring its uid back.
        if known is None or known[0] < version:
            self._namespaces[namespace.name] = (version, namespace)

    def drop_namespace(self, name: str, uid: str) -> None:
        """Forget a namespace that is gone, unless another one has its name by now."""
        known = self._namespaces.get(name)
        if known is not None and known[1].uid == uid:
            del self._namespaces[name]

    def namespace(self, name: str) -> Namespace | None:
        """Return a namespace."""
        known = self._namespaces.get(name)
        return None if known is None else known[1]

    def _depend(self, key: Key, needs: tuple[Key, ...]) -> None:
        for old in self._refs.pop(key, ()):
            self._dependants[old].discard(key)
            if not self._dependants[old]:
                del self._dependants[old]
        if needs:
            self._refs[key] = needs
        for need in needs:
            self._dependants[need].add(key)


def _needs(key: Key, body: Body) -> tuple[Key, ...]:
    """Name the objects that an object names."""
    match key.kind:
        case Kind.BACKEND:
            return ()
        case Kind.RESOURCE:
            ref = backend_ref(body)
            return (Key(Kind.BACKEND, *ref),) if ref is not None else ()
        case Kind.BINDING:
            names = dict.fromkeys(memory_refs(body))
            return tuple(Key(Kind.RESOURCE, key.namespace, name) for name in names)
        case Kind.ERASURE:
            ref = memory_ref(body)
            return (Key(Kind.RESOURCE, *ref),) if ref is not None else ()


def read_namespace(body: Body) -> Namespace:
    """Read a namespace as the API server gives it."""
    metadata = mapping(body.get("metadata"))
    return Namespace(
        name=str(metadata.get("name")),
        uid=str(metadata.get("uid")),
        labels={str(key): str(value) for key, value in mapping(metadata.get("labels")).items()},
        terminating=metadata.get("deletionTimestamp") is not None,
    )


def _slim(body: Body) -> None:
    metadata: object = body.get("metadata")
    if isinstance(metadata, dict):
        cast("dict[str, object]", metadata).pop("managedFields", None)


def _uid(body: Body) -> str:
    return str(mapping(body.get("metadata")).get("uid"))


def version_of(body: Body) -> int:
    """Return the resourceVersion as the number it is in every API server; 0 where it is none."""
    version = str(mapping(body.get("metadata")).get("resourceVersion"))
    return int(version) if version.isdecimal() else 0
