"""What a backend's guard rails mean for one memory among those of its namespace. Pure functions."""

from collections.abc import Callable, Sequence
from typing import Final

from holdfast.policy import Policy, Quantity
from holdfast_operator.backend import RequiredQuota, Tenants
from holdfast_operator.reasons import ReadyReason
from holdfast_operator.resources import MemoryBackend, MemoryResource
from holdfast_operator.services.clamping import Bounds, Clamped, clamped, fair_share
from holdfast_operator.services.objects import mapping, namespace_of
from holdfast_operator.services.outcome import Obstacle
from holdfast_operator.services.ports import Body

_QUOTAS: Final = {
    RequiredQuota.SESSIONS: "sessions",
    RequiredQuota.BYTES: "bytes",
    RequiredQuota.TOKENS: "tokens",
}


def guarded(
    resource: MemoryResource, backend: MemoryBackend, sharing: Callable[[], Sequence[Body]]
) -> Clamped:
    """Return the policy that holds for a memory on a backend.

    Args:
        resource: the memory.
        backend: where it is kept.
        sharing: returns every memory that names the backend, this one among them. Called only where that
            matters: for a thousand memories it is a million looks.

    Raises:
        Obstacle: the backend does not take it: a quota is missing, or its namespace has too many.
    """
    policy, tenants = resource.spec.policy, backend.spec.tenants
    if tenants is None:
        return Clamped(policy, {})
    name = f"{namespace_of(backend.metadata)}/{backend.metadata.name}"
    _require_quotas(policy, tenants, name)
    bounds = Bounds(tenants.max_ttl, tenants.max_message_size)
    share = tenants.per_namespace
    if share is None:
        return clamped(policy, bounds)
    siblings = _siblings(resource, sharing())
    most = share.resources or len(siblings)
    at = next(
        (at for at, body in enumerate(siblings) if _uid(body) == resource.metadata.uid),
        len(siblings),
    )
    if at >= most:
        raise Obstacle(
            ReadyReason.TOO_MANY_RESOURCES,
            f"MemoryBackend {name} takes {most} memories of one namespace "
            "(spec.tenants.perNamespace.resources), and the older ones have those places. What is stored "
            "stays; delete one of the others, or ask the backend's owner.",
        )
    admitted = siblings[:most]
    if share.sessions is not None:
        wanted = [_hard(body, "sessions") for body in admitted]
        bounds = bounds._replace(sessions=fair_share(share.sessions, wanted, at))
    if share.bytes is not None:
        wanted = [_hard(body, "bytes") for body in admitted]
        bounds = bounds._replace(bytes=fair_share(share.bytes.bytes, wanted, at))
    return clamped(policy, bounds)


def _require_quotas(policy: Policy, tenants: Tenants, name: str) -> None:
    missing = [
        f"spec.quotas.{_QUOTAS[quota]}.hard"
        for quota in tenants.require_quotas
        if getattr(getattr(policy.quotas, _QUOTAS[quota], None), "hard", None) is None
    ]
    if missing:
        raise Obstacle(
            ReadyReason.INVALID_SPEC,
            f"MemoryBackend {name} requires quotas that are not set: {', '.join(missing)}.",
        )


def _siblings(resource: MemoryResource, memories: Sequence[Body]) -> list[Body]:
    """Return the memories of a memory's namespace that are there to stay, the oldest first."""
    found = [
        (str(metadata.get("creationTimestamp")), str(metadata.get("name")), body)
        for body in memories
        if (metadata := mapping(body.get("metadata"))).get("namespace")
        == resource.metadata.namespace
        and not metadata.get("deletionTimestamp")
    ]
    return [body for *_, body in sorted(found, key=lambda one: one[:2])]


def _hard(body: Body, name: str) -> int | None:
    quota = mapping(mapping(mapping(body.get("spec")).get("quotas")).get(name))
    try:
        return Quantity(str(quota["hard"])).bytes
    except (KeyError, ValueError):
        return None


def _uid(body: Body) -> object:
    return mapping(body.get("metadata")).get("uid")
