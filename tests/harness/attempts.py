"""Every command that a server has, in many forms: what somebody may try who holds a tenant's password."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

_FILLERS = ("0", "1", "x", "*", "-1")

_BLOCKING = {
    "blpop": ("OWN 0.01", "OTHERS 0.01", "OWN OTHERS 0.01", "OTHERS OWN 0.01", "OTHERS x"),
    "wait": ("0 0", "1 10", "9 1", "x x", "-1 -1"),
}
"""Those that a tenant may run, and with which it would only keep its own connection."""


class Known(NamedTuple):
    """A command as the server describes it.

    Attributes:
        words: its name, and that of its subcommand.
        arity: how many words it takes, name included; negative for at least so many.
        keywords: words that stand before a key.
    """

    words: tuple[str, ...]
    arity: int
    keywords: tuple[str, ...]

    @property
    def name(self) -> str:
        """As a rule names it."""
        return "|".join(self.words)


async def commands_of(raw: Redis) -> list[Known]:
    """Ask a server for every command and subcommand."""
    found: list[Known] = []
    # Over a connection of its own, since the client reads these answers its own way.
    connection = await raw.connection_pool.get_connection()
    try:
        await connection.send_command("COMMAND", "LIST")
        for name in sorted(await connection.read_response()):
            await connection.send_command("COMMAND", "INFO", name)
            [info] = await connection.read_response()
            found += [_known(each) for each in info[9] or [info]]
    finally:
        await raw.connection_pool.release(connection)
    return found


def _known(info: Sequence[Any]) -> Known:
    keywords = [spec for spec in map(_pairs, info[8]) for spec in [_pairs(spec["begin_search"])]]
    words = [_pairs(spec["spec"]).get("keyword") for spec in keywords]
    return Known(
        tuple(_text(info[0]).split("|")), int(info[1]), tuple(_text(word) for word in words if word)
    )


def attempts(command: Known, own: str, others: str) -> Iterator[tuple[str, ...]]:
    """Return forms of a command that reach for a key of one's own and for one of others."""
    if command.name in _BLOCKING:
        given = {"OWN": own, "OTHERS": others}
        for line in _BLOCKING[command.name]:
            yield (*command.words, *(given.get(word, word) for word in line.split()))
        return
    need = max(abs(command.arity) - len(command.words), 0)
    for size in [need] if command.arity > 0 else range(need, need + 4):
        forms = {
            *(tuple([filler] * size) for filler in (*_FILLERS, others, own)),
            *(
                (key, *[filler] * (size - 1))
                for key in (own, others)
                for filler in _FILLERS
                if size
            ),
            *((filler, others, *["0"] * (size - 2)) for filler in ("0", "1", "x") if size > 1),
            *((own, *[others] * (size - 1)) for _ in range(min(size, 1))),
            *(("2", own, others, *["0"] * (size - 3)) for _ in range(size > 2)),
            *((*["0"] * (size - 1), others) for _ in range(min(size, 1))),
        }
        yield from (command.words + form for form in sorted(forms))
    for word in command.keywords:
        yield (*command.words, own, word, others, "0")
        yield (*command.words, word, others, "0")
        yield (*command.words, "COUNT", "1", word, own, others, "0", "0")


def special(own: str, others: str) -> list[tuple[str, ...]]:
    """Return what needs a thought: ways to list, to read aside, to leave, to listen, to stop."""
    lines = [
        "SCAN 0 COUNT 1000",
        "SCAN 0 MATCH mem:* COUNT 1000",
        "KEYS *",
        "SORT OWN BY OTHERS GET OTHERS",
        "SORT OWN BY nosort GET mem:*",
        "SORT OWN STORE OTHERS",
        "SORT_RO OWN BY mem:* GET mem:*",
        "COPY OTHERS OWN REPLACE",
        "COPY OWN OTHERS DB 1 REPLACE",
        "MOVE OTHERS 1",
        "RENAME OTHERS OWN",
        "SMOVE OTHERS OWN x",
        "LMOVE OTHERS OWN LEFT LEFT",
        "LMPOP 2 OWN OTHERS LEFT",
        "BLPOP OWN OTHERS 0.01",
        "BLMPOP 0.01 2 OWN OTHERS LEFT",
        "ZUNIONSTORE OWN 1 OTHERS",
        "ZADD OTHERS 1 x",
        "XREAD STREAMS OTHERS 0",
        "XADD OTHERS * a b",
        "MIGRATE 127.0.0.1 1 OTHERS 0 10 COPY",
        "RESTORE OTHERS 0 x REPLACE",
        "DUMP OTHERS",
        "OBJECT ENCODING OTHERS",
        "MEMORY USAGE OTHERS",
        "DEBUG SLEEP 30",
        "DEBUG SEGFAULT",
        "SHUTDOWN NOSAVE",
        "FLUSHALL SYNC",
        "FLUSHDB",
        "SWAPDB 0 1",
        "SELECT 1",
        "MONITOR",
        "PSUBSCRIBE *",
        "SUBSCRIBE __keyspace@0__:OTHERS",
        "SSUBSCRIBE OTHERS",
        "PUBLISH OTHERS x",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "CLIENT PAUSE 30000",
        "CLIENT TRACKING ON BCAST",
        "CLIENT REPLY OFF",
        "CONFIG SET maxmemory 1",
        "CONFIG SET requirepass x",
        "CONFIG REWRITE",
        "ACL SETUSER intruder on nopass +@all ~*",
        "ACL LIST",
        "ACL GENPASS",
        "AUTH default x",
        "AUTH x",
        "HELLO 3 AUTH default x",
        "REPLICAOF 127.0.0.1 1",
        "PSYNC ? -1",
        "SYNC",
        "FAILOVER",
        "SAVE",
        "BGREWRITEAOF",
        "MODULE LOAD /x.so",
        "FUNCTION LOAD REPLACE x",
        "FUNCTION FLUSH",
        "FUNCTION DUMP",
        "SCRIPT FLUSH",
        "SCRIPT KILL",
        "SCRIPT EXISTS x",
        "LATENCY RESET",
        "SLOWLOG GET",
        "CLUSTER RESET HARD",
        "CLUSTER COUNTKEYSINSLOT 1",
        "CLUSTER GETKEYSINSLOT 1 10",
        "CLUSTER KEYSLOT OTHERS",
        "ASKING",
        "READONLY",
        "WAITAOF 0 0 0",
    ]
    given = {"OWN": own, "OTHERS": others}
    return [
        ("EVAL", "while true do end", "0"),
        ("EVAL", "return redis.call('KEYS', '*')", "0"),
        ("EVAL", "return redis.call('LRANGE', ARGV[1], 0, -1)", "1", own, others),
        ("EVAL_RO", "return redis.call('LRANGE', ARGV[1], 0, -1)", "0", others),
        ("SCRIPT", "LOAD", "return redis.call('KEYS', '*')"),
        *(tuple(given.get(word, word) for word in line.split()) for line in lines),
    ]


def _pairs(reply: Any) -> dict[str, Any]:
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): value for name, value in pairs}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
