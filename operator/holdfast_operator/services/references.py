"""What a backend's spec refers to: Secrets and ConfigMaps that hold credentials and certificates."""

import ssl
from dataclasses import dataclass, replace
from typing import Final

from holdfast.store.addresses import Address, Login, Tls
from holdfast_operator.backend import TLS, BackendSpec, CARef, CASource, SecretRef, TLSMode
from holdfast_operator.reasons import ReadyReason
from holdfast_operator.services.outcome import Obstacle
from holdfast_operator.services.ports import (
    Cluster,
    ClusterForbidden,
    ConfigMap,
    Secret,
    UnusableCertificates,
)
from holdfast_operator.services.servers import OFFER, address, credentials, entry_of, invalid

_LOGIN: Final = "username and password"
_PAIR: Final = ("tls.crt", "tls.key")


@dataclass(frozen=True, slots=True)
class Gathered:
    """How to reach a backend's servers.

    Attributes:
        address: with credentials and certificates.
        version: changes with every edit of what it was gathered from.
    """

    address: Address
    version: str


class References:
    """Reads what the specs of backends refer to.

    Args:
        cluster: where it is.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def gather(self, spec: BackendSpec, namespace: str) -> Gathered:
        """Return how to reach a backend's servers.

        A Secret is used only where its owner offers it by the label `OFFER`, whatever it is for. A
        ConfigMap needs none: an authority's certificates are no secret.

        Args:
            spec: of the backend.
            namespace: its own: references stay inside.

        Raises:
            Obstacle: something is missing, not offered, or cannot be used.
            ClusterUnavailable: the API server does not answer.
        """
        versions: list[str] = []
        login = sentinel = Login()
        if spec.auth_ref is not None:
            login = await self._login(namespace, spec.auth_ref, versions)
        if spec.sentinel is not None and spec.sentinel.auth_ref is not None:
            sentinel = await self._login(namespace, spec.sentinel.auth_ref, versions)
        found = replace(address(spec), login=login, sentinel_login=sentinel)
        if spec.tls.mode is TLSMode.ENABLED:
            found = replace(found, tls=await self._tls(namespace, spec.tls, versions))
        return Gathered(found, "/".join(versions))

    async def _login(self, namespace: str, ref: SecretRef, versions: list[str]) -> Login:
        given = credentials(await self._secret(namespace, ref.name, _LOGIN, versions))
        return Login(given.username or None, given.password)

    async def _tls(self, namespace: str, tls: TLS, versions: list[str]) -> Tls:
        authority = pair = None
        if tls.ca_ref is not None:
            authority = await self._authority(namespace, tls.ca_ref, versions)
        if tls.client_cert_ref is not None:
            pair = await self._pair(namespace, tls.client_cert_ref, versions)
        return Tls(server_name=tls.server_name, authority=authority, pair=pair)

    async def _authority(self, namespace: str, ref: CARef, versions: list[str]) -> str:
        if ref.kind is CASource.SECRET:
            found = await self._secret(namespace, ref.name, f"the entry {ref.key}", versions)
            text = entry_of(found, ref.key)
        else:
            found = await self._config_map(namespace, ref.name, ref.key, versions)
            text = found.data.get(ref.key, "")
        if not text:
            raise invalid(found, f"the entry {ref.key} is missing or empty")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            raise invalid(found, f"the entry {ref.key} holds no certificates in PEM form") from None
        return text

    async def _pair(self, namespace: str, ref: SecretRef, versions: list[str]) -> bytes:
        secret = await self._secret(namespace, ref.name, " and ".join(_PAIR), versions)
        for entry in _PAIR:
            if not secret.data.get(entry):
                raise invalid(secret, f"the entry {entry} is missing or empty")
        return b"\n".join(secret.data[entry] for entry in _PAIR)

    async def _secret(self, namespace: str, name: str, entries: str, versions: list[str]) -> Secret:
        try:
            secret = await self._cluster.secret(namespace, name)
        except ClusterForbidden:
            raise _forbidden("Secret", namespace, name) from None
        label, value = OFFER
        if secret is None:
            raise Obstacle(
                ReadyReason.SECRET_MISSING,
                f"There is no Secret {name} in the namespace {namespace}: create it with {entries}, "
                f'labelled {label}: "{value}".',
            )
        if secret.labels.get(label) != value:
            raise Obstacle(
                ReadyReason.SECRET_NOT_OFFERED,
                f'The Secret {name} does not carry the label {label}: "{value}", by which its owner '
                "lets the operator use it.",
            )
        versions.append(secret.version)
        return secret

    async def _config_map(
        self, namespace: str, name: str, key: str, versions: list[str]
    ) -> ConfigMap:
        try:
            found = await self._cluster.config_map(namespace, name)
        except ClusterForbidden:
            raise _forbidden("ConfigMap", namespace, name) from None
        if found is None:
            raise Obstacle(
                ReadyReason.SECRET_MISSING,
                f"There is no ConfigMap {name} in the namespace {namespace}: create it with the entry "
                f"{key}. It needs no label.",
            )
        versions.append(found.version)
        return found


def unusable(spec: BackendSpec, error: UnusableCertificates) -> Obstacle:
    """Return the obstacle of a client certificate that ssl does not take."""
    assert spec.tls.client_cert_ref is not None, f"the authority was read: {error}"
    return Obstacle(
        ReadyReason.SECRET_INVALID,
        f"The Secret {spec.tls.client_cert_ref.name} cannot be used: tls.crt and tls.key are no "
        "certificate and its unencrypted key in PEM form.",
    )


def _forbidden(kind: str, namespace: str, name: str) -> Obstacle:
    return Obstacle(
        ReadyReason.PERMISSION_DENIED,
        f"The operator may not read the {kind} {name} in the namespace {namespace}: allow its "
        f"ServiceAccount to get {kind}s there, with a Role and a RoleBinding.",
    )
