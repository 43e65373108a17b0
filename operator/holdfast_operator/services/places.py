"""From a binding to what it grants: over its memories to their backend, anew with every look."""

from dataclasses import dataclass
from typing import Final

from holdfast.errors import PolicyInvalid, SessionKeyError
from holdfast.keys import fixed_key
from holdfast.policy import RefreshOn
from holdfast.store.access import Grant
from holdfast.values import MemoryAddress
from holdfast_operator.binding import BoundMemory, MemoryAccess
from holdfast_operator.reasons import ConditionType, CredentialsReason, ReadyReason
from holdfast_operator.resources import MemoryBackend, MemoryBinding, MemoryResource
from holdfast_operator.services.access import allows
from holdfast_operator.services.conditions import is_true, listed, reason_of
from holdfast_operator.services.objects import backend_ref, mapping, named, namespace_of
from holdfast_operator.services.outcome import Obstacle
from holdfast_operator.services.ports import Body, Cluster, Namespace

_WITHDRAWN: Final = frozenset(
    {
        ReadyReason.BACKEND_NOT_FOUND,
        ReadyReason.BACKEND_NOT_ALLOWED,
        ReadyReason.KEYS_OWNED_BY_OTHER,
        ReadyReason.DELETING,
        ReadyReason.DELETION_BLOCKED,
    }
)
"""Why a memory that was usable once must not be used any more; other reasons may be over in a moment.

Not `InvalidSpec`: such a spec is so by guard rails that its backend got later, or cannot be read by this
version; whoever works under the policy that is in force goes on.
"""


class Withdrawn(Obstacle):
    """An obstacle for which no access may be left; any other one leaves what there is."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a binding's memories are, and which of them it gives access to.

    Attributes:
        backend: the one backend of all of them.
        grants: what the user may do; empty where nothing can be granted now.
        faults: what is wrong with single memories.
        unrefreshed: memories whose sessions only reads keep alive, and that may only be read.
    """

    backend: MemoryBackend
    grants: tuple[Grant, ...]
    faults: tuple[Obstacle, ...]
    unrefreshed: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        """Namespace and name of the backend."""
        return str(named(self.backend.metadata))


def find_place(binding: MemoryBinding, cluster: Cluster, namespace: Namespace) -> Place:
    """Return where the memories of a binding are.

    Args:
        binding: whose.
        cluster: what was seen last.
        namespace: that of the binding.

    Raises:
        Withdrawn: there is no access to be given; what there is must go.
        Obstacle: nothing can be said or done now.
    """
    bodies = {
        memory.name: cluster.resource(namespace.name, memory.memory_ref.name)
        for memory in binding.spec.memories
    }
    backend = _backend([body for body in bodies.values() if body is not None], cluster, namespace)
    grants: list[Grant] = []
    faults: list[Obstacle] = []
    for memory in binding.spec.memories:
        grant, fault = _granted(memory, bodies[memory.name], namespace)
        grants += [grant] if grant is not None else []
        faults += [fault] if fault is not None else []
    unrefreshed = tuple(
        memory.memory_ref.name
        for memory in binding.spec.memories
        if memory.access is MemoryAccess.READ_ONLY and _only_reads_refresh(bodies[memory.name])
    )
    return Place(backend, tuple(grants), tuple(faults), unrefreshed)


def _only_reads_refresh(body: Body | None) -> bool:
    """Whether a memory's sessions are kept alive by reads and by nothing else."""
    try:
        resource = MemoryResource.from_body(body) if body is not None else None
    except PolicyInvalid:
        return False
    return resource is not None and resource.spec.policy.retention.refresh_on == (RefreshOn.READ,)


def backends_named(binding: MemoryBinding, cluster: Cluster) -> list[tuple[str, str]]:
    """Return namespace and name of each backend that memories of a binding name."""
    home = namespace_of(binding.metadata)
    bodies = (cluster.resource(home, item.memory_ref.name) for item in binding.spec.memories)
    refs = (backend_ref(body) for body in bodies if body is not None)
    return sorted({ref for ref in refs if ref is not None})


def _backend(resources: list[Body], cluster: Cluster, namespace: Namespace) -> MemoryBackend:
    refs = sorted({ref for ref in map(backend_ref, resources) if ref is not None})
    if not refs:
        raise Withdrawn(
            ReadyReason.MEMORY_NOT_FOUND,
            "There is no MemoryResource of the names in spec.memories in this namespace.",
        )
    if len(refs) > 1:
        raise Withdrawn(
            ReadyReason.SEVERAL_BACKENDS,
            f"The memories are on several backends: {listed([f'{home}/{name}' for home, name in refs])}."
            " One Secret names one: make a binding for each.",
        )
    [(home, name)] = refs
    body = cluster.backend(home, name)
    if body is None:
        if not cluster.watches(home):
            raise Obstacle(
                ReadyReason.BACKEND_NOT_VISIBLE,
                f"This operator does not watch the namespace {home} of MemoryBackend {name}.",
            )
        raise Withdrawn(
            ReadyReason.BACKEND_NOT_FOUND,
            f"There is no MemoryBackend {name} in the namespace {home}.",
        )
    try:
        backend = MemoryBackend.from_body(body)
    except PolicyInvalid:
        raise _unready(home, name, str(ReadyReason.INVALID_SPEC)) from None
    if not allows(backend.spec, home, namespace):
        raise Withdrawn(
            ReadyReason.BACKEND_NOT_ALLOWED,
            f"MemoryBackend {home}/{name} does not allow the namespace {namespace.name} "
            "(spec.allowedNamespaces). Ask its owner.",
        )
    reason = reason_of(backend.status, ConditionType.READY)
    in_use = reason == str(ReadyReason.IN_USE)  # to be deleted, and waits for its memories
    if not in_use and not is_true(backend.status, ConditionType.READY):
        raise _unready(home, name, reason or str(ReadyReason.PENDING))
    return backend


def _unready(home: str, name: str, reason: str) -> Obstacle:
    return Obstacle(
        ReadyReason.BACKEND_NOT_READY,
        f"MemoryBackend {home}/{name} is not Ready: {reason}. This object follows by itself.",
    )


def _granted(
    memory: BoundMemory, body: Body | None, namespace: Namespace
) -> tuple[Grant | None, Obstacle | None]:
    """Return what is granted on a memory, and what is wrong with it."""
    name = memory.memory_ref.name
    if body is None:
        message = f"There is no MemoryResource {name} in this namespace."
        return None, Obstacle(ReadyReason.MEMORY_NOT_FOUND, message)
    resource, reason = _read(body)
    if resource is None:
        return None, _unusable(name, reason)
    status = resource.status
    if resource.metadata.deletion_timestamp is not None:
        return None, _unusable(name, str(ReadyReason.DELETING))
    if status.policy_revision is None or reason in _WITHDRAWN:
        return None, _unusable(name, reason or str(ReadyReason.PENDING))
    try:
        fixed = fixed_key(
            resource.spec.key_template, {item.name: item.value for item in memory.fields}
        )
    except SessionKeyError as error:
        return None, Obstacle(
            CredentialsReason.FIELDS_NOT_PREFIX,
            f"MemoryResource {name}, which the binding calls {memory.name}: {error.message}.",
        )
    grant = Grant(
        MemoryAddress(namespace.name, name),
        read_only=memory.access is MemoryAccess.READ_ONLY,
        fixed=fixed.start,
        whole=fixed.whole,
    )
    ready = reason == str(ReadyReason.AVAILABLE)
    return grant, None if ready else _unusable(name, reason)


def _read(body: Body) -> tuple[MemoryResource | None, str]:
    """Return a memory as far as access to it goes, and the reason of its Ready.

    One whose spec cannot be read, such as one that another version stored, is as it was: a key template
    never changes, and the policy that is in force is in Redis.
    """
    try:
        resource = MemoryResource.from_body(body)
    except PolicyInvalid:
        spec = mapping(body.get("spec"))
        parts = {part: spec[part] for part in ("backendRef", "keyTemplate") if part in spec}
        bare = {**body, "spec": {**parts, "retention": {"ttl": "24h"}}}
        try:
            resource = MemoryResource.from_body(bare)
        except PolicyInvalid:
            resource = None
        return resource, str(ReadyReason.INVALID_SPEC)
    ready = is_true(resource.status, ConditionType.READY)
    available = str(ReadyReason.AVAILABLE)
    return resource, available if ready else reason_of(resource.status, ConditionType.READY)


def _unusable(name: str, reason: str) -> Obstacle:
    return Obstacle(
        ReadyReason.MEMORY_NOT_READY,
        f"MemoryResource {name} is not Ready: {reason}. This object follows by itself.",
    )
