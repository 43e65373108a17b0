"""Files that change under a running process: mounted Secrets and ConfigMaps. Read again, never watched.

kubelet swaps the link `..data` to a new folder, so all files of a mount change at once; they are read
through that folder, and never half from one and half from the other.
"""

import hashlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, NamedTuple, TypeVar

from cryptography import x509

from holdfast_webhook.settings import Settings, SettingsUnusable, load_settings

_log: Final = logging.getLogger("holdfast.webhook")

T = TypeVar("T")


class Unusable(Exception):
    """Files cannot be used; the message is for people."""


class Reread(Generic[T]):
    """Something made from files, made anew when they change. Files that cannot be used change nothing.

    Args:
        name: of the files, for people.
        paths: of the files.
        make: makes it from them; raises `Unusable`.
        noted: told after each look whether the files can be used.
    """

    def __init__(
        self,
        name: str,
        paths: Callable[[], tuple[Path, ...]],
        make: Callable[[tuple[Path, ...]], T],
        noted: Callable[[str, bool], None],
    ) -> None:
        self._name = name
        self._paths = paths
        self._make = make
        self._noted = noted
        self._read: bytes = b""
        self._fault = ""
        self._value: T | None = None

    @property
    def value(self) -> T | None:
        """What was made last; None before that."""
        return self._value

    @property
    def fault(self) -> str:
        """What is wrong with the files as they are now; empty when nothing is."""
        return self._fault

    def look(self) -> bool:
        """Look at the files, and tell whether something new was made."""
        try:
            paths = self._paths()
            digest = _digest(paths)
            if digest == self._read and not self._fault:
                return False
            value = self._make(paths)
        except (Unusable, OSError) as error:
            if str(error) != self._fault:
                self._fault = str(error)
                later = "" if self._value is None else " The files of before go on being used."
                _log.error("The files of the %s cannot be used: %s.%s", self._name, error, later)
            self._noted(self._name, False)
            return False
        again = self._value is not None
        self._value, self._read, self._fault = value, digest, ""
        self._noted(self._name, True)
        if again:
            _log.info("New files are used from now on: the %s.", self._name)
        return True


def certificate_paths(directory: Path) -> Callable[[], tuple[Path, ...]]:
    """Return how to find certificate and key in a mounted Secret of type `kubernetes.io/tls`."""

    def find() -> tuple[Path, ...]:
        linked = directory / "..data"
        folder = linked.resolve(strict=True) if linked.exists() else directory
        return (folder / "tls.crt", folder / "tls.key")

    return find


class Certificate(NamedTuple):
    """What the server shows.

    Attributes:
        context: TLS with it.
        ends: when it is no longer taken, in seconds since 1970.
    """

    context: ssl.SSLContext
    ends: float


def certificate_of(paths: tuple[Path, ...]) -> Certificate:
    """Read certificate and key.

    Raises:
        Unusable: they are not there, or do not belong together.
    """
    certificate, key = paths
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        own = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    except (OSError, ssl.SSLError, ValueError) as error:
        raise Unusable(f"certificate and key in {certificate.parent}: {error}") from error
    return Certificate(context, own.not_valid_after_utc.timestamp())


def following(current: Callable[[], Certificate | None]) -> ssl.SSLContext:
    """Return the TLS of a listener that shows each new client the certificate that is current then."""
    outer = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    def choose(client: ssl.SSLObject, name: str | None, asked: ssl.SSLContext) -> int | None:  # noqa: ARG001
        found = current()
        if found is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        client.context = found.context
        return None

    outer.sni_callback = choose  # called for clients that name nobody, too
    return outer


def settings_of(paths: tuple[Path, ...]) -> Settings:
    """Read the settings.

    Raises:
        Unusable: they cannot be read.
    """
    try:
        return load_settings(paths[0])
    except SettingsUnusable as error:
        raise Unusable(str(error).rstrip(".")) from error


def _digest(paths: tuple[Path, ...]) -> bytes:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.digest()
