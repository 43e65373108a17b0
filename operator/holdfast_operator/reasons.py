"""Types and reasons of conditions: closed lists, and a promise to whoever scripts against them.

Each reason says what it means and what to do about it; `docs/reasons.md` is made from that.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Self


class ConditionType(StrEnum):
    """Types of conditions. The last six are present only while they are True."""

    READY = "Ready"
    BACKEND_REACHABLE = "BackendReachable"
    POLICY_APPLIED = "PolicyApplied"
    CREDENTIALS_READY = "CredentialsReady"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    CONFLICT = "Conflict"
    AT_RISK = "AtRisk"
    PAUSED = "Paused"
    NOT_IN_FORCE = "NotInForce"


class Reason(StrEnum):
    """Base of the lists of reasons: a member is its text, with a meaning and an advice."""

    meaning: str
    advice: str

    def __new__(cls, text: str, meaning: str, advice: str) -> Self:
        """Make a member from its text, one sentence of meaning and one of advice."""
        member = str.__new__(cls, text)
        member._value_ = text
        member.meaning = meaning
        member.advice = advice
        return member


class ReadyReason(Reason):
    """Reasons of Ready, and of BackendReachable, Reconciling, Stalled and Conflict."""

    PENDING = (
        "Pending",
        "The operator has not looked at the object yet.",
        "Wait a moment; if it stays, see whether the operator runs and watches this namespace.",
    )
    AVAILABLE = (
        "Available",
        "Everything the object asks for is in place.",
        "Nothing.",
    )
    INVALID_SPEC = (
        "InvalidSpec",
        "The spec breaks a rule that the API server did not enforce.",
        "Correct the field that the message names.",
    )
    NOT_SUPPORTED_YET = (
        "NotSupportedYet",
        "This version cannot serve what the object asks for.",
        "Use what the message names, or a later version.",
    )
    BACKEND_NOT_FOUND = (
        "BackendNotFound",
        "There is no MemoryBackend of the name and namespace in backendRef.",
        "Create it, or correct backendRef in a new MemoryResource.",
    )
    BACKEND_NOT_ALLOWED = (
        "BackendNotAllowed",
        "The backend's allowedNamespaces do not include this namespace.",
        "Ask the backend's owner to allow the namespace.",
    )
    BACKEND_NOT_VISIBLE = (
        "BackendNotVisible",
        "The backend is in a namespace that this operator does not watch.",
        "Add that namespace to the operator's watched namespaces, or use a backend inside them.",
    )
    BACKEND_NOT_READY = (
        "BackendNotReady",
        "The backend exists and is not Ready.",
        "See the backend's own conditions; this object follows by itself.",
    )
    BACKEND_UNREACHABLE = (
        "BackendUnreachable",
        "The server does not answer.",
        "Check the endpoints, the server and network policies; the operator keeps trying.",
    )
    AUTHENTICATION_FAILED = (
        "AuthenticationFailed",
        "The server refused the user name or the password.",
        "Correct the Secret in authRef.",
    )
    PERMISSION_DENIED = (
        "PermissionDenied",
        "The server knows the user and denies a command the operator needs.",
        "Give the user the permission that the message names.",
    )
    TLS_FAILED = (
        "TLSFailed",
        "No TLS connection could be made, or the server's certificate is not trusted.",
        "Check tls.caRef, tls.serverName and the server's certificate.",
    )
    SECRET_MISSING = (
        "SecretMissing",
        "A Secret or ConfigMap that the backend names does not exist.",
        "Create it; the operator notices.",
    )
    SECRET_INVALID = (
        "SecretInvalid",
        "A Secret or ConfigMap lacks an entry, or an entry cannot be used.",
        "Correct the entry that the message names.",
    )
    SECRET_NOT_OFFERED = (
        "SecretNotOffered",
        "A Secret does not carry the label that offers it to the operator.",
        'If its owner agrees, label it holdfast.dev/credentials: "backend".',
    )
    SERVER_TOO_OLD = (
        "ServerTooOld",
        "The server is older than Redis 7.0 or Valkey 7.2.",
        "Upgrade the server.",
    )
    SERVER_FULL = (
        "ServerFull",
        "The server has reached its memory limit and refuses writes.",
        "Give it more memory, or shorten retention.",
    )
    SERVER_REPLACED = (
        "ServerReplaced",
        "Another server answers than before, or the same one came back empty.",
        "If that is intended, accept it with the annotation that the message names.",
    )
    KEYS_OWNED_BY_OTHER = (
        "KeysOwnedByOther",
        "The keys on the server belong to another cluster, namespace or resource.",
        "Choose another name, or let the backend's owner hand the keys over.",
    )
    FENCED = (
        "Fenced",
        "The server holds a higher epoch than that of the operator that leads, and refuses its writes.",
        "Set the clock right and restart the operator; else lower the epoch in the memory's key :owner.",
    )
    WRONG_KEY_TYPE = (
        "WrongKeyType",
        "A key of ours holds another data type, so something else wrote to it.",
        "Find the other writer, remove the key that the message names, or use another keyPrefix.",
    )
    LAYOUT_TOO_NEW = (
        "LayoutTooNew",
        "The keys were written by a later version of Holdfast.",
        "Upgrade this operator.",
    )
    DELETION_BLOCKED = (
        "DeletionBlocked",
        "The sessions cannot be deleted because the backend does not answer.",
        "Bring the backend back, or choose one of the two ways out that the message names.",
    )
    DELETING = (
        "Deleting",
        "The object is being deleted together with its sessions.",
        "Wait; the message shows the progress.",
    )
    TOO_MANY_RESOURCES = (
        "TooManyResources",
        "The namespace has more memories on the backend than the backend allows.",
        "Delete one of those that are older, or ask the backend's owner for more.",
    )
    IN_USE = (
        "InUse",
        "The backend is to be deleted and memories still use it.",
        "Delete or move those that the message names.",
    )
    MEMORY_NOT_FOUND = (
        "MemoryNotFound",
        "There is no MemoryResource of a name that the object gives, in its namespace.",
        "Create it, or name another one; a binding gives access to its other memories meanwhile.",
    )
    MEMORY_NOT_READY = (
        "MemoryNotReady",
        "A MemoryResource that the object names cannot be used now.",
        "See its own conditions; this object follows by itself.",
    )
    SEVERAL_BACKENDS = (
        "SeveralBackends",
        "The memories of the binding are kept on more than one MemoryBackend.",
        "Make one binding for each backend.",
    )
    ISOLATION_NOT_ACKNOWLEDGED = (
        "IsolationNotAcknowledged",
        "With access mode Shared every tenant can read every other tenant's keys.",
        "Set access.acknowledgeNoIsolation to true if you accept that, or use another mode.",
    )
    ERASING = (
        "Erasing",
        "The sessions are being counted and erased.",
        "Wait; status.progress shows how far it is.",
    )
    ERASED = (
        "Erased",
        "What was to be erased is gone.",
        "See status.receipt; the object goes by itself after spec.ttlAfterFinished.",
    )
    COUNTED = (
        "Counted",
        "With dryRun it was counted what would go, and nothing was erased.",
        "See status.receipt; to erase, create another object without dryRun.",
    )


class PolicyReason(Reason):
    """Reasons of PolicyApplied."""

    APPLIED = (
        "Applied",
        "Every live session follows the policy.",
        "Nothing.",
    )
    ROLLING_OUT = (
        "RollingOut",
        "New calls follow the policy, and the sessions that exist are being changed.",
        "Wait; status.rollout shows the progress.",
    )
    UNSATISFIED = (
        "Unsatisfied",
        "Some sessions hold more protected messages than the limits allow.",
        "Raise the limit, or unpin messages; nothing protected is deleted by itself.",
    )
    CLAMPED_BY_BACKEND = (
        "ClampedByBackend",
        "The backend allows less than the policy asks for, and the stricter value holds.",
        "See status.effective; lower the policy's value or ask the backend's owner.",
    )
    WAITING_FOR_BACKEND = (
        "WaitingForBackend",
        "The policy cannot be written before the backend is Ready.",
        "See the condition Ready.",
    )


class CredentialsReason(Reason):
    """Reasons of CredentialsReady."""

    ISSUED = (
        "Issued",
        "The user exists on every node and the Secret holds its password.",
        "Nothing.",
    )
    ROTATING = (
        "Rotating",
        "A new password is in the Secret, and the old one still works for a while.",
        "Wait; pods that mount the Secret as files follow by themselves.",
    )
    PROVIDED = (
        "Provided",
        "The user in credentialsRef can do what the binding says and no more, and the Secret has it.",
        "Nothing.",
    )
    SHARED = (
        "Shared",
        "The Secret holds the backend's own user, which can read every tenant's keys.",
        "Nothing, if that is accepted; else use another access.mode.",
    )
    ACCESS_DIFFERS = (
        "AccessDiffers",
        "The user in credentialsRef lacks something, or can do more than the binding says.",
        "Give the user the rule in status.requiredACL on every node.",
    )
    SECRET_NAME_TAKEN = (
        "SecretNameTaken",
        "A Secret of the needed name exists and was not made for this binding.",
        "Rename the binding, or remove that Secret.",
    )
    NO_PERMISSION = (
        "NoPermission",
        "The operator may not write Secrets in this namespace.",
        "Grant it with the command that the message shows.",
    )
    FIELDS_NOT_PREFIX = (
        "FieldsNotPrefix",
        "The fixed fields are not the first ones of the key template.",
        "Fix the template's first fields, or use a memory whose template begins with them.",
    )


class RiskReason(Reason):
    """Reasons of AtRisk, the gravest first; the message names all that apply."""

    SERVER_SILENT = (
        "ServerSilent",
        "One of several servers does not answer, or refuses the operator's user.",
        "Bring it back; users of the ACL have to be made on replicas too.",
    )
    MEMORY_PRESSURE = (
        "MemoryPressure",
        "A server uses nine tenths of its memory or more.",
        "Give it more memory, or shorten retention; a full server refuses writes.",
    )
    EVICTION_ENABLED = (
        "EvictionEnabled",
        "The server drops data by itself when memory is short.",
        "Set maxmemory-policy noeviction.",
    )
    PERSISTENCE_OFF = (
        "PersistenceOff",
        "The server keeps nothing over a restart.",
        "Set appendonly yes, or accept that a restart loses every session.",
    )
    DEFAULT_USER_OPEN = (
        "DefaultUserOpen",
        "The server lets in who gives no password, so bindings keep nobody out.",
        "Set requirepass, or switch the user default off; give the operator a user in authRef before.",
    )
    REPLICAS_NOT_REQUIRED = (
        "ReplicasNotRequired",
        "A primary without replicas goes on taking writes, which a failover loses.",
        "Set min-replicas-to-write to 1.",
    )
    REPLICAS_MISSING = (
        "ReplicasMissing",
        "A primary has fewer replicas than durability asks for: writes wait in vain.",
        "Bring the replicas back, or ask for fewer.",
    )
    SURVEY_FAILED = (
        "SurveyFailed",
        "The look at the keys that no index leads to fails, so what is wrong there is not found.",
        "See the reason in the message; where the user may not SCAN, allow it.",
    )


class PausedReason(Reason):
    """Reasons of Paused."""

    ANNOTATED = (
        "Annotated",
        'The annotation holdfast.dev/paused: "true" stops reconciliation.',
        "Remove the annotation to go on.",
    )


class NotInForceReason(Reason):
    """Reasons of NotInForce."""

    FIELDS_NOT_IN_FORCE = (
        "FieldsNotInForce",
        "The spec sets fields that this version stores and does not carry out.",
        "Leave out the fields that the message lists, or use a later version.",
    )
    READS_DO_NOT_REFRESH = (
        "ReadsDoNotRefresh",
        "Only reads renew the expiry of a memory's sessions, and who may only read renews nothing.",
        "Add Write to retention.refreshOn, or give ReadWrite access to who is to keep sessions alive.",
    )


_WITHOUT_CREDENTIALS: Final = (
    CredentialsReason.ACCESS_DIFFERS,
    CredentialsReason.SECRET_NAME_TAKEN,
    CredentialsReason.NO_PERMISSION,
    CredentialsReason.FIELDS_NOT_PREFIX,
)
"""Why a binding is not Ready though its memories and their backend are."""

_NO_CREDENTIALS_YET: Final = (
    ReadyReason.INVALID_SPEC,
    ReadyReason.BACKEND_NOT_FOUND,
    ReadyReason.BACKEND_NOT_ALLOWED,
    ReadyReason.BACKEND_NOT_VISIBLE,
    ReadyReason.BACKEND_NOT_READY,
    ReadyReason.BACKEND_UNREACHABLE,
    ReadyReason.AUTHENTICATION_FAILED,
    ReadyReason.PERMISSION_DENIED,
    ReadyReason.SECRET_MISSING,
    ReadyReason.SECRET_INVALID,
    ReadyReason.SECRET_NOT_OFFERED,
    ReadyReason.MEMORY_NOT_FOUND,
    ReadyReason.MEMORY_NOT_READY,
    ReadyReason.SEVERAL_BACKENDS,
)

REASONS: Final[Mapping[ConditionType, tuple[Reason, ...]]] = {
    ConditionType.READY: (*ReadyReason, *_WITHOUT_CREDENTIALS),
    ConditionType.BACKEND_REACHABLE: (
        ReadyReason.AVAILABLE,
        ReadyReason.BACKEND_UNREACHABLE,
        ReadyReason.AUTHENTICATION_FAILED,
        ReadyReason.TLS_FAILED,
    ),
    ConditionType.POLICY_APPLIED: tuple(PolicyReason),
    ConditionType.CREDENTIALS_READY: (*CredentialsReason, *_NO_CREDENTIALS_YET),
    ConditionType.RECONCILING: (
        ReadyReason.DELETING,
        ReadyReason.ERASING,
        PolicyReason.ROLLING_OUT,
        PolicyReason.WAITING_FOR_BACKEND,
        CredentialsReason.ROTATING,
    ),
    ConditionType.STALLED: (
        ReadyReason.INVALID_SPEC,
        ReadyReason.NOT_SUPPORTED_YET,
        ReadyReason.BACKEND_NOT_ALLOWED,
        ReadyReason.BACKEND_NOT_VISIBLE,
        ReadyReason.SECRET_NOT_OFFERED,
        ReadyReason.TOO_MANY_RESOURCES,
        ReadyReason.SERVER_TOO_OLD,
        ReadyReason.SERVER_REPLACED,
        ReadyReason.KEYS_OWNED_BY_OTHER,
        ReadyReason.FENCED,
        ReadyReason.WRONG_KEY_TYPE,
        ReadyReason.LAYOUT_TOO_NEW,
        ReadyReason.SEVERAL_BACKENDS,
        ReadyReason.ISOLATION_NOT_ACKNOWLEDGED,
        ReadyReason.MEMORY_NOT_FOUND,
        *_WITHOUT_CREDENTIALS,
    ),
    ConditionType.CONFLICT: (ReadyReason.KEYS_OWNED_BY_OTHER,),
    ConditionType.AT_RISK: tuple(RiskReason),
    ConditionType.PAUSED: tuple(PausedReason),
    ConditionType.NOT_IN_FORCE: tuple(NotInForceReason),
}
"""Which reasons each type of condition can have."""

_INTRODUCTION: Final = """\
# Conditions and their reasons

<!-- Written by `python -m holdfast_operator.crds write`; do not edit. -->

Every object of `holdfast.dev` reports in `status.conditions`. The lists below are closed: a reason
keeps its meaning, and a new one is announced in the changelog. The message of a condition says what
it is about in the case at hand.

`Ready`, `BackendReachable`, `PolicyApplied` and `CredentialsReady` are `True`, `False` or
`Unknown`. `Reconciling`, `Stalled`, `Conflict`, `AtRisk`, `Paused` and `NotInForce` are present only
while they are `True`. `Stalled` means that somebody has to act; without it the operator goes on by
itself.
"""


def reasons_document() -> str:
    """Return the text of `docs/reasons.md`."""
    sections = [_INTRODUCTION]
    for condition, reasons in REASONS.items():
        rows = [f"| `{reason}` | {reason.meaning} | {reason.advice} |" for reason in reasons]
        table = ["| Reason | Meaning | What to do |", "| --- | --- | --- |", *rows]
        sections.append(f"## {condition}\n\n" + "\n".join(table) + "\n")
    return "\n".join(sections)
