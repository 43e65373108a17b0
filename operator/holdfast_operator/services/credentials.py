"""Giving a binding its credentials: the user on the server, and the Secret that says so.

Each step may be the last one of this process. What is found in the Secret and on the server decides
the next one, so that whoever comes after goes on: see `passwords`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from holdfast.errors import AccessDenied
from holdfast.store.access import Access, AccessUser
from holdfast.store.addresses import Address, Login
from holdfast_operator.backend import AccessMode
from holdfast_operator.reasons import ConditionType, CredentialsReason, ReadyReason
from holdfast_operator.resources import MemoryBinding
from holdfast_operator.services import passwords
from holdfast_operator.services.backends import BackendService
from holdfast_operator.services.conditions import TRUE, Finding, timestamp
from holdfast_operator.services.entries import SECRET_TYPE, Trust, entries, secret_name
from holdfast_operator.services.objects import named, namespace_of, uid_of
from holdfast_operator.services.observing import Observer
from holdfast_operator.services.outcome import Event, EventType, Obstacle
from holdfast_operator.services.passwords import Rules, next_password, noted_hash, read_password
from holdfast_operator.services.places import Place
from holdfast_operator.services.ports import (
    Clock,
    Cluster,
    ClusterForbidden,
    Credentials,
    Secret,
    SecretDraft,
    Secrets,
)
from holdfast_operator.services.risks import is_open
from holdfast_operator.services.servers import about_line_breaks, credentials
from holdfast_operator.services.users import Users
from holdfast_operator.status import BoundSecret, LastRotation

ROTATE: Final = "holdfast.dev/rotate-requested-at"
OFFER: Final = ("holdfast.dev/credentials", "binding")
"""The label by which the owner of a Secret lets a binding hand it on. Another one than a backend's: who
may make bindings must not get at the operator's own login by naming its Secret."""
BACKENDS: Final = "holdfast.dev/backends"
"""Annotation: namespace and name of each backend on which the user may be."""


@dataclass(slots=True)
class Given:
    """What became of a binding's credentials.

    Attributes:
        finding: what CredentialsReady says.
        changes: of the status.
        events: for people.
        rotating: two passwords are taken.
    """

    finding: Finding
    changes: dict[str, object] = field(default_factory=dict[str, object])
    events: list[Event] = field(default_factory=list[Event])
    rotating: bool = False


@dataclass(frozen=True, slots=True)
class _Login:
    """What the Secret should say of the login, and what status should."""

    login: Credentials
    notes: Mapping[str, str]
    given: Given


class CredentialsService:
    """Makes users and Secrets of bindings.

    Args:
        cluster: Secrets are read from it.
        secrets: writes those of bindings.
        backends: hands out the connections.
        clock: for the age of passwords.
        users: names and removes users.
        make_password: gives 32 random bytes in the URL-safe alphabet, 43 characters.
        observer: told what was repaired, and how old passwords are.
    """

    def __init__(
        self,
        cluster: Cluster,
        secrets: Secrets,
        backends: BackendService,
        clock: Clock,
        *,
        users: Users,
        make_password: Callable[[], str],
        observer: Observer,
    ) -> None:
        self._observer = observer
        self._cluster = cluster
        self._secrets = secrets
        self._backends = backends
        self._users = users
        self._clock = clock
        self._make_password = make_password
        self._made: dict[str, AccessUser] = {}

    async def secret(self, binding: MemoryBinding) -> Secret | None:
        """Return the Secret of a binding's name, whoever's it is.

        Raises:
            Obstacle: we may not read it.
            ClusterUnavailable: the API server does not answer.
        """
        home = namespace_of(binding.metadata)
        return await self._read(home, secret_name(binding.metadata.name))

    async def give(self, binding: MemoryBinding, place: Place, secret: Secret | None) -> Given:
        """Make user and Secret what they should be.

        Args:
            binding: whose.
            place: with at least one grant.
            secret: as it is now; ours, or none.

        Raises:
            Obstacle: why there are no credentials.
            HoldfastError: the server.
            ClusterError: the API server; the next look goes on from what it finds.
        """
        away = await self._leave_others(binding, place, secret)
        access = await self._backends.access(place.backend)
        match place.backend.spec.access.mode:
            case AccessMode.MANAGED_ACL:
                found = await self._managed(binding, place, secret, access)
            case AccessMode.PROVIDED_CREDENTIALS:
                found = await self._provided(binding, place, secret, access)
            case AccessMode.SHARED:
                found = await self._shared(binding, place, secret)
        notes = {**found.notes, BACKENDS: ",".join([place.reference, *away])}
        await self._write(binding, place, secret, found, notes)
        return found.given

    async def _managed(
        self, binding: MemoryBinding, place: Place, secret: Secret | None, access: Access
    ) -> _Login:
        """Put the user on every node with both passwords, before the Secret says the new one."""
        if binding.spec.credentials_ref is not None:
            raise _wrong_reference(place, "makes a user of its own: take spec.credentialsRef away")
        now, spec = self._clock.now(), binding.spec.rotation
        asked = binding.metadata.annotations.get(ROTATE, "")[: passwords.MOST_OF_REQUEST]
        rules = Rules(
            interval=timedelta(milliseconds=spec.interval.milliseconds),
            grace=timedelta(milliseconds=spec.grace.milliseconds),
            request=asked,
        )
        current = (
            read_password(secret.data, secret.annotations, now) if secret is not None else None
        )
        lost = noted_hash(secret.annotations) if secret is not None and current is None else ""
        password = next_password(current, rules, now=now, lost=lost, make=self._make_password)
        name = await self._users.name(binding)
        try:
            user = AccessUser(name, place.grants, password.hashes(now))
            changed = await self._users.change(lambda: access.put(user))
        except AccessDenied as error:
            raise Obstacle(
                ReadyReason.PERMISSION_DENIED,
                f"The server of MemoryBackend {place.reference} does not let the operator make users: "
                "allow its user ACL, or set access.mode ProvidedCredentials there.",
            ) from error
        edited = self._is_edited(binding, user)
        given = self._issued(binding, password, unlocked=is_open(place.backend.status))
        self._observer.rotated(named(binding.metadata), password.made)
        if password is not current:
            message = f"The Secret {secret_name(binding.metadata.name)} has a new password."
            given.events.append(Event(EventType.NORMAL, "PasswordChanged", message))
        elif changed:
            if not edited:
                self._observer.acl_repaired(named(place.backend.metadata), 1)
            message = "The user on the server was made what the binding says."
            given.events.append(Event(EventType.NORMAL, "AccessApplied", message))
        return _Login(Credentials(name, password.text), password.notes(), given)

    def _is_edited(self, binding: MemoryBinding, user: AccessUser) -> bool:
        """Whether a user is to be another one than before: by an edit, or since a password's time is over."""
        uid, metadata = uid_of(binding.metadata), binding.metadata
        made, self._made[uid] = self._made.get(uid), user
        if made is None:
            return binding.status.observed_generation != metadata.generation
        return made != user

    def forget(self, uid: str) -> None:
        """Drop what is remembered of a binding that is gone."""
        self._made.pop(uid, None)

    def _issued(
        self, binding: MemoryBinding, password: passwords.Password, *, unlocked: bool
    ) -> Given:
        name = secret_name(binding.metadata.name)
        message = f"The Secret {name} holds user and password."
        reason, rotating = CredentialsReason.ISSUED, password.in_grace(self._clock.now())
        if rotating and password.until is not None:
            reason = CredentialsReason.ROTATING
            message += f" The one before is taken until {timestamp(password.until)}."
        if unlocked:
            message += (
                " The server also lets in who gives no password: until its user default is locked, nobody "
                "is kept out (AtRisk of the backend)."
            )
        return Given(
            Finding(ConditionType.CREDENTIALS_READY, TRUE, reason, message),
            changes={
                "rotation": LastRotation(
                    last_time=timestamp(password.made),
                    last_handled_request=password.request or None,
                ),
                "required_acl": None,
            },
            rotating=rotating,
        )

    async def _provided(
        self, binding: MemoryBinding, place: Place, secret: Secret | None, access: Access
    ) -> _Login:
        """Try the user that somebody else made, and hand it on when it is right."""
        await self._forget_own(binding, place, secret)
        ref, required = binding.spec.credentials_ref, access.required(place.grants)
        changes: dict[str, object] = {"required_acl": required, "rotation": None}
        try:
            if ref is None:
                raise _wrong_reference(place, "needs spec.credentialsRef: name a Secret there")
            login = await self._offered(binding, ref.name)
            who = Login(login.username or None, login.password)
            try:
                faults = await access.probe(who, place.grants)
            except AccessDenied as error:
                raise Obstacle(
                    ReadyReason.AUTHENTICATION_FAILED,
                    f"The server refuses user or password of the Secret {ref.name}: correct it."
                    f"{about_line_breaks(who)}",
                ) from error
            if faults:
                raise Obstacle(
                    CredentialsReason.ACCESS_DIFFERS,
                    f"The user of the Secret {ref.name} is not as status.requiredACL says: "
                    f"{' '.join(faults)}",
                )
        except Obstacle as obstacle:
            raise Unprovided(obstacle, changes) from obstacle
        message = f"The user of the Secret {ref.name} can do what the binding says, and no more."
        finding = Finding(
            ConditionType.CREDENTIALS_READY, TRUE, CredentialsReason.PROVIDED, message
        )
        return _Login(login, _NO_PASSWORD, Given(finding, changes))

    async def _shared(self, binding: MemoryBinding, place: Place, secret: Secret | None) -> _Login:
        """Hand on the backend's own login: its owner accepted that it keeps nobody apart."""
        await self._forget_own(binding, place, secret)
        if binding.spec.credentials_ref is not None:
            raise _wrong_reference(place, "shares one user: take spec.credentialsRef away")
        login = _credentials((await self._backends.address(place.backend)).login)
        message = "The Secret holds the backend's own user: nothing keeps tenants apart."
        finding = Finding(ConditionType.CREDENTIALS_READY, TRUE, CredentialsReason.SHARED, message)
        given = Given(finding, changes={"required_acl": None, "rotation": None})
        return _Login(login, _NO_PASSWORD, given)

    async def _offered(self, binding: MemoryBinding, name: str) -> Credentials:
        home = namespace_of(binding.metadata)
        offered = await self._read(home, name)
        if offered is None:
            raise Obstacle(
                ReadyReason.SECRET_MISSING,
                f"There is no Secret {name} in this namespace: create it with username and password.",
            )
        label, value = OFFER
        if offered.labels.get(label) != value:
            raise Obstacle(
                ReadyReason.SECRET_NOT_OFFERED,
                f'The Secret {name} does not carry the label {label}: "{value}", by which its owner '
                "lets bindings hand it on.",
            )
        return credentials(offered)

    async def _read(self, namespace: str, name: str) -> Secret | None:
        try:
            return await self._cluster.secret(namespace, name)
        except ClusterForbidden:
            raise no_permission(namespace, self._secrets.account) from None

    async def _leave_others(
        self, binding: MemoryBinding, place: Place, secret: Secret | None
    ) -> list[str]:
        """Remove the user from backends it was on before; return those that could not be asked."""
        return [
            reference
            for reference in noted_backends(secret)
            if reference != place.reference and not await self._users.remove(binding, reference)
        ]

    async def _forget_own(
        self, binding: MemoryBinding, place: Place, secret: Secret | None
    ) -> None:
        """Remove the user that we made before the backend changed its way of access."""
        if secret is not None and noted_hash(secret.annotations):
            await self._users.remove(binding, place.reference)

    async def _write(
        self,
        binding: MemoryBinding,
        place: Place,
        secret: Secret | None,
        found: _Login,
        notes: Mapping[str, str],
    ) -> None:
        metadata = binding.metadata
        home, name = namespace_of(metadata), secret_name(metadata.name)
        address = await self._backends.address(place.backend)
        trust = _trust(address, place.backend.spec.access.mode, found.login)
        data = entries(binding, place.backend, found.login, trust)
        draft = SecretDraft(home, metadata.name, uid_of(metadata), name, notes, data)
        found.given.changes["binding"] = BoundSecret(name=name)
        try:
            if secret is None:
                await self._secrets.create(draft)
            elif secret.data == data and notes.items() <= secret.annotations.items():
                pass
            elif secret.immutable:
                # Somebody sealed it: a new one has to take its place.
                await self._secrets.delete(home, name, secret.version)
                await self._secrets.create(draft)
            else:
                await self._secrets.replace(draft, secret.version)
        except ClusterForbidden:
            if secret is None:  # a password that nobody was told is of no use
                await self._users.remove(binding, place.reference)
            raise no_permission(home, self._secrets.account, reads=True) from None


class Unprovided(Exception):
    """Somebody else's user is not there or not right; status says what it needs nevertheless."""

    def __init__(self, obstacle: Obstacle, changes: dict[str, object]) -> None:
        super().__init__(obstacle.message)
        self.obstacle = obstacle
        self.changes = changes


_NO_PASSWORD: Final[Mapping[str, str]] = {
    passwords.HASH: "",
    passwords.MADE: "",
    passwords.REQUEST: "",
    passwords.FORMER: "",
    passwords.UNTIL: "",
}
"""Notes of a Secret whose password is not ours to change."""


def is_ours(secret: Secret, binding: MemoryBinding) -> bool:
    """Whether a Secret was made for a binding."""
    return secret.controller == uid_of(binding.metadata) and secret.type == SECRET_TYPE


def noted_backends(secret: Secret | None) -> list[str]:
    """Return namespace and name of the backends on which the user of a Secret may be."""
    noted = secret.annotations.get(BACKENDS, "") if secret is not None else ""
    return [name for name in noted.split(",") if name.count("/") == 1]


def name_taken(binding: MemoryBinding) -> Obstacle:
    """Return the obstacle of a Secret that is in the way."""
    name = secret_name(binding.metadata.name)
    return Obstacle(
        CredentialsReason.SECRET_NAME_TAKEN,
        f"There is a Secret {name} that was not made for this binding. It is not touched: remove it, or "
        "give the binding another name.",
    )


def no_permission(namespace: str, account: str, *, reads: bool = False) -> Obstacle:
    """Return the obstacle of a namespace whose Secrets we may not write, with what grants it.

    Args:
        namespace: the binding's.
        account: the operator's ServiceAccount, as `namespace:name`.
        reads: we may read them: perhaps it is no right that is missing.
    """
    role = "holdfast-operator-binding-secrets"
    where = f"kubectl --namespace={namespace}"
    more = ". If it is granted, a quota or an admission policy refuses the Secret." if reads else ""
    return Obstacle(
        CredentialsReason.NO_PERMISSION,
        "The operator may not write Secrets in this namespace. This grants it: "
        f"{where} create role {role} --verb=get,create,update,delete --resource=secrets && "
        f"{where} create rolebinding {role} --role={role} "
        f"--serviceaccount={account}{more}",
    )


def _credentials(login: Login) -> Credentials:
    return Credentials(login.username or "", login.password or "")


def _trust(address: Address, mode: AccessMode, login: Credentials) -> Trust:
    """Return what a workload needs beside its login.

    The operator's own login to the Sentinels could make them fail over: only where everything is shared
    it is shared too. The users that we make are known to the Sentinels as well; what others make, or
    do not make there, is theirs to say.
    """
    authority = address.tls.authority if address.tls is not None else None
    sentinel = None
    if address.sentinel_login.password and mode is AccessMode.MANAGED_ACL:
        sentinel = login
    elif address.sentinel_login.password and mode is AccessMode.SHARED:
        sentinel = _credentials(address.sentinel_login)
    return Trust((authority or "").encode(), sentinel)


def _wrong_reference(place: Place, what: str) -> Obstacle:
    return Obstacle(
        ReadyReason.INVALID_SPEC,
        f"MemoryBackend {place.reference} has access.mode {place.backend.spec.access.mode.value} and "
        f"{what}.",
    )
