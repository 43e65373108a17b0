"""What the services read of any object, whether or not its spec can be read."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

from holdfast.errors import PolicyInvalid
from holdfast.policy.rules import Reading
from holdfast_operator.reasons import ReadyReason
from holdfast_operator.resources import ObjectMeta
from holdfast_operator.services.conditions import conditions, not_ready, transition
from holdfast_operator.services.observing import Named
from holdfast_operator.services.outcome import Obstacle, Outcome, changed
from holdfast_operator.services.ports import Body, Clock
from holdfast_operator.status import Status

PAUSED: Final = "holdfast.dev/paused"
ABANDON: Final = "holdfast.dev/abandon-data"

S = TypeVar("S", bound=Status)


def is_set(metadata: ObjectMeta, annotation: str) -> bool:
    """Whether one of our annotations says `true`."""
    return metadata.annotations.get(annotation) == "true"


def metadata_of(body: Body) -> ObjectMeta:
    """Return the metadata of an object."""
    return ObjectMeta.read(mapping(body.get("metadata")), reading=Reading.STORED)


def status_of(body: Body, kind: type[S]) -> S:
    """Return the status of an object; an empty one where it cannot be read."""
    try:
        return kind.read(mapping(body.get("status")), reading=Reading.STORED)
    except PolicyInvalid:
        return kind()


def backend_ref(body: Body) -> tuple[str, str] | None:
    """Return namespace and name of the backend that a MemoryResource names."""
    ref = mapping(mapping(body.get("spec")).get("backendRef"))
    namespace = ref.get("namespace") or mapping(body.get("metadata")).get("namespace")
    name = ref.get("name")
    return (str(namespace), str(name)) if namespace and name else None


def memory_ref(body: Body) -> tuple[str, str] | None:
    """Return namespace and name of the memory that a MemoryErasure names."""
    namespace = mapping(body.get("metadata")).get("namespace")
    name = mapping(mapping(body.get("spec")).get("memoryRef")).get("name")
    return (str(namespace), str(name)) if namespace and name else None


def memory_refs(body: Body) -> list[str]:
    """Return the names of the MemoryResources that a MemoryBinding names."""
    memories = mappings(mapping(body.get("spec")).get("memories"))
    names = [mapping(memory.get("memoryRef")).get("name") for memory in memories]
    return [str(name) for name in names if name]


def uid_of(metadata: ObjectMeta) -> str:
    """Return the uid; every object of a cluster has one."""
    assert metadata.uid is not None, "the API server sets it"
    return metadata.uid


def namespace_of(metadata: ObjectMeta) -> str:
    """Return the namespace; every object of our kinds has one."""
    assert metadata.namespace is not None, "our kinds are namespaced"
    return metadata.namespace


def named(metadata: ObjectMeta) -> Named:
    """Return namespace and name of an object."""
    return Named(namespace_of(metadata), metadata.name)


def unreadable(body: Body, kind: type[S], error: PolicyInvalid, clock: Clock) -> Outcome:
    """Return the outcome for an object whose spec breaks a rule that the API server let pass."""
    metadata, before = metadata_of(body), status_of(body, kind)
    obstacle = Obstacle(ReadyReason.INVALID_SPEC, f"{error.path}: {error.message}.")
    generation = metadata.generation or 0
    found = conditions(
        before.conditions, not_ready(obstacle), generation=generation, now=clock.now()
    )
    after = before.model_copy(update={"conditions": found, "observed_generation": generation})
    return Outcome(changed(before, after), events=transition(before, after))


def mapping(value: object) -> Mapping[str, Any]:
    """Return a value that is a mapping, and an empty one for anything else."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def mappings(value: object) -> list[Mapping[str, Any]]:
    """Return the items of a value that is a list, each as `mapping` has it; none of anything else."""
    return (
        [mapping(item) for item in cast("list[object]", value)] if isinstance(value, list) else []
    )
