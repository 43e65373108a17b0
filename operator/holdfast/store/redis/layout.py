"""The names of the keys in Redis and the packing of arguments: here and in the scripts is the layout."""

from typing import NamedTuple

from holdfast.keys import memory_prefix, session_prefix
from holdfast.values import Caller, MemoryAddress, Prepared, Terms

LAYOUT = 1
WAKE_SUFFIX = b":w:"


class SessionKeys(NamedTuple):
    """The keys of one session. All in one hash slot."""

    meta: bytes
    log: bytes
    pin: bytes
    ids: bytes
    hist: bytes
    queue: bytes


class MemoryKeys(NamedTuple):
    """The keys of one memory itself."""

    policy: bytes
    owner: bytes
    usage: bytes
    sessions: bytes


def session_keys(memory: MemoryAddress, key: str, prefix: str) -> SessionKeys:
    """Return the keys of a session."""
    base = session_prefix(memory, key, prefix)
    names = ("meta", "log", "pin", "ids", "hist", "q")
    return SessionKeys(*(f"{base}:{name}".encode() for name in names))


def memory_keys(memory: MemoryAddress, prefix: str) -> MemoryKeys:
    """Return a memory's own keys."""
    base = memory_prefix(memory, prefix)
    return MemoryKeys(*(f"{base}:{name}".encode() for name in MemoryKeys._fields))


def pack_terms(terms: Terms) -> bytes:
    """Pack the numbers of a policy into the one argument that the scripts take."""
    return (
        f"{terms.revision}|{terms.max_tokens}|{terms.max_messages}|{int(terms.refuse)}|{terms.ttl}|"
        f"{terms.after_clear}|{terms.after_flush}|{terms.max_lifetime}|{int(terms.refresh)}|"
        f"{terms.lease}|{terms.grant}|{int(terms.enforced)}|{terms.max_ids}"
    ).encode()


def pack_caller(caller: Caller, *, create: bool) -> str:
    """Pack what a caller knows."""
    return f"{caller.token}|{caller.epoch}|{caller.seen}|{int(create)}"


def pack_record(record: Prepared, encoded_id: bytes) -> bytes:
    """Pack one message: what the script reads, then the rest of the record as it will be stored."""
    head = (
        f"{record.tokens}|{record.flags}|{record.group}|{','.join(record.opens)}|"
        f"{','.join(record.closes)}|,"
    )
    return b"%b%b,%b]" % (head.encode(), encoded_id, record.body)
