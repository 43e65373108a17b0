"""Every server that there is behind a carrier: what each says of itself, and the scripts on each.

What a server need not tell is optional: managed services deny INFO and CONFIG, or lack them. Where it
does not tell, nothing is assumed.
"""

import asyncio
import re
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from holdfast.errors import HoldfastError, ServerTooOld, StoreUnavailable
from holdfast.store.maintenance import ServerInfo
from holdfast.store.redis.carrier import Carrier, Command, Reply
from holdfast.store.redis.replies import named, text
from holdfast.store.redis.runner import Runner
from holdfast.store.redis.script import all_scripts

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_SOON: Final = 0.3  # seconds for which one of several is asked again
_OLDEST: Final = {"redis": (7, 0), "valkey": (7, 2)}
_VERSION: Final = r"\d{1,6}(\.\d{1,6}){0,3}([-.+][-.+\w]{1,24})?"
_MODE: Final = "standalone|sentinel|cluster"
_FACTS: Final = {
    "server_name": r"[-\w ]{1,32}",
    "redis_version": _VERSION,
    "valkey_version": _VERSION,
    "redis_mode": _MODE,
    "server_mode": _MODE,
    "used_memory": r"\d{1,18}",
    "maxmemory": r"\d{1,18}",
    "maxmemory_policy": "[-a-z]{1,32}",
    "aof_enabled": "[01]",
    "role": "master|slave|sentinel",
    "connected_slaves": r"\d{1,6}",
    "run_id": r"\w{1,64}",
}
"""What is read of INFO, and the form it has."""
_SETTINGS: Final = ("save", "min-replicas-to-write")
_QUESTIONS: Final[Sequence[Command]] = (
    *((b"INFO", section) for section in (b"server", b"memory", b"persistence", b"replication")),
    *((b"CONFIG", b"GET", name) for name in _SETTINGS),
    (b"COMMAND", b"INFO", b"acl|setuser"),
    (b"ACL", b"WHOAMI"),
    (b"ACL", b"GETUSER", b"default"),
)
_NOBODY: Final = b"am-nobody"
"""A user that never is: its name has not the form of ours."""
_KEEPING_USERS: Final[Sequence[Command]] = (
    (b"ACL", b"SETUSER", _NOBODY),
    (b"ACL", b"GETUSER", _NOBODY),
    (b"ACL", b"DELUSER", _NOBODY),
    (b"ACL", b"USERS"),
)
"""What it takes to keep users. Only asked about, never sent."""


class _Said(NamedTuple):
    """What one server says; None and empty where it does not."""

    facts: dict[str, str]
    settings: dict[str, str]
    manages_users: bool | None
    default_open: bool | None

    @property
    def primary(self) -> bool:
        return self.facts.get("role", "master") != "slave"

    @property
    def product(self) -> str:
        if "redis_version" not in self.facts:
            return ""
        return "valkey" if self.facts.get("server_name") == "valkey" else "redis"

    @property
    def version(self) -> str:
        return self.facts.get(f"{self.product}_version", "0") if self.product else ""

    @property
    def persists(self) -> bool | None:
        if self.facts.get("aof_enabled") == "1":
            return True
        save = self.settings.get("save")
        return None if save is None or "aof_enabled" not in self.facts else bool(save)


class Work(Protocol[T_co]):
    """Something to do on one server."""

    async def __call__(self, runner: Runner, /) -> T_co:
        """Do it."""
        ...


class Fleet:
    """The servers behind a carrier.

    Args:
        carrier: knows them.
        patience: seconds a call is repeated while a server cannot serve.
    """

    def __init__(self, carrier: Carrier, *, patience: float) -> None:
        self._carrier = carrier
        self._patience = patience

    async def info(self) -> ServerInfo:
        """Ask every server what it is; see `Maintenance.server`."""
        answers = await self._everywhere(self._ask)
        said = [one for one in answers if not isinstance(one, HoldfastError)]
        primaries = [one for one in said if one.primary]
        if not primaries:
            if isinstance(answers[0], HoldfastError):
                raise answers[0]
            raise StoreUnavailable("no primary answers: a replica takes no writes")
        for one in said:
            if one.product and _numbers(one.version) < _OLDEST[one.product]:
                raise ServerTooOld(
                    f"the server is {one.product} {one.version}: holdfast needs Redis 7.0 or Valkey 7.2 "
                    "at least"
                )
        oldest = min(said, key=lambda one: _numbers(one.version))
        full = [share for one in primaries if (share := _share(one)) is not None]
        minima = [_number(one.settings.get("min-replicas-to-write")) for one in primaries]
        replicas = [_number(one.facts.get("connected_slaves")) for one in primaries]
        policies = [one.facts.get("maxmemory_policy", "") for one in primaries]
        return ServerInfo(
            product=oldest.product,
            version=oldest.version,
            mode=oldest.facts.get("redis_mode") or oldest.facts.get("server_mode") or "",
            used_memory=sum(_number(one.facts.get("used_memory")) or 0 for one in primaries),
            max_memory=sum(_number(one.facts.get("maxmemory")) or 0 for one in primaries),
            eviction_policy=next((one for one in policies if one != "noeviction"), policies[0]),
            most_full=max(full, default=None),
            least_full=min(full) if len(full) == len(primaries) else None,
            persists=_all([one.persists for one in primaries]),
            min_replicas=min((one for one in minima if one is not None), default=None),
            replicas=min((one for one in replicas if one is not None), default=None),
            manages_users=_all([one.manages_users for one in said]),
            default_open=_any([one.default_open for one in said]),
            servers=len(answers),
            silent=len(answers) - len(said),
            runs=frozenset(one.facts["run_id"] for one in said if "run_id" in one.facts),
        )

    async def load_scripts(self) -> None:
        """Make sure that every server knows every script; see `Maintenance.load_scripts`."""
        await self._everywhere(self._load)

    async def _everywhere(self, work: Work[T]) -> list[T | HoldfastError]:
        """Do something on every server, and return what came of it.

        Only one that is alone is waited for: among several one that does not answer is skipped soon.

        Raises:
            HoldfastError: of the first one, where none could do it.
        """
        nodes = await self._carrier.nodes()
        patience = self._patience if len(nodes) == 1 else min(self._patience, _SOON)
        runners = [Runner(node, patience=patience) for node in nodes]
        done = await asyncio.gather(*(_attempt(work, runner) for runner in runners))
        failures = [one for one in done if isinstance(one, HoldfastError)]
        if len(failures) == len(done):
            raise failures[0]
        return done

    async def _ask(self, runner: Runner) -> _Said:
        replies = await runner.ask(_QUESTIONS)
        sections, rest = replies[:4], replies[4:]
        settings: dict[str, str] = {}
        for reply in rest[: len(_SETTINGS)]:
            if not isinstance(reply, Exception):
                settings |= {name: text(value) for name, value in named(reply).items()}
        known, who, default = rest[len(_SETTINGS) :]
        manages = await _manages(runner, known, who)
        return _Said(_facts(sections), settings, manages, _lets_anybody_in(default))

    async def _load(self, runner: Runner) -> None:
        scripts = all_scripts()
        [known] = await runner.read([(b"SCRIPT", b"EXISTS", *(one.sha for one in scripts))])
        missing = [one for one, there in zip(scripts, known, strict=True) if not there]
        if missing:
            await runner.read([(b"SCRIPT", b"LOAD", one.body) for one in missing])


async def _attempt(work: Work[T], runner: Runner) -> T | HoldfastError:
    try:
        return await work(runner)
    except HoldfastError as error:
        return error


async def _manages(runner: Runner, known: Reply, who: Reply) -> bool | None:
    """Find out whether we could keep users there, without making one. None: it does not say."""
    if not isinstance(known, Exception) and not any(known):
        return False  # there is no such command
    if isinstance(who, Exception):
        return None
    user = text(who)
    answers = await runner.ask([(b"ACL", b"DRYRUN", user, *command) for command in _KEEPING_USERS])
    return _all([None if isinstance(one, Exception) else text(one) == "OK" for one in answers])


def _lets_anybody_in(default: Reply) -> bool | None:
    """Whether the user that a connection has without login may do anything. None: it does not say.

    Args:
        default: the reply of ACL GETUSER for it.
    """
    if not isinstance(default, (dict, list)):
        return None
    try:
        says = named(default)
        flags, commands = set(map(text, says["flags"])), text(says["commands"]).split()
    except (KeyError, TypeError, ValueError):  # no Redis says such a thing of a user
        return None
    return {"on", "nopass"} <= flags and commands != ["-@all"]


def _facts(sections: Sequence[Reply]) -> dict[str, str]:
    """Read what a server says of itself, as far as it matters; empty where it may not be asked.

    Raises:
        StoreUnavailable: no Redis says such a thing. It is not quoted: who knows what answered.
    """
    told = [one for one in sections if not isinstance(one, Exception)]
    facts: dict[str, str] = {}
    for line in b"\n".join(one for one in told if isinstance(one, bytes)).splitlines():
        name, _, value = line.decode(errors="replace").partition(":")
        form = _FACTS.get(name)
        if form is not None:
            if not re.fullmatch(form, value):
                raise _no_server()
            facts[name] = value
    if told and "redis_version" not in facts:
        raise _no_server()
    return facts


def _no_server() -> StoreUnavailable:
    return StoreUnavailable(
        "what answers is neither a Redis nor a Valkey server: check the address"
    )


def _share(said: _Said) -> int | None:
    """Return how much of its memory a server uses, in percent; None without a limit."""
    most = _number(said.facts.get("maxmemory"))
    return 100 * (_number(said.facts.get("used_memory")) or 0) // most if most else None


def _all(answers: Sequence[bool | None]) -> bool | None:
    """Whether all say yes; None where none says no, and not all say anything."""
    if False in answers:
        return False
    return None if None in answers else True


def _any(answers: Sequence[bool | None]) -> bool | None:
    """Whether one says yes; None where none does, and not all say anything."""
    if True in answers:
        return True
    return None if None in answers else False


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and re.fullmatch(r"\d{1,18}", value) else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
