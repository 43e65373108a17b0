"""Certificates of the webhook: made, and read again. Randomness is the only thing from outside.

Every serving certificate has an authority of its own, whose key is forgotten as soon as it has signed: there
is no key to steal that could make another one, and renewing is always the same procedure.
"""

import ipaddress
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SKEW: Final = timedelta(hours=1)
"""How long before its making a certificate counts: clocks differ."""
_SERVER: Final = "holdfast-webhook"
_AUTHORITY: Final = "holdfast-webhook-authority"


class Unreadable(Exception):
    """This is no certificate with its key."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A serving certificate and its key, PEM; the key shows in no representation.

    Attributes:
        certificate: PEM.
        key: PEM.
        issued: when it was made.
        ends: when it is no longer taken.
        hosts: names and addresses it is for.
    """

    certificate: bytes
    key: bytes = field(repr=False)
    issued: datetime
    ends: datetime
    hosts: frozenset[str]

    @property
    def lifetime(self) -> timedelta:
        """From its making to its end."""
        return self.ends - self.issued


class Issued(NamedTuple):
    """A new pair, and the certificate of the authority that clients are to trust, PEM."""

    pair: Pair
    authority: bytes


def issue(hosts: Collection[str], now: datetime, lifetime: timedelta) -> Issued:
    """Make an authority, and a serving certificate of it.

    Args:
        hosts: names and addresses under which clients come; at least one.
        now: the time of day, in UTC.
        lifetime: of both.
    """
    now = now.replace(microsecond=0)  # certificates know no parts of a second
    ends = now + lifetime
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = (
        _builder(_name(_AUTHORITY), authority_key, now, ends)
        .issuer_name(_name(_AUTHORITY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([_general(host) for host in sorted(hosts)])
    issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
    served = (
        _builder(_name(_SERVER), key, now, ends)
        .issuer_name(_name(_AUTHORITY))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(issuer, critical=False)
        .add_extension(names, critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pair = Pair(_pem(served), private, now, ends, frozenset(hosts))
    return Issued(pair, _pem(authority))


def read_pair(certificate: bytes, key: bytes) -> Pair:
    """Read a pair that was made here.

    Raises:
        Unreadable: it is none.
    """
    try:
        served = x509.load_pem_x509_certificate(certificate)
        private = serialization.load_pem_private_key(key, None)
        names = served.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise Unreadable("this is no certificate with its key") from error
    if served.public_key() != private.public_key():
        raise Unreadable("certificate and key do not belong together")
    hosts = (
        *names.get_values_for_type(x509.DNSName),
        *(str(address) for address in names.get_values_for_type(x509.IPAddress)),
    )
    issued = served.not_valid_before_utc + SKEW
    return Pair(certificate, key, issued, served.not_valid_after_utc, frozenset(hosts))


def authorities_in(bundle: bytes) -> list[x509.Certificate]:
    """Return the certificates of a bundle; none where it cannot be read."""
    if not bundle.strip():
        return []
    try:
        return x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return []


def bundle_of(authorities: Iterable[x509.Certificate]) -> bytes:
    """Return a bundle."""
    return b"".join(_pem(each) for each in authorities)


def signed_by(pair: Pair, authorities: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Return the authority that signed a pair; None when it is not among them."""
    served = x509.load_pem_x509_certificate(pair.certificate)
    for authority in authorities:
        try:
            served.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return authority
    return None


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, ends: datetime
) -> x509.CertificateBuilder:
    public = key.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
