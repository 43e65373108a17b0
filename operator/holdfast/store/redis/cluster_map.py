"""What the nodes of a Cluster say about it: who has which slots, and who is there. Pure functions."""

from collections.abc import Iterator
from typing import Any, cast

from redis.crc import REDIS_CLUSTER_HASH_SLOTS
from redis.exceptions import ResponseError

from holdfast.errors import ConfigurationError
from holdfast.store.addresses import Node
from holdfast.store.redis.carrier import Reply
from holdfast.store.redis.replies import named, raise_for, text

_NOBODY = ("", "?")
"""What stands for the host of a node that does not know its own name."""


def owners_in(slots: Reply, asked: Node) -> list[Node | None]:
    """Read the reply of CLUSTER SLOTS: the primary of each slot.

    Args:
        slots: the reply.
        asked: whose it is; a node that does not know its own name is where it was asked.
    """
    if isinstance(slots, ResponseError) and "cluster support disabled" in str(slots):
        raise ConfigurationError(
            "the server is no node of a Cluster: write its address as redis://"
        ) from slots
    if isinstance(slots, Exception):
        raise_for(slots)
    owners: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, primary, *_ in cast("list[list[Any]]", slots):
        owners[first : last + 1] = [_node(primary, asked)] * (last + 1 - first)
    return owners


def replicas_in(slots: Reply, asked: Node) -> list[Node]:
    """Read the reply of CLUSTER SLOTS: the replicas of all shards that have slots."""
    shards = cast("list[list[Any]]", slots)
    return [_node(replica, asked) for _, _, _, *replicas in shards for replica in replicas]


def members_in(shards: Reply, asked: Node, *, secure: bool) -> list[Node]:
    """Read the reply of CLUSTER SHARDS: every node that has not failed, those without slots too.

    Empty where the server does not tell: it is old, or denies the command.

    Args:
        shards: the reply.
        asked: whose it is.
        secure: for connections with TLS.
    """
    if isinstance(shards, Exception):
        return []
    return list(_members(cast("list[Any]", shards), asked, secure=secure))


def _members(shards: list[Any], asked: Node, *, secure: bool) -> Iterator[Node]:
    for shard in shards:
        for said in map(named, named(shard)["nodes"]):
            # A primary that failed and still has slots is found by those.
            away = text(said.get("health")) == "fail"
            port = said.get("tls-port" if secure else "port")
            if port and not away:
                host = text(said.get("endpoint"))
                yield (host if host not in _NOBODY else asked[0], int(port))


def _node(said: list[Any], asked: Node) -> Node:
    host = text(said[0])
    return (host if host not in _NOBODY else asked[0], int(said[1]))
