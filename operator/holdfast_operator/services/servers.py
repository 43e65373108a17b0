"""What a backend's spec and its server's answer mean. Pure functions."""

from typing import Final

from holdfast.store.maintenance import ServerInfo
from holdfast_operator.backend import AccessMode, BackendMode, BackendSpec, NamespacesFrom, TLSMode
from holdfast_operator.reasons import ReadyReason
from holdfast_operator.services.outcome import Obstacle
from holdfast_operator.services.ports import Address, Credentials, Secret

OFFER: Final = ("holdfast.dev/credentials", "backend")
"""The label by which the owner of a Secret lets the operator use it."""


def require_supported(spec: BackendSpec) -> None:
    """Raise the obstacle of a spec that this version cannot serve."""
    if spec.mode is not BackendMode.STANDALONE:
        what = f"mode {spec.mode.value}"
    elif spec.tls.mode is not TLSMode.DISABLED:
        what = "tls.mode Enabled"
    elif spec.access.mode is AccessMode.SHARED and not spec.access.acknowledge_no_isolation:
        raise Obstacle(
            ReadyReason.ISOLATION_NOT_ACKNOWLEDGED,
            "With access.mode Shared every tenant can read every other tenant's keys: set "
            "access.acknowledgeNoIsolation to true if you accept that, or use another mode.",
        )
    elif spec.access.mode is not AccessMode.MANAGED_ACL:
        what = f"access.mode {spec.access.mode.value}"
    else:
        return
    raise Obstacle(
        ReadyReason.NOT_SUPPORTED_YET,
        f"This version does not serve a backend with {what}: use mode Standalone without TLS and with "
        "access.mode ManagedACL, or a later version.",
    )


def address(spec: BackendSpec) -> Address:
    """Return where the server of a standalone backend listens."""
    host, _, port = spec.endpoints[0].rpartition(":")
    number = int(port)
    if not 1 <= number <= 65535:
        raise Obstacle(
            ReadyReason.INVALID_SPEC, "spec.endpoints[0]: the port is not between 1 and 65535."
        )
    return Address(host.strip("[]"), number, spec.database, spec.key_prefix)


def credentials(secret: Secret) -> Credentials:
    """Return what a Secret holds: `password`, and `username` unless it is the default user's."""
    texts: dict[str, str] = {}
    for entry in ("username", "password"):
        try:
            texts[entry] = secret.data.get(entry, b"").decode()
        except UnicodeDecodeError:
            raise _invalid(secret, f"the entry {entry} is no UTF-8 text") from None
    if not texts["password"]:
        raise _invalid(secret, "the entry password is missing or empty")
    return Credentials(texts["username"], texts["password"])


def is_full(info: ServerInfo) -> bool:
    """Whether a server refuses writes because its memory is full."""
    return 0 < info.max_memory <= info.used_memory and info.eviction_policy in {"", "noeviction"}


def not_in_force(spec: BackendSpec) -> list[str]:
    """List the fields that differ from their default and are not carried out by this version."""
    found: list[str] = []
    if spec.tenants is not None:
        given = spec.tenants.model_dump(exclude_none=True, exclude_defaults=True)
        found += [f"tenants.{name}" for name in given]
    standard = type(spec.durability)()
    for name in ("replicas", "timeout"):
        if getattr(spec.durability, name) != getattr(standard, name):
            found.append(f"durability.{name}")
    return found


def available(spec: BackendSpec, info: ServerInfo) -> str:
    """Return the sentence for a backend that can be used, with what its owner should know."""
    parts = [f"{info.product.capitalize()} {info.version} answers."]
    if spec.allowed_namespaces.from_ is NamespacesFrom.ALL:
        parts.append("Every namespace may use it.")
    if info.max_memory and info.eviction_policy not in {"", "noeviction"}:
        parts.append(
            f"Its maxmemory-policy is {info.eviction_policy}: when memory is short the server drops "
            "sessions or parts of them by itself; noeviction is what Holdfast is made for."
        )
    return " ".join(parts)


def _invalid(secret: Secret, what: str) -> Obstacle:
    return Obstacle(ReadyReason.SECRET_INVALID, f"The Secret {secret.name} cannot be used: {what}.")


def sentence(text: str) -> str:
    """Return a text that begins and ends like a sentence."""
    text = text.rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
