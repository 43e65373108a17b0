"""A carrier for a Cluster: to the node that has the key, and on to where that node points.

redis-py's RedisCluster is not used: it repeats a command after a broken connection as often as after a
redirection, and cannot be told to do the one without the other. What is needed of it is little: a map
from slots to nodes, and following MOVED and ASK, which both say that nothing was done.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

from redis.crc import key_slot
from redis.exceptions import AskError, MovedError

from holdfast.breaker import all_away
from holdfast.errors import AccessDenied, HoldfastError, StoreUnavailable
from holdfast.store.addresses import Node
from holdfast.store.redis.carrier import Broken, Carrier, Command, PoolCarrier, Reply, key_of
from holdfast.store.redis.cluster_map import members_in, owners_in, replicas_in

_REDIRECTIONS = 5
_PAUSE = 0.05  # seconds between two looks at the map
_LOOK = 1.0  # seconds that one node may take to show it
_SLOTS: Command = (b"CLUSTER", b"SLOTS")
_SHARDS: Command = (b"CLUSTER", b"SHARDS")


class _Redirection(NamedTuple):
    """Where some of the commands should have gone: their positions, and whether to ask there only now."""

    node: Node
    positions: list[int]
    asking: bool


class ClusterCarrier:
    """A carrier over the primaries of a Cluster, each with connections of its own.

    Args:
        nodes: some of them, host and port; the others are learned from these.
        connect: makes the carrier of one node.
        secure: the connections use TLS, for which nodes may have a port of its own.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        connect: Callable[[Node], PoolCarrier],
        *,
        secure: bool = False,
    ) -> None:
        self._seeds = tuple(nodes)
        self._connect = connect
        self._secure = secure
        self._members: frozenset[Node] = frozenset()
        self._carriers: dict[Node, PoolCarrier] = {}
        self._owners: list[Node | None] = []
        self._heirs: dict[
            int, Node
        ] = {}  # who was last asked about a slot that is on its way there
        self._stale = True
        self._closed = False
        self._looked = float("-inf")
        self._witness: Node | None = None
        self._looking = asyncio.Lock()

    async def exchange(self, commands: Sequence[Command], *, near: bytes = b"") -> list[Reply]:
        """Send commands and return their replies; see `Carrier`."""
        await self._look()
        parts = self._parts(commands, near)
        if len(parts) == 1:
            return await self._follow(parts[0][0], commands)
        replies: list[Reply] = [None] * len(commands)
        for node, positions in parts:
            try:
                some = await self._follow(node, [commands[at] for at in positions])
            except (Broken, StoreUnavailable) as error:
                some = [error] * len(positions)
            for at, reply in zip(positions, some, strict=True):
                replies[at] = reply
        return replies

    async def block(self, command: Command, seconds: float) -> Reply | None:
        """Send a command that blocks; see `Carrier`.

        Returns early where the key moves: whoever waits asks again, and that call is redirected.
        """
        await self._look()
        node = self._owner(key_of(command))
        try:
            return await self._carrier(node).block(command, seconds)
        except (Broken, StoreUnavailable):
            self._stale = True
            raise

    async def nodes(self) -> Sequence[Carrier]:
        """Return carriers to all nodes, those without slots and replicas included; see `Carrier`."""
        async with self._looking:
            self._stale = True
            asked, (slots, shards) = await self._ask_for_map(_SLOTS, _SHARDS)
            others = members_in(shards, asked, secure=self._secure) or replicas_in(slots, asked)
            members = dict.fromkeys([*filter(None, self._owners), *others])
            self._members = frozenset(members)
            await self._tidy()
            return [self._carrier(node) for node in members]

    async def primaries(self) -> Sequence[Carrier]:
        """Return carriers to the nodes that have slots, in the order of these; see `Carrier`."""
        async with self._looking:
            self._stale = True
            await self._ask_for_map(_SLOTS)
            owners = dict.fromkeys(filter(None, self._owners))
            if not owners:
                raise StoreUnavailable("no node of the Cluster has any slots")
            return [self._carrier(node) for node in owners]

    async def aclose(self) -> None:
        """Close all connections."""
        self._closed = True
        while self._carriers:
            _, carrier = self._carriers.popitem()
            await carrier.aclose()

    def _parts(self, commands: Sequence[Command], near: bytes) -> list[tuple[Node, list[int]]]:
        """Sort commands by node, in the order of their first one; those without a key go with others."""
        if commands[0][0] == b"MULTI":
            near = next(filter(None, map(key_of, commands)), near)
        parts: dict[Node, list[int]] = {}
        loose: list[int] = []
        node: Node | None = self._answering(near) if near else None
        for at, command in enumerate(commands):
            key = None if near else key_of(command)
            if key is not None:
                node = self._owner(key)
            if node is None:
                loose.append(at)
            else:
                parts.setdefault(node, []).append(at)
        if loose:
            first = next(iter(parts), None) or self._owner(None)
            parts[first] = loose + parts.get(first, [])
        return list(parts.items())

    async def _follow(self, node: Node, commands: Sequence[Command]) -> list[Reply]:
        """Send commands to a node, and those that it sends on to where it says."""
        replies = await self._talk(node, commands)
        asked = False
        for _ in range(_REDIRECTIONS):
            redirection = _redirection(node, commands, replies)
            if redirection is None:
                if self._heirs and not asked:
                    self._heirs = {
                        slot: heir
                        for slot, heir in self._heirs.items()
                        if slot not in _slots_of(commands)
                    }
                return replies
            if not redirection.asking:
                self._moved(node, replies)
            some = [commands[at] for at in redirection.positions]
            if redirection.asking:
                asked = True
                self._heirs |= dict.fromkeys(_slots_of(some), redirection.node)
                again = await self._ask(redirection.node, some)
            else:
                again = await self._talk(redirection.node, some)
                node = redirection.node
            for at, reply in zip(redirection.positions, again, strict=True):
                replies[at] = reply
        raise StoreUnavailable("the nodes of the Cluster send the call to each other: slots move")

    async def _ask(self, node: Node, commands: Sequence[Command]) -> list[Reply]:
        """Send commands to the node that is about to get their slot, which has to be told each time."""
        if commands[0][0] == b"MULTI":  # where once is enough
            return (await self._talk(node, [(b"ASKING",), *commands]))[1:]
        told: list[Command] = []
        for command in commands:
            told += [(b"ASKING",), command]
        return (await self._talk(node, told))[1::2]

    async def _talk(self, node: Node, commands: Sequence[Command]) -> list[Reply]:
        try:
            return await self._carrier(node).exchange(commands)
        except (Broken, StoreUnavailable):
            self._stale = True
            raise

    def _carrier(self, node: Node) -> PoolCarrier:
        carrier = self._carriers.get(node)
        if carrier is None:
            carrier = self._carriers[node] = self._connect(node)
            if self._closed:
                carrier.keep_nothing()
        return carrier

    def _owner(self, key: bytes | None) -> Node:
        owner = self._owners[key_slot(key)] if key is not None else None
        return owner or random.choice(self._known())  # noqa: S311 - any will do

    def _answering(self, key: bytes) -> Node:
        """The node that answered last for a key: its slot's owner, or who is about to get the slot."""
        return self._heirs.get(key_slot(key)) or self._owner(key)

    def _known(self) -> list[Node]:
        return list({owner for owner in self._owners if owner is not None}) or list(self._seeds)

    def _moved(self, node: Node, replies: Sequence[Reply]) -> None:
        """Believe a node about slots, and look at the whole map with the next call."""
        for reply in replies:
            if isinstance(reply, MovedError):
                self._owners[reply.slot_id] = self._witness = _target(reply, node)
        self._stale = True

    async def _look(self) -> None:
        """Learn which node has which slots, unless that is known.

        Raises:
            StoreUnavailable: no node says.
            AccessDenied: none may be asked with these credentials.
            ConfigurationError: they are no Cluster.
        """
        if self._owners and (not self._stale or time.monotonic() - self._looked < _PAUSE):
            return
        async with self._looking:
            if not self._owners or self._stale:  # else somebody else looked meanwhile
                await self._ask_for_map(_SLOTS)

    async def _ask_for_map(self, *questions: Command) -> tuple[Node, list[Reply]]:
        """Ask one node after the other for the map, and what else it may know.

        Args:
            questions: CLUSTER SLOTS first.

        Returns:
            The node that answered, and its replies.

        Raises:
            StoreUnavailable, AccessDenied, ConfigurationError: see `_look`.
        """
        failure: HoldfastError = StoreUnavailable("no node of the Cluster can be reached")
        failures: list[BaseException] = []
        for node in self._to_ask():
            self._stale = False  # again true by what others find out while we ask
            try:
                async with asyncio.timeout(_LOOK):
                    replies = await self._carrier(node).exchange(questions)
                owners = owners_in(replies[0], node)
            except BaseException as error:
                self._stale = True
                failures.append(error)
                if isinstance(error, AccessDenied):
                    failure = error
                elif not isinstance(error, (Broken, StoreUnavailable, TimeoutError)):
                    raise
                continue
            self._looked = time.monotonic()
            self._owners = owners
            await self._tidy()
            return node, replies
        if away := all_away(failures):
            raise away
        if failure in failures:
            raise failure
        raise failure from next(iter(failures), None)  # which says more, such as that TLS failed

    def _to_ask(self) -> Iterator[Node]:
        """The nodes that may know, each once: best first who told us that something changed."""
        known = self._known()
        random.shuffle(known)
        witness = [self._witness] if self._witness else []
        self._witness = None
        return iter(dict.fromkeys([*witness, *known, *self._seeds]))

    async def _tidy(self) -> None:
        """Close the connections to nodes that are no longer of use."""
        for node in self._carriers.keys() - {*self._owners, *self._members, *self._seeds}:
            await self._carriers.pop(node).retire()


def _slots_of(commands: Sequence[Command]) -> set[int]:
    return {key_slot(key) for key in map(key_of, commands) if key is not None}


def _redirection(
    node: Node, commands: Sequence[Command], replies: Sequence[Reply]
) -> _Redirection | None:
    """Find what a node sent elsewhere, all to one place; what has no key goes along with it."""
    error = next((reply for reply in replies if isinstance(reply, AskError)), None)
    if error is None:
        return None
    target = _target(error, node)
    asking = not isinstance(error, MovedError)
    if commands[0][0] == b"MULTI":  # as a whole, since nothing of it was done
        return _Redirection(target, list(range(len(commands))), asking)
    positions = [
        at
        for at, (command, reply) in enumerate(zip(commands, replies, strict=True))
        if key_of(command) is None
        or (type(reply) is type(error) and _target(reply, node) == target)
    ]
    return _Redirection(target, positions, asking)


def _target(error: AskError, node: Node) -> Node:
    """Where a node sends us; without a host it means its own."""
    host = cast("str", error.host)  # pyright: ignore[reportUnknownMemberType]
    return (host or node[0], error.port)
