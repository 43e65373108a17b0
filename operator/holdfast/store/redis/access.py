"""The operator's hands on the users of every node; see `holdfast.store.access`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final, NoReturn, Self, TypeVar, cast

from redis.exceptions import NoPermissionError, ResponseError

from holdfast.errors import AccessDenied, StoreUnavailable
from holdfast.store.access import AccessUser, Grant
from holdfast.store.addresses import Address, Login, Mode
from holdfast.store.redis import trial
from holdfast.store.redis.acl import CONNECTING, permissions, rules
from holdfast.store.redis.carrier import Broken, Carrier, Command, Reply
from holdfast.store.redis.connecting import make_carrier
from holdfast.store.redis.replies import named, passes, raise_for, text

T = TypeVar("T")

_FEW: Final = 4  # connections to a server as somebody else
_NOBODY: Final = "am-nobody"
"""A user that never is: its name has not the form of ours."""
_NO_RULE: Final = "no-rule"
_REFUSED_RULE: Final = "Error in ACL SETUSER modifier"
_CONNECTING: Final = tuple(f"+{name}" for name in CONNECTING)
_COSMETIC: Final = frozenset({"sanitize-payload"})  # flags that some servers give every user


class RedisAccess:
    """Users on every node of a backend.

    Args:
        carrier: brings commands to the servers.
        mode: how they belong together.
        prefix: first part of every key, `spec.keyPrefix` of the MemoryBackend.
        database: its number.
        connect: makes a carrier to the same servers as somebody else; closed after use.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        connect: Callable[[Login], Carrier],
        mode: Mode = Mode.STANDALONE,
        prefix: str = "mem",
        database: int = 0,
    ) -> None:
        self._carrier = carrier
        self._connect = connect
        self._mode = mode
        self._prefix = prefix
        self._database = database

    @classmethod
    def of(cls, address: Address, carrier: Carrier, *, prefix: str, timeout: float) -> Self:
        """Make the hands on the users of the servers at an address. No I/O yet.

        Args:
            address: where they are.
            carrier: to the same servers; not closed here.
            prefix: first part of every key.
            timeout: seconds for a connection as somebody else, and for an exchange there.
        """

        def connect(login: Login) -> Carrier:
            return make_carrier(replace(address, login=login), timeout=timeout, connections=_FEW)

        return cls(
            carrier,
            connect=connect,
            mode=address.mode,
            prefix=prefix,
            database=address.database,
        )

    async def manageable(self) -> bool:
        """Whether we may make users here; see `Access.manageable`. One round trip a node."""
        # A rule that no server knows: one that lets us make users says so, any other refuses before.
        questions: list[Command] = [
            (b"ACL", b"SETUSER", _NOBODY, _NO_RULE),
            (b"ACL", b"GETUSER", _NOBODY),
            (b"ACL", b"USERS"),
            (b"ACL", b"DELUSER", _NOBODY),
        ]

        async def look(node: Carrier) -> bool:
            made, *others = await node.exchange(questions)
            if isinstance(made, Exception) and passes(made):
                raise_for(made)
            told = isinstance(made, ResponseError) and _REFUSED_RULE in str(made)
            return told and not any(isinstance(reply, Exception) for reply in others)

        return all(await self._everywhere(look))

    async def unlocked(self) -> bool:
        """Whether somebody who names no user may do anything; see `Access.unlocked`."""

        async def look(node: Carrier) -> bool:
            [reply] = await _ask(node, [(b"ACL", b"GETUSER", b"default")])
            return _lets_anybody_in(reply)

        return any(await self._everywhere(look))

    async def put(self, user: AccessUser) -> bool:
        """Make the user exactly so; see `Access.put`. One round trip a node, two where it differs."""
        whole = (*_CONNECTING, f"db={self._database}")
        # The first that a server knows: what it does not know it refuses as a whole.
        choices = [self._rules(user, extra) for extra in (whole, _CONNECTING, ())]

        async def make(node: Carrier) -> bool:
            [there] = await _ask(node, [(b"ACL", b"GETUSER", user.name)])
            if _is_so(there, choices[0]):
                return False
            for choice in choices:
                [reply] = await node.exchange([(b"ACL", b"SETUSER", user.name, *choice)])
                if not isinstance(reply, Exception):
                    return True
                if _REFUSED_RULE not in str(reply) or choice is choices[-1]:
                    _raise(reply)
            raise AssertionError("the last one raises")

        return any(await self._everywhere(make))

    async def revoke(self, name: str) -> None:
        """Remove the user; see `Access.revoke`. One round trip a node."""

        async def remove(node: Carrier) -> None:
            # This closes the user's connections as well, those that wait included.
            await _ask(node, [(b"ACL", b"DELUSER", name)])

        await self._everywhere(remove)

    async def users(self, start: str) -> frozenset[str]:
        """Return names on any node; see `Access.users`. One round trip a node."""

        async def look(node: Carrier) -> set[str]:
            [names] = await _ask(node, [(b"ACL", b"USERS")])
            return {name for name in map(text, names) if name.startswith(start)}

        return frozenset[str]().union(*await self._everywhere(look))

    async def probe(self, login: Login, grants: Sequence[Grant]) -> tuple[str, ...]:
        """Try what a user can do; see `Access.probe`. Three round trips a node."""
        one = trial.Trial(grants, self._mode, self._prefix, database=self._database)
        carrier = self._connect(login)
        try:
            found = await _everywhere(await carrier.nodes(), one.run)
        except AccessDenied as error:
            if not isinstance(error.__cause__, NoPermissionError):
                raise
            return (trial.NO_MAP,)
        finally:
            await carrier.aclose()
        return tuple(dict.fromkeys(sentence for node in found for sentence in node))

    def required(self, grants: Sequence[Grant]) -> str:
        """Return the rule for whoever makes users elsewhere; see `Access.required`."""
        return " ".join(permissions(grants, self._mode, self._prefix, database=self._database))

    def _rules(self, user: AccessUser, extra: Sequence[str]) -> tuple[str, ...]:
        return rules(user, self._mode, self._prefix, database=self._database, extra=extra)

    async def _everywhere(self, work: Callable[[Carrier], Awaitable[T]]) -> list[T]:
        return await _everywhere(await _nodes(self._carrier), work)


async def _nodes(carrier: Carrier) -> Sequence[Carrier]:
    try:
        return await carrier.nodes()
    except Broken as error:
        raise StoreUnavailable("the servers do not say which there are") from error


async def _everywhere(nodes: Sequence[Carrier], work: Callable[[Carrier], Awaitable[T]]) -> list[T]:
    """Do the same on every node, also where one of them fails; raise then.

    Raises:
        AccessDenied: some node refuses it.
        StoreUnavailable: some node cannot be reached.
    """
    done = await asyncio.gather(*map(work, nodes), return_exceptions=True)
    failures = [one for one in done if isinstance(one, BaseException)]
    for failure in failures:
        if not isinstance(failure, (Broken, StoreUnavailable)):
            raise failure
    if failures and len(nodes) > 1:
        raise StoreUnavailable(
            f"{len(failures)} of {len(nodes)} servers cannot be reached: there the users are as they were"
        ) from failures[0]
    if failures:
        raise _as_unavailable(failures[0])
    return cast("list[T]", done)


def _as_unavailable(failure: BaseException) -> StoreUnavailable:
    if isinstance(failure, StoreUnavailable):
        return failure
    error = StoreUnavailable("the server does not answer in time")
    error.__cause__ = failure
    return error


async def _ask(node: Carrier, questions: Sequence[Command]) -> list[Reply]:
    """Return the answers.

    Raises:
        AccessDenied: we may not ask.
        StoreUnavailable: the node loads its data.
    """
    replies = await node.exchange(questions)
    for reply in replies:
        if isinstance(reply, Exception):
            _raise(reply)
    return replies


def _raise(reply: Exception) -> NoReturn:
    if isinstance(reply, NoPermissionError) or "unknown command" in str(reply):
        raise AccessDenied(
            "the credentials may not manage users: ACL SETUSER, GETUSER, DELUSER and USERS are needed"
        ) from reply
    raise_for(reply)


def _is_so(there: Reply, rule: Sequence[str]) -> bool:
    """Whether a server's user is what a rule makes.

    Args:
        there: the reply of ACL GETUSER.
        rule: with what only some servers know; its absence counts where the server does not tell of it.
    """
    if there is None:
        return False
    says = named(there)
    commands = text(says["commands"]).split()
    wanted = [part for part in rule if part[0] in "+-"]
    return (
        set(map(text, says["flags"])) - _COSMETIC == {"on"}
        and {f"#{text(each)}" for each in says["passwords"]} == _parts(rule, "#")
        and commands[:1] == ["-@all"]
        and set(wanted) - set(_CONNECTING) <= set(commands) <= set(wanted)
        and set(text(says["keys"]).split()) == _parts(rule, "~%")
        and not says["channels"]
        and not says["selectors"]
        and ("databases" not in says or text(says["databases"]) in rule)
    )


def _parts(rule: Sequence[str], first: str) -> set[str]:
    return {part for part in rule if part[0] in first}


def _lets_anybody_in(default: Reply) -> bool:
    """Whether the user that a connection has without login may do anything.

    Args:
        default: the reply of ACL GETUSER for it.
    """
    says = named(default)
    flags = set(map(text, says["flags"]))
    return {"on", "nopass"} <= flags and text(says["commands"]).split() != ["-@all"]
