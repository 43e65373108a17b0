"""What a backend's spec and its servers' answers mean. Pure functions."""

from typing import Final

from holdfast.store.addresses import Address, Login, Mode, Node
from holdfast.store.maintenance import ServerInfo
from holdfast_operator.backend import AccessMode, BackendMode, BackendSpec, NamespacesFrom
from holdfast_operator.reasons import ReadyReason
from holdfast_operator.services.outcome import Obstacle
from holdfast_operator.services.ports import ConfigMap, Credentials, Secret

OFFER: Final = ("holdfast.dev/credentials", "backend")
"""The label by which the owner of a Secret lets the operator use it."""
_MODES: Final = {
    BackendMode.STANDALONE: Mode.STANDALONE,
    BackendMode.SENTINEL: Mode.SENTINEL,
    BackendMode.CLUSTER: Mode.CLUSTER,
}
_FULL: Final = 100


def require_acknowledged(spec: BackendSpec) -> None:
    """Raise the obstacle of a backend without isolation that nobody accepted."""
    if spec.access.mode is AccessMode.SHARED and not spec.access.acknowledge_no_isolation:
        raise Obstacle(
            ReadyReason.ISOLATION_NOT_ACKNOWLEDGED,
            "With access.mode Shared every tenant can read every other tenant's keys: set "
            "access.acknowledgeNoIsolation to true if you accept that, or use another mode.",
        )


def require_mode(spec: BackendSpec, info: ServerInfo) -> None:
    """Raise the obstacle of servers that are organised otherwise than the spec says.

    In mode Sentinel and Cluster the carrier has found out on the way.
    """
    if info.mode == "sentinel":
        raise Obstacle(
            ReadyReason.INVALID_SPEC,
            "What answers at spec.endpoints is a Sentinel: write spec.mode: Sentinel, all Sentinels in "
            "spec.endpoints, and the primary's name in spec.sentinel.masterName.",
        )
    if info.mode == "cluster" and spec.mode is not BackendMode.CLUSTER:
        raise Obstacle(
            ReadyReason.INVALID_SPEC,
            "The server says that it is a node of a Cluster: write spec.mode: Cluster, and some of its "
            "nodes in spec.endpoints.",
        )


def wrong_mode(spec: BackendSpec) -> Obstacle:
    """Return the obstacle of servers that do not know the commands of the spec's mode."""
    other = {
        BackendMode.CLUSTER: "The server is no node of a Cluster",
        BackendMode.SENTINEL: "What answers at spec.endpoints is no Sentinel",
        BackendMode.STANDALONE: "The server is a node of a Cluster",
    }[spec.mode]
    advice = "Cluster" if spec.mode is BackendMode.STANDALONE else "Standalone"
    return Obstacle(
        ReadyReason.INVALID_SPEC,
        f"{other}: correct spec.endpoints, or write spec.mode: {advice} if that is what it is.",
    )


def address(spec: BackendSpec) -> Address:
    """Return where the servers of a backend are, without credentials and certificates."""
    return Address(
        _MODES[spec.mode],
        tuple(_node(at, endpoint) for at, endpoint in enumerate(spec.endpoints)),
        database=spec.database,
        primary=spec.sentinel.master_name if spec.sentinel is not None else "",
    )


def _node(at: int, endpoint: str) -> Node:
    host, _, port = endpoint.rpartition(":")
    number = int(port)
    if not 1 <= number <= 65535:
        raise Obstacle(
            ReadyReason.INVALID_SPEC, f"spec.endpoints[{at}]: the port is not between 1 and 65535."
        )
    return host.strip("[]"), number


def credentials(secret: Secret) -> Credentials:
    """Return what a Secret holds: `password`, and `username` unless it is the default user's."""
    texts = {entry: entry_of(secret, entry) for entry in ("username", "password")}
    if not texts["password"]:
        raise invalid(secret, "the entry password is missing or empty")
    return Credentials(texts["username"], texts["password"])


def about_line_breaks(*logins: Login) -> str:
    """Return what to add where a login was refused that ends in a line break, as editors and `echo` write it.

    It is part of the entry, and not shown by what shows the entry. Empty where there is none.
    """
    texts = (text for login in logins for text in (login.username, login.password))
    if not any(text and text[-1] in "\r\n" for text in texts):
        return ""
    return " The entry username or password ends in a line break, which counts: write it without."


def refused(obstacle: Obstacle, address: Address) -> Obstacle:
    """Return an obstacle, with what is odd about the login where it was refused."""
    if obstacle.reason is not ReadyReason.AUTHENTICATION_FAILED:
        return obstacle
    hint = about_line_breaks(address.login, address.sentinel_login)
    return Obstacle(obstacle.reason, obstacle.message + hint)


def entry_of(secret: Secret, name: str) -> str:
    """Return an entry of a Secret that is text; empty where it is missing."""
    try:
        return secret.data.get(name, b"").decode()
    except UnicodeDecodeError:
        raise invalid(secret, f"the entry {name} is no UTF-8 text") from None


def invalid(found: Secret | ConfigMap, what: str) -> Obstacle:
    """Return the obstacle of an entry that cannot be used."""
    kind = type(found).__name__
    return Obstacle(ReadyReason.SECRET_INVALID, f"The {kind} {found.name} cannot be used: {what}.")


def is_full(info: ServerInfo) -> bool:
    """Whether every primary refuses writes because its memory is full."""
    least = info.least_full
    if least is None and info.max_memory:
        least = _FULL * info.used_memory // info.max_memory
    return least is not None and least >= _FULL and info.eviction_policy in {"", "noeviction"}


def available(spec: BackendSpec, info: ServerInfo) -> str:
    """Return the sentence for a backend that can be used, with what its owner should know."""
    parts = [f"{info.product.capitalize()} {info.version} answers."]
    if not info.product:
        parts = ["The server answers, and does not say what it is (INFO is denied)."]
    if spec.allowed_namespaces.from_ is NamespacesFrom.ALL:
        parts.append("Every namespace may use it.")
    if spec.access.mode is AccessMode.MANAGED_ACL and info.manages_users is False:
        parts.append(
            "With access.mode ManagedACL bindings need users, which the operator may not make there (ACL "
            "SETUSER is denied): allow it, or use access.mode ProvidedCredentials."
        )
    if spec.access.mode is AccessMode.SHARED:
        parts.append("Tenants share one user: each can read every other tenant's keys.")
    return " ".join(parts)


def sentence(text: str) -> str:
    """Return a text that begins and ends like a sentence."""
    text = text.rstrip(".")
    return f"{text[:1].upper()}{text[1:]}."
