"""Users of a server: who may use which memories, as the server itself enforces it.

Protocol and values only, so that services of the operator need no client to be imported; the work is
done by `holdfast.store.redis.access`.

A server never copies its users to another one, and forgets them with a restart that does not find them
in its configuration. So each call speaks to every node, replicas included, and is made again now and
then: what is right already is left alone.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, Self

from holdfast.store.addresses import Login
from holdfast.values import MemoryAddress

MOST_PASSWORDS: Final = 2
"""Passwords that a user has at a time: the one in use, and during grace the one before."""

_UID = re.compile(r"[0-9a-f]{8}")
_USER = re.compile(r"am:([0-9a-f]{8}):([-.a-z0-9]+):([-.a-z0-9]+):([0-9a-f]{8})")
_HASH = re.compile(r"[0-9a-f]{64}")
_MEMORY = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
_FIXED = re.compile(r"[-A-Za-z0-9_.:%]*")


class Grant(NamedTuple):
    """One memory that a user may use.

    Attributes:
        memory: which.
        read_only: nothing may be changed.
        fixed: how the keys of the sessions begin that may be reached, encoded; empty: all of them.
        whole: `fixed` is the key of the only one. Both come from `holdfast.keys.fixed_key`.
    """

    memory: MemoryAddress
    read_only: bool = False
    fixed: str = ""
    whole: bool = False


class UserName(NamedTuple):
    """What the name of a user says: `am:<cluster>:<namespace>:<binding>:<uid>`.

    Attributes:
        cluster: 8 hexadecimal digits, the first of the cluster's id.
        namespace: of the binding.
        binding: its name.
        uid: 8 hexadecimal digits, the first of its uid.
    """

    cluster: str
    namespace: str
    binding: str
    uid: str

    def __str__(self) -> str:
        """Return the name as the server knows it."""
        return ":".join(("am", *self))

    @classmethod
    def parse(cls, name: str) -> Self | None:
        """Read a name; None for one that is not of this form, and so not ours."""
        found = _USER.fullmatch(name)
        return cls(*found.groups()) if found else None


def user_name(*, cluster: str, namespace: str, binding: str, uid: str) -> str:
    """Return the name of a binding's user.

    Args:
        cluster: id of the cluster: the uid of the Namespace `kube-system`.
        namespace: of the binding.
        binding: its name.
        uid: its uid: one made again is another user.

    Raises:
        ValueError: an id does not begin with 8 hexadecimal digits, or a name is no Kubernetes name.
    """
    return _checked(str(UserName(_eight(cluster), namespace, binding, _eight(uid))))


def users_of(cluster: str) -> str:
    """Return how the names of all users of a cluster begin.

    Raises:
        ValueError: the id does not begin with 8 hexadecimal digits.
    """
    return f"am:{_eight(cluster)}:"


def password_hash(password: str) -> str:
    """Return what the server keeps of a password: its SHA-256 in hexadecimal."""
    return hashlib.sha256(password.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class AccessUser:
    """A user as it should be.

    Attributes:
        name: made by `user_name`.
        grants: the memories; at least one, each once.
        passwords: one or two hashes, as `password_hash` makes them; a password itself is never here.

    Raises:
        ValueError: it cannot be: some part would mean something else in a rule of the server.
    """

    name: str
    grants: tuple[Grant, ...]
    passwords: tuple[str, ...] = field(repr=False)

    def __post_init__(self) -> None:
        """Let in nothing that could be read as another rule."""
        _checked(self.name)
        check_grants(self.grants)
        if not 1 <= len(self.passwords) <= MOST_PASSWORDS or not all(
            _HASH.fullmatch(each) for each in self.passwords
        ):
            raise ValueError("a user has one or two passwords, given as SHA-256 in hexadecimal")


def check_grants(grants: Sequence[Grant]) -> None:
    """Refuse grants that could be read as a pattern, and doubled ones.

    Raises:
        ValueError: they are no grants.
    """
    memories = [grant.memory for grant in grants]
    if not memories or len(set(memories)) != len(memories):
        raise ValueError("a user has at least one memory, and each once")
    for grant in grants:
        if not all(_MEMORY.fullmatch(part) for part in grant.memory):
            raise ValueError("the memory of a grant has no Kubernetes name")
        if not _FIXED.fullmatch(grant.fixed) or (grant.whole and not grant.fixed):
            raise ValueError("the fixed part of a grant is no encoded session key")


class Access(Protocol):
    """The operator's hands on the users of a backend.

    Every call may be repeated, also when its answer was lost. Where some node cannot be reached, the
    others are dealt with first and `StoreUnavailable` is raised then: what is owed is done by calling
    again.

    Raises, from every call: `StoreUnavailable`, `AccessDenied` (we may not do this).
    """

    async def manageable(self) -> bool:
        """Whether we may make users here: tried on every node, without making one.

        Managed services refuse it. One round trip a node.
        """
        ...

    async def unlocked(self) -> bool:
        """Whether some node lets in who gives no password: then no user keeps anybody out.

        That is how a server is that was never told otherwise. One round trip a node.
        """
        ...

    async def put(self, user: AccessUser) -> bool:
        """Make the user exactly so on every node; return whether anything had to be changed anywhere.

        Connections that are open keep their login; a narrower rule holds for them at once. One round
        trip a node, two where something differs.
        """
        ...

    async def revoke(self, name: str) -> None:
        """Remove the user on every node, and close its connections. One round trip a node."""
        ...

    async def users(self, start: str) -> frozenset[str]:
        """Return the names, on any node, that begin so. One round trip a node."""
        ...

    async def probe(self, login: Login, grants: Sequence[Grant]) -> tuple[str, ...]:
        """Try what a user that somebody else made can do, on every node, and change nothing.

        Returns sentences about what it lacks and about what it should not be able to do; none where it
        is right. They name commands and memories, never what the server answered.

        Args:
            login: of that user.
            grants: what it should be able to do.

        Raises:
            AccessDenied: the user name or the password is refused.
            StoreUnavailable: a node cannot be reached, so nobody knows.
        """
        ...

    def required(self, grants: Sequence[Grant]) -> str:
        """Return the rule that a user with these grants needs, without its name and password.

        What comes behind `ACL SETUSER <name> on ><password>`, for whoever makes users elsewhere.
        """
        ...


def _eight(uid: str) -> str:
    digits = uid.replace("-", "").lower()[:8]
    if not _UID.fullmatch(digits):
        raise ValueError("an id begins with 8 hexadecimal digits")
    return digits


def _checked(name: str) -> str:
    if not _USER.fullmatch(name):
        raise ValueError("the name of a user is am:<8 hex>:<namespace>:<binding>:<8 hex>")
    return name
