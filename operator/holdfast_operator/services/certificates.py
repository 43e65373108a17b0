"""The webhook's certificate: made, renewed in time, and never ahead of those who are to trust it.

One step at a time, each decided from what is stored:

    no usable pair           make one, store it
    two thirds of its life   make the next one, store it beside the first, its authority in the bundle
    the bundle is known      serve the next one; the authority before stays in the bundle until its end

A bundle is registered with the API servers before anything signed by it is served, and an authority leaves
it only when nothing that it signed can be served any more. So pods are created all the while, whichever
replica of the webhook and whichever API server has seen the change.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple, Protocol

from cryptography import x509

from holdfast_operator.services.issuing import (
    Issued,
    Pair,
    Unreadable,
    authorities_in,
    bundle_of,
    issue,
    read_pair,
    signed_by,
)
from holdfast_operator.services.ports import Clock, ClusterError, Secret

REQUESTED: Final = "holdfast.dev/rotate-requested-at"
HANDLED: Final = "holdfast.dev/last-handled-request"
SECRET_TYPE: Final = "kubernetes.io/tls"  # noqa: S105 - a type of Secret
OURS: Final = {"app.kubernetes.io/managed-by": "holdfast"}
LIFETIME: Final = timedelta(days=90)
_MOST: Final = 8
"""Authorities in a bundle: more than that are left over by rotations that were asked for in a row."""
_SETTLED: Final = timedelta(minutes=5)
"""For which the bundle is registered before what it signed is served: API servers learn of it by a watch."""


class CertificateTaken(ClusterError):
    """There is a Secret of that name which is not ours; the message is for people."""


@dataclass(frozen=True, slots=True)
class CertificateDraft:
    """The Secret as it should be. Its data show in no representation.

    Attributes:
        data: all entries.
        annotations: ours; those of others stay.
    """

    data: Mapping[str, bytes] = field(repr=False)
    annotations: Mapping[str, str]


class Registration(NamedTuple):
    """What the API server knows of the webhook.

    Attributes:
        version: of the configuration.
        bundles: what each of its webhooks is trusted by, by its name.
        hosts: under which they are reached, besides the Service.
    """

    version: str
    bundles: Mapping[str, bytes]
    hosts: frozenset[str] = frozenset()


class CertificateStore(Protocol):
    """Where certificate and bundle are kept; see `storage.certificates`.

    Raises, from every call: `ClusterConflict`, `ClusterForbidden`, `ClusterUnavailable`.
    """

    async def secret(self) -> Secret | None:
        """Return the Secret with the certificate; None when there is none."""
        ...

    async def write(self, draft: CertificateDraft, version: str | None) -> None:
        """Write the Secret if it is as it was; None: make it."""
        ...

    async def registration(self) -> Registration | None:
        """Return what is registered; None when nothing is."""
        ...

    async def register(self, registration: Registration, bundle: bytes) -> None:
        """Have every webhook of the configuration trusted by a bundle, if it is as it was."""
        ...


class _Held(NamedTuple):
    """What is stored."""

    current: Pair | None
    staged: Pair | None
    authorities: list[x509.Certificate]
    requested: str
    handled: str


class CertificateService:
    """Keeps the certificate.

    Args:
        store: where it is kept.
        clock: tells the time of day.
        hosts: names under which API servers reach the webhook.
        lifetime: of a certificate; renewed at two thirds of it.
    """

    def __init__(
        self,
        store: CertificateStore,
        clock: Clock,
        hosts: Collection[str],
        lifetime: timedelta = LIFETIME,
    ) -> None:
        self._store = store
        self._clock = clock
        self._hosts = frozenset(hosts)
        self._lifetime = lifetime
        self._settled = min(_SETTLED, lifetime / 30)

    async def reconcile(self) -> timedelta:
        """Take the next step if it is time, and return how long nothing will be to do.

        At rest two requests, none of which writes.

        Raises:
            CertificateTaken: somebody else's Secret has the name.
            ClusterConflict, ClusterForbidden, ClusterUnavailable: as the store's calls.
        """
        now = self._clock.now()
        registration = await self._store.registration()
        secret = await self._secret()
        held = _read(secret)
        wanted = self._hosts if registration is None else self._hosts | registration.hosts
        draft = self._step(held, wanted, registration, now)
        if draft is not None:
            await self._store.write(draft, secret.version if secret is not None else None)
            held = _of(draft)
        bundle = bundle_of(held.authorities)
        if registration is not None and set(registration.bundles.values()) - {bundle}:
            await self._store.register(registration, bundle)
        return self._rest(held, now)

    async def is_trusted(self) -> bool:
        """Return whether every webhook of the configuration is trusted for what the Secret holds.

        Without a configuration there is nobody to be trusted by. Writes nothing, and asks whoever leads for
        nothing.

        Raises:
            CertificateTaken: somebody else's Secret has the name.
            ClusterForbidden, ClusterUnavailable: as the store's calls.
        """
        registration = await self._store.registration()
        if registration is None:
            return True
        held = _read(await self._secret())
        signer = None if held.current is None else signed_by(held.current, held.authorities)
        return signer is not None and _is_registered(registration, signer)

    async def _secret(self) -> Secret | None:
        secret = await self._store.secret()
        if secret is not None and not _is_ours(secret):
            raise CertificateTaken(
                f"The Secret {secret.name} is not one that this operator made, so it is left as it is. Name "
                "another one with --webhook-certificate-secret, or leave that option out to use it."
            )
        return secret

    def _step(
        self, held: _Held, hosts: frozenset[str], registration: Registration | None, now: datetime
    ) -> CertificateDraft | None:
        """Return what to store now; None when it is as it should be."""
        current, staged, handled = held.current, held.staged, held.handled
        authorities = [each for each in held.authorities if each.not_valid_after_utc > now]
        if not _usable(staged, hosts, authorities, now):
            staged = None
        made: Issued | None = None
        if not _usable(current, hosts, authorities, now):
            # Nothing that is served can be trusted: there is nothing to wait for.
            current, staged = staged, None
            if current is None:
                made = issue(hosts, now, self._lifetime)
                current = made.pair
        elif staged is None and (_is_due(current, now) or _is_asked_for(held)):
            made = issue(hosts, now, self._lifetime)
            staged = made.pair
        elif staged is not None and now >= staged.issued + self._settled:
            signer = signed_by(staged, authorities)
            if registration is None or _is_registered(registration, signer):
                current, staged = staged, None
        if made is not None:
            authorities += authorities_in(made.authority)
            handled = held.requested or handled
        assert current is not None, "there was one, or one was made"
        kept = _pruned(authorities, [pair for pair in (current, staged) if pair is not None])
        if held._replace(requested="") == _Held(current, staged, kept, "", handled):
            return None
        return _draft(current, staged, kept, handled)

    def _rest(self, held: _Held, now: datetime) -> timedelta:
        """Return how long it is until the next step."""
        assert held.current is not None, "it was stored"
        if held.staged is not None:
            return max(held.staged.issued + self._settled - now, timedelta(0))
        return max(held.current.issued + held.current.lifetime * 2 / 3 - now, timedelta(0))


def service_hosts(service: str, namespace: str) -> frozenset[str]:
    """Return the names under which an API server reaches a Service."""
    return frozenset({f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"})


def _is_due(pair: Pair | None, now: datetime) -> bool:
    return pair is not None and now >= pair.issued + pair.lifetime * 2 / 3


def _is_asked_for(held: _Held) -> bool:
    return held.requested not in ("", held.handled)


def _usable(
    pair: Pair | None,
    hosts: frozenset[str],
    authorities: list[x509.Certificate],
    now: datetime,
) -> bool:
    """Whether a pair can be served: it has not ended, is for these hosts, and has its authority."""
    return (
        pair is not None
        and now < pair.ends
        and hosts <= pair.hosts
        and signed_by(pair, authorities) is not None
    )


def _pruned(authorities: list[x509.Certificate], pairs: list[Pair]) -> list[x509.Certificate]:
    """Return the newest authorities, and those of the pairs in any case."""
    needed = [signed_by(pair, authorities) for pair in pairs]
    newest = sorted(authorities, key=lambda each: each.not_valid_before_utc)[-_MOST:]
    return [each for each in authorities if each in needed or each in newest]


def _is_registered(registration: Registration, signer: x509.Certificate | None) -> bool:
    return all(signer in authorities_in(bundle) for bundle in registration.bundles.values())


def _is_ours(secret: Secret) -> bool:
    return secret.type == SECRET_TYPE and OURS.items() <= dict(secret.labels).items()


def _draft(
    current: Pair, staged: Pair | None, authorities: list[x509.Certificate], handled: str
) -> CertificateDraft:
    data = {
        "tls.crt": current.certificate,
        "tls.key": current.key,
        "ca.crt": bundle_of(authorities),
    }
    if staged is not None:
        data |= {"next.crt": staged.certificate, "next.key": staged.key}
    return CertificateDraft(data, {HANDLED: handled} if handled else {})


def _read(secret: Secret | None) -> _Held:
    if secret is None:
        return _Held(None, None, [], "", "")
    notes = secret.annotations
    return _held(secret.data, notes.get(REQUESTED, ""), notes.get(HANDLED, ""))


def _of(draft: CertificateDraft) -> _Held:
    handled = draft.annotations.get(HANDLED, "")
    return _held(draft.data, "", handled)


def _held(data: Mapping[str, bytes], requested: str, handled: str) -> _Held:
    pairs = [_pair(data, name) for name in ("tls", "next")]
    return _Held(pairs[0], pairs[1], authorities_in(data.get("ca.crt", b"")), requested, handled)


def _pair(data: Mapping[str, bytes], name: str) -> Pair | None:
    try:
        return read_pair(data.get(f"{name}.crt", b""), data.get(f"{name}.key", b""))
    except Unreadable:
        return None
