"""What a user may do, found out without doing it.

A server asks about permission when a command is queued in a transaction, and throws away a transaction
in which one was malformed. So a malformed one goes first, and then everything that is to be tried, on
every node, whatever its keys. That the server throws transactions away is tried before; and what must
not be allowed is sent with arguments with which it would do nothing.
"""

import secrets
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from redis.exceptions import (
    AskError,
    ClusterDownError,
    ExecAbortError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)

from holdfast.keys import memory_prefix
from holdfast.store.access import Grant, check_grants
from holdfast.store.addresses import Mode
from holdfast.store.redis.acl import commands
from holdfast.store.redis.carrier import Carrier, Command, Reply
from holdfast.store.redis.replies import passes, raise_for

NO_MAP: Final = "needed, but refused: CLUSTER SLOTS"
_NO_TRANSACTIONS: Final = "needed, but refused: MULTI and EXEC; so nothing else could be tried"
_AFTER_PERMISSION: Final = (AskError, ReadOnlyError, OutOfMemoryError, ClusterDownError)
_MALFORMED: Final[Command] = (b"HGET",)

ARGUMENTS: Final = {
    "asking": "",
    "blpop": "KEY 0.01",
    "cluster|slots": "",
    "del": "KEY",
    "evalsha": "SHA 1 KEY",
    "evalsha_ro": "SHA 1 KEY",
    "exists": "KEY",
    "hdel": "KEY x",
    "hexists": "KEY x",
    "hget": "KEY x",
    "hgetall": "KEY",
    "hkeys": "KEY",
    "hmget": "KEY x",
    "hset": "KEY x x",
    "lindex": "KEY 0",
    "linsert": "KEY BEFORE x x",
    "llen": "KEY",
    "lpush": "KEY x",
    "lrange": "KEY 0 0",
    "lrem": "KEY 1 x",
    "ltrim": "KEY 0 0",
    "pexpire": "KEY 1",
    "pexpireat": "KEY 1",
    "ping": "",
    "pttl": "KEY",
    "role": "",
    "rpop": "KEY",
    "rpush": "KEY x",
    "select": "DATABASE",
    "time": "",
    "unlink": "KEY",
    "wait": "0 0",
    "zadd": "KEY 1 x",
    "zcard": "KEY",
    "zrange": "KEY 0 0",
    "zrank": "KEY x",
    "zrem": "KEY x",
    "zremrangebyrank": "KEY 0 0",
    "zremrangebyscore": "KEY 0 0",
    "zscore": "KEY x",
}
"""How each command that a user may need is sent. MULTI and EXEC are tried by trying the others."""

_FORBIDDEN: Final = (
    *("EVAL return( 0", "EVAL_RO return( 0", "SCRIPT LOAD return(", "SCRIPT FLUSH x"),
    *("FUNCTION FLUSH x", "FUNCTION LOAD x", "FCALL x 0", "SCAN x", "KEYS am-nobody", "RANDOMKEY"),
    *("DBSIZE", "INFO am-nobody", "CONFIG GET am-nobody", "CLIENT LIST ID 0", "ACL LIST"),
    *("SLOWLOG LEN", "FLUSHALL x", "FLUSHDB x", "SWAPDB x x", "PUBLISH am-nobody x"),
    "REPLICAOF x x",
)


class _Attempt(NamedTuple):
    """One command, and what should become of it."""

    command: Command
    allowed: bool
    said: str


class Trial:
    """What a user with some grants should and should not be able to do.

    Args:
        grants: what it should have.
        mode: of the backend.
        prefix: first part of every key.
        database: its number.
    """

    def __init__(
        self, grants: Sequence[Grant], mode: Mode, prefix: str, *, database: int = 0
    ) -> None:
        check_grants(grants)
        self._grants = grants
        self._mode = mode
        self._prefix = prefix
        self._database = database
        self._nobody = f"am-nobody-{secrets.token_hex(8)}"

    async def run(self, node: Carrier) -> list[str]:
        """Try it on one node; return what is wrong, a sentence each. Two round trips."""
        begun, _, ended = await node.exchange([(b"MULTI",), _MALFORMED, (b"EXEC",)])
        if not _throws_away(begun, ended):
            return [_NO_TRANSACTIONS]
        attempts = list(self._attempts())
        tried = [attempt.command for attempt in attempts]
        _, _, *replies, _ = await node.exchange([(b"MULTI",), _MALFORMED, *tried, (b"EXEC",)])
        missing: dict[str, None] = {}
        excess: dict[str, None] = {}
        for attempt, reply in zip(attempts, replies, strict=True):
            if attempt.allowed and isinstance(reply, NoPermissionError):
                missing[attempt.said] = None
            elif not attempt.allowed and _let_through(reply):
                excess[attempt.said] = None
        return [
            *([f"needed, but refused: {', '.join(missing)}"] if missing else []),
            *([f"allowed, but must not be: {', '.join(excess)}"] if excess else []),
        ]

    def _attempts(self) -> Iterator[_Attempt]:
        writers = [grant for grant in self._grants if not grant.read_only]
        names = commands(self._mode, read_only=not writers, database=self._database)
        example = (writers or list(self._grants))[0]
        for name in names:
            if name not in ("multi", "exec"):
                key = self._session(example, self._own(example))
                yield _Attempt(self._command(name, key), True, name.replace("|", " ").upper())
        for grant in self._grants:
            yield from self._of_memory(grant)
        yield from self._of_others()
        for line in _FORBIDDEN:
            words = line.split()
            named = (
                words[:2] if words[0] in ("SCRIPT", "FUNCTION", "CONFIG", "CLIENT") else words[:1]
            )
            yield _Attempt(_words(line), False, " ".join(named))

    def _of_memory(self, grant: Grant) -> Iterator[_Attempt]:
        memory, base = str(grant.memory), memory_prefix(grant.memory, self._prefix)
        own = self._session(grant, self._own(grant))
        yield _Attempt(("HMGET", f"{base}:policy", "x"), True, f"reading the policy of {memory}")
        yield _Attempt(("HMGET", f"{base}:usage", "x"), True, f"reading the usage of {memory}")
        yield _Attempt(("LRANGE", own, 0, 0), True, f"reading sessions of {memory}")
        yield _Attempt(("HMGET", f"{base}:owner", "x"), False, f"reading the owner of {memory}")
        yield _Attempt(
            ("HSET", f"{base}:policy", "x", "x"), False, f"writing the policy of {memory}"
        )
        yield _Attempt(("HSET", f"{base}:usage", "x", "x"), False, f"writing the usage of {memory}")
        may = not grant.read_only
        yield _Attempt(("RPUSH", own, "x"), may, f"writing sessions of {memory}")
        for key in (f"{base}:sessions", f"{base}:label:names"):
            yield _Attempt(("ZADD", key, 1, "x"), may, f"writing the index of {memory}")
        if grant.fixed:
            # One that begins alike, as far as another session can.
            other = f"{grant.fixed}0" if grant.whole else f"{grant.fixed[:-1]}0"
            for name in (other, self._nobody):
                key = self._session(grant, name)
                yield _Attempt(("LRANGE", key, 0, 0), False, f"reading other sessions of {memory}")
                yield _Attempt(("RPUSH", key, "x"), False, f"writing other sessions of {memory}")

    def _of_others(self) -> Iterator[_Attempt]:
        names = (self._nobody, f"{self._grants[0].memory.namespace}/{self._nobody}")
        keys = [f"{self._prefix}:{{{name}/x}}:log" for name in names]
        keys += [f"{self._prefix}:{{{self._grants[0].memory}{self._nobody}/x}}:log", self._nobody]
        for key in keys:
            yield _Attempt(("LRANGE", key, 0, 0), False, "reading keys of others")
            yield _Attempt(("RPUSH", key, "x"), False, "writing keys of others")

    def _own(self, grant: Grant) -> str:
        return grant.fixed if grant.whole else grant.fixed + self._nobody

    def _session(self, grant: Grant, key: str) -> str:
        return f"{self._prefix}:{{{grant.memory}/{key}}}:log"

    def _command(self, name: str, key: str) -> Command:
        given = {"KEY": key, "SHA": "0" * 40, "DATABASE": str(self._database)}
        words = [given.get(word, word) for word in ARGUMENTS[name].split()]
        return (*name.upper().split("|"), *words)


def _words(line: str) -> Command:
    return tuple(line.split())


def _let_through(reply: Reply) -> bool:
    """Whether permission was given; an error that only comes after it does not count as one."""
    return not isinstance(reply, Exception) or isinstance(reply, _AFTER_PERMISSION)


def _throws_away(begun: Reply, ended: Reply) -> bool:
    """Whether a transaction began, and came to nothing for what was malformed in it."""
    for reply in (begun, ended):
        if isinstance(reply, Exception) and passes(reply):
            raise_for(reply)
    if isinstance(begun, Exception) or not isinstance(ended, ExecAbortError):
        return False
    return "NOPERM" not in str(ended)  # so ends one whose user may not run EXEC
