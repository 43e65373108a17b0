"""The spec of a MemoryBackend: a server that may hold memory, for whom, and with what guard rails."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic import Field

from holdfast.policy import Cause, Duration, Part, Rule, TransitionRule
from holdfast.policy.fields import (
    Count,
    Flag,
    Integer,
    Lifetime,
    MessageSize,
    ObjectName,
    Size,
    Text,
)
from holdfast.policy.rules import Pattern, Unique, Unit, between


class BackendMode(StrEnum):
    """How the servers are organised."""

    STANDALONE = "Standalone"
    SENTINEL = "Sentinel"
    CLUSTER = "Cluster"


class TLSMode(StrEnum):
    """Whether connections are encrypted."""

    DISABLED = "Disabled"
    ENABLED = "Enabled"


class CASource(StrEnum):
    """The kind of object a certificate authority is read from."""

    SECRET = "Secret"  # noqa: S105 - the name of a kind
    CONFIG_MAP = "ConfigMap"


class AccessMode(StrEnum):
    """How tenants get their credentials."""

    MANAGED_ACL = "ManagedACL"
    PROVIDED_CREDENTIALS = "ProvidedCredentials"
    SHARED = "Shared"


class NamespacesFrom(StrEnum):
    """Which namespaces may use a backend."""

    SAME = "Same"
    ALL = "All"
    SELECTOR = "Selector"


class SelectorOperator(StrEnum):
    """How a label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class RequiredQuota(StrEnum):
    """A quota that every memory on a backend must set."""

    SESSIONS = "Sessions"
    BYTES = "Bytes"
    TOKENS = "Tokens"


Endpoint = Annotated[
    Text,
    MinLen(3),
    MaxLen(262),
    Pattern(r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?):[0-9]{1,5}$"),
]
KeyPrefix = Annotated[
    Text,
    MinLen(1),
    MaxLen(16),
    Pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"),
    Unit("letters a-z, digits and inner hyphens"),
]
LabelValue = Annotated[Text, MaxLen(63)]
ReplicaTimeout = Annotated[Duration, between("1ms", "10s"), Unit("duration such as 100ms")]


class SecretRef(Part):
    """Names a Secret in the namespace of the object."""

    atomic: ClassVar[bool] = True

    name: ObjectName = Field(description="Name of the Secret.")


class CARef(Part):
    """Names the entry of a Secret or ConfigMap that holds a certificate authority."""

    atomic: ClassVar[bool] = True

    kind: CASource = Field(default=CASource.SECRET, description="Kind of the object.")
    name: ObjectName = Field(description="Name of the object, in the same namespace.")
    key: Annotated[Text, MinLen(1), MaxLen(253), Pattern("^[-._a-zA-Z0-9]+$")] = Field(
        default="ca.crt", description="Entry with certificates in PEM form."
    )


class Sentinel(Part):
    """How the Sentinels are asked."""

    master_name: Annotated[Text, MinLen(1), MaxLen(64), Pattern("^[-._a-zA-Z0-9]+$")] = Field(
        description="Name under which the Sentinels know the primary."
    )
    auth_ref: SecretRef | None = Field(
        default=None,
        description="Secret with username and password for the Sentinels, if they need them.",
    )


def _needs_tls(name: str, field: str) -> Rule["TLS"]:
    return Rule["TLS"](
        path=f".{name}",
        reason=Cause.FORBIDDEN,
        message=f"{name} is only for mode: Enabled",
        check=lambda it: it.mode is TLSMode.ENABLED or getattr(it, field) is None,
        expression=f"self.mode == 'Enabled' || !has(self.{name})",
    )


class TLS(Part):
    """Encryption of the connections to the servers."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        _needs_tls("caRef", "ca_ref"),
        _needs_tls("clientCertRef", "client_cert_ref"),
        _needs_tls("serverName", "server_name"),
    )

    mode: TLSMode = Field(
        default=TLSMode.DISABLED, description="Whether connections are encrypted."
    )
    ca_ref: CARef | None = Field(
        default=None,
        description="Certificate authority to trust; absent means those of the system.",
    )
    client_cert_ref: SecretRef | None = Field(
        default=None, description="Secret of type kubernetes.io/tls to identify with."
    )
    server_name: Annotated[Text, MinLen(1), MaxLen(253)] | None = Field(
        default=None,
        description="Name the server's certificate must have; absent means the endpoint's host.",
    )


class Access(Part):
    """How tenants get their credentials, and what keeps them apart."""

    mode: AccessMode = Field(
        default=AccessMode.MANAGED_ACL,
        description=(
            "ManagedACL: the operator makes a user for each binding. ProvidedCredentials: each"
            " binding names a Secret. Shared: all tenants use the backend's own user."
        ),
    )
    acknowledge_no_isolation: Flag = Field(
        default=False,
        description="Accepts that with mode Shared every tenant can read every other tenant's keys.",
    )


class LabelRequirement(Part):
    """One condition on the labels of a namespace."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["LabelRequirement"](
            path=".values",
            reason=Cause.INVALID,
            message="values is for operators In and NotIn, which need at least one",
            check=lambda it: (
                bool(it.values) == (it.operator in {SelectorOperator.IN, SelectorOperator.NOT_IN})
            ),
            expression=(
                "(has(self.values) && self.values.size() > 0)"
                " == (self.operator == 'In' || self.operator == 'NotIn')"
            ),
        ),
    )

    key: Annotated[Text, MinLen(1), MaxLen(317)] = Field(description="Key of the label.")
    operator: SelectorOperator = Field(description="How the label is compared.")
    values: Annotated[tuple[LabelValue, ...], MaxLen(64)] = Field(
        default=(), description="Values to compare with; only for In and NotIn."
    )


class NamespaceSelector(Part):
    """Chooses namespaces by their labels; all conditions must hold.

    The label kubernetes.io/metadata.name is the namespace's name and cannot be forged.
    """

    atomic: ClassVar[bool] = True

    match_labels: Annotated[Mapping[str, LabelValue], MaxLen(16)] = Field(
        default_factory=dict[str, str], description="Labels a namespace must have."
    )
    match_expressions: Annotated[tuple[LabelRequirement, ...], MaxLen(16)] = Field(
        default=(), description="Further conditions on the labels of a namespace."
    )


class AllowedNamespaces(Part):
    """Which namespaces may use a backend."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["AllowedNamespaces"](
            path=".selector",
            reason=Cause.REQUIRED,
            message="from: Selector needs selector",
            check=lambda it: it.from_ is not NamespacesFrom.SELECTOR or it.selector is not None,
            expression="self.from != 'Selector' || has(self.selector)",
        ),
        Rule["AllowedNamespaces"](
            path=".selector",
            reason=Cause.FORBIDDEN,
            message="selector is only for from: Selector",
            check=lambda it: it.from_ is NamespacesFrom.SELECTOR or it.selector is None,
            expression="self.from == 'Selector' || !has(self.selector)",
        ),
    )

    from_: NamespacesFrom = Field(
        default=NamespacesFrom.SAME,
        alias="from",
        description=(
            "Same: the backend's own namespace. All: every namespace. Selector: those the selector"
            " chooses."
        ),
    )
    selector: NamespaceSelector | None = Field(
        default=None, description="Chooses namespaces by their labels; exactly with from Selector."
    )


class NamespaceShare(Part):
    """What all memories of one namespace may take together."""

    bytes: Size | None = Field(default=None, description="Size of all sessions.")
    sessions: Count | None = Field(default=None, description="Number of sessions.")
    resources: Annotated[Integer, Ge(1), Le(100_000), Unit("number")] | None = Field(
        default=None, description="Number of MemoryResources."
    )


class Tenants(Part):
    """Bounds for every memory on the backend; the stricter of backend and memory holds."""

    max_ttl: Lifetime | None = Field(
        default=None, description="Longest retention.ttl and retention.maxLifetime."
    )
    max_message_size: MessageSize | None = Field(
        default=None, description="Largest limits.maxMessageSize."
    )
    require_quotas: Annotated[tuple[RequiredQuota, ...], MaxLen(3), Unique()] = Field(
        default=(), description="Hard quotas that every memory must set."
    )
    per_namespace: NamespaceShare | None = Field(
        default=None, description="What all memories of one namespace may take together."
    )


class Durability(Part):
    """What an acknowledged write has reached."""

    replicas: Annotated[Integer, Ge(0), Le(5), Unit("replicas")] = Field(
        default=0, description="How many replicas must have a write before it is acknowledged."
    )
    timeout: ReplicaTimeout = Field(
        default=Duration("100ms"), description="Longest wait for the replicas."
    )


class BackendSpec(Part):
    """Where the servers are, who may use them, and with what guard rails."""

    rules: ClassVar[tuple[Rule[Any], ...]] = (
        Rule["BackendSpec"](
            path=".sentinel",
            reason=Cause.REQUIRED,
            message="mode: Sentinel needs sentinel",
            check=lambda it: it.mode is not BackendMode.SENTINEL or it.sentinel is not None,
            expression="self.mode != 'Sentinel' || has(self.sentinel)",
        ),
        Rule["BackendSpec"](
            path=".sentinel",
            reason=Cause.FORBIDDEN,
            message="sentinel is only for mode: Sentinel",
            check=lambda it: it.mode is BackendMode.SENTINEL or it.sentinel is None,
            expression="self.mode == 'Sentinel' || !has(self.sentinel)",
        ),
        Rule["BackendSpec"](
            path=".database",
            reason=Cause.INVALID,
            message="mode: Cluster has only database 0",
            check=lambda it: it.mode is not BackendMode.CLUSTER or it.database == 0,
            expression="self.mode != 'Cluster' || self.database == 0",
        ),
        Rule["BackendSpec"](
            path=".endpoints",
            reason=Cause.INVALID,
            message="mode: Standalone takes exactly one endpoint",
            check=lambda it: it.mode is not BackendMode.STANDALONE or len(it.endpoints) == 1,
            expression="self.mode != 'Standalone' || self.endpoints.size() == 1",
        ),
    )
    transitions: ClassVar[tuple[TransitionRule[Any], ...]] = (
        TransitionRule["BackendSpec"](
            path=".keyPrefix",
            reason=Cause.FORBIDDEN,
            message="keyPrefix is immutable: existing sessions would no longer be found",
            check=lambda new, old: new.key_prefix == old.key_prefix,
            expression="self.keyPrefix == oldSelf.keyPrefix",
        ),
    )

    mode: BackendMode = Field(
        default=BackendMode.STANDALONE, description="How the servers are organised."
    )
    endpoints: Annotated[tuple[Endpoint, ...], MinLen(1), MaxLen(32), Unique()] = Field(
        description=(
            "host:port of the server; of the Sentinels in mode Sentinel; of some nodes in mode"
            " Cluster."
        )
    )
    sentinel: Sentinel | None = Field(
        default=None, description="How the Sentinels are asked; exactly with mode Sentinel."
    )
    database: Annotated[Integer, Ge(0), Le(1023), Unit("number")] = Field(
        default=0, description="Number of the database; 0 in mode Cluster."
    )
    tls: TLS = Field(default=TLS(), description="Encryption of the connections to the servers.")
    auth_ref: SecretRef | None = Field(
        default=None,
        description=(
            "Secret with username and password of the operator's own user, in this namespace and"
            ' labelled holdfast.dev/credentials: "backend".'
        ),
    )
    access: Access = Field(
        default=Access(), description="How tenants get credentials, and what keeps them apart."
    )
    key_prefix: KeyPrefix = Field(
        default="mem", description="First part of every key on the server. Immutable."
    )
    allowed_namespaces: AllowedNamespaces = Field(
        default=AllowedNamespaces(), description="Which namespaces may use this backend."
    )
    tenants: Tenants | None = Field(
        default=None,
        description="Bounds for every memory on this backend; the stricter value holds.",
    )
    durability: Durability = Field(
        default=Durability(), description="What an acknowledged write has reached."
    )
