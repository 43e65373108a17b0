r"""The rule of a user: exactly what the library sends, on exactly the keys of its memories.

A server checks a command inside a script as if its user had sent it, so the list is that of the
scripts, read from their text, and of what the library sends besides. Nothing is granted by category:
what a category holds, the next release of the server decides. There is no EVAL and no SCRIPT LOAD, since
whoever may run any Lua can stop the server; nothing that names keys, such as SCAN; nothing that tells of
the server, such as INFO; and no channel.

A pattern is safe to build from names because none of them can hold `* ? [ ] \`: see `check_grants`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Final

from holdfast.keys import memory_prefix
from holdfast.store.access import AccessUser, Grant, check_grants
from holdfast.store.addresses import Mode
from holdfast.store.redis.script import Script, script

SESSION_SCRIPTS: Final = (
    *(
        "acquire",
        "append",
        "clear",
        "erase",
        "flusher",
        "import",
        "index",
        "migrate",
        "page",
        "pin",
    ),
    *("pop", "release", "renew", "replace", "splice", "tail", "touch", "trim", "unlist"),
)
"""What the library runs. The others are the operator's, and ask for more."""

CONNECTING: Final = ("client|setinfo",)
"""What a client sends on connecting and can do without. Redis 7.0 does not know it."""

_READING: Final = (
    *("evalsha_ro", "exec", "hgetall", "hmget", "lrange", "multi", "ping", "time"),
    *("zcard", "zrange"),
)
_WRITING: Final = ("blpop", "evalsha", "exists", "hexists", "wait")
_BY_MODE: Final = {
    Mode.STANDALONE: (),
    Mode.SENTINEL: ("role",),  # whether this is the primary: an old one answers reads with what was
    Mode.CLUSTER: ("asking", "cluster|slots"),
}
_PASTED_ALONG: Final = frozenset({"hset"})
"""In pieces that the reading scripts take in whole; the server refuses a write there anyway."""
_CALL: Final = re.compile(rb"""\bp?call\(\s*['"]([A-Za-z]+)['"]""")


def commands(mode: Mode, *, read_only: bool, database: int = 0) -> tuple[str, ...]:
    """Return the commands that the library needs, in alphabetical order.

    Args:
        mode: of the backend.
        read_only: nothing is written.
        database: its number; for another than the first each connection asks.
    """
    names = {*_READING, *_BY_MODE[mode]}
    if not read_only:
        names |= set(_WRITING)
    if database:
        names.add("select")
    for one in map(script, SESSION_SCRIPTS):
        if not read_only:
            names |= called_by(one)
        elif one.command == b"EVALSHA_RO":
            names |= called_by(one) - _PASTED_ALONG
    return tuple(sorted(names))


def called_by(one: Script) -> frozenset[str]:
    """Return the commands that a script calls."""
    return _called_in(one.body)


@cache
def _called_in(text: bytes) -> frozenset[str]:
    # Once for each script: an operator asks for every binding, again and again.
    return frozenset(name.decode().lower() for name in _CALL.findall(text))


def patterns(grants: Iterable[Grant], prefix: str) -> tuple[str, ...]:
    """Return the keys that grants open: `~` to read and write, `%R~` to read.

    The marker `:owner` is the operator's alone. Where fields are fixed, a writer still needs the index
    of the memory's sessions, and so sees their names; a reader does not.

    Args:
        grants: what is granted, checked.
        prefix: first part of every key, `spec.keyPrefix` of the MemoryBackend.
    """
    return tuple(pattern for grant in grants for pattern in _patterns(grant, prefix))


def _patterns(grant: Grant, prefix: str) -> Iterator[str]:
    base = memory_prefix(grant.memory, prefix)
    access = "%R~" if grant.read_only else "~"
    yield f"%R~{base}:policy"
    yield f"%R~{base}:usage"
    if not (grant.read_only and grant.fixed):
        yield f"{access}{base}:sessions"
        yield f"{access}{base}:label:*"
    inside = f"{base.removesuffix('}')}/{grant.fixed}"
    yield f"{access}{inside}}}:*" if grant.whole else f"{access}{inside}*"


def permissions(
    grants: Sequence[Grant], mode: Mode, prefix: str, *, database: int = 0
) -> tuple[str, ...]:
    """Return what grants allow, as parts of a rule that begins from nothing.

    Raises:
        ValueError: they are no grants.
    """
    check_grants(grants)
    read_only = all(grant.read_only for grant in grants)
    names = commands(mode, read_only=read_only, database=database)
    allowed = (f"+{name}" for name in names)
    return ("resetchannels", "-@all", *allowed, *patterns(grants, prefix))


def rules(
    user: AccessUser, mode: Mode, prefix: str, *, database: int = 0, extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the whole rule of a user: what ACL SETUSER takes behind the name.

    Args:
        user: as it should be.
        mode: of the backend.
        prefix: first part of every key.
        database: its number.
        extra: parts that not every server knows.
    """
    hashes = (f"#{each}" for each in user.passwords)
    allowed = permissions(user.grants, mode, prefix, database=database)
    return ("reset", "on", *hashes, *allowed, *extra)
