"""The life of a namespace: phases, each with operators that may die in it, and what must hold after it."""

import asyncio
import base64
import json
import secrets
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self, TypeAlias
from urllib.parse import quote

import aiohttp
from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError

from holdfast.client import Client
from holdfast.errors import AccessDenied, HoldfastError
from holdfast.store.redis import RedisStore
from tests.chaos.api import Api, Reference
from tests.chaos.operators import Fate, Nursery, Operator
from tests.harness.control_plane import ControlPlane
from tests.harness.operator_process import RBAC
from tests.harness.servers import Server, redis_client
from tests.harness.waiting import until

ADMIN: Final = f"admin-{secrets.token_hex(12)}"
"""The password of the servers' default user."""
SECRET: Final = Reference("Secret", "login")
BACKEND: Final = Reference("MemoryBackend", "shared")
RESOURCE: Final = Reference("MemoryResource", "support")
BINDING: Final = Reference("MemoryBinding", "agent")
ISSUED: Final = Reference("Secret", "agent-holdfast")
ERASURE: Final = Reference("MemoryErasure", "order")
_GRANTS: Final = ("backend-secrets", "binding-secrets")
_WRITTEN, _LOOKED = 0.1, 0.2
"""Seconds between a writer's messages, and between looks at what converges. Dozens of lives share one
process and two cores with their operators: more often, and they would keep each other from going on."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What lives share.

    Attributes:
        plane: the API server.
        api: its administrator's requests.
        nursery: of the operators.
        server: a Redis or Valkey whose default user has the password `ADMIN`.
        patience: seconds for everything to converge.
        watched: seconds at rest that are looked at.
        rest: seconds within which an operator must come to rest.
    """

    plane: ControlPlane
    api: Api
    nursery: Nursery
    server: Server
    patience: float = 240.0
    watched: float = 2.0
    rest: float = 60.0


@dataclass(slots=True)
class Expected:
    """What must be there.

    Attributes:
        revision: of the policy.
        limit: messages a session may hold.
        ttl: milliseconds; a session's life is more than half of them.
        acknowledged: by session, the text of each message, in order.
        shown: words that nobody may be shown.
    """

    revision: int = 0
    limit: int = 0
    ttl: int = 0
    acknowledged: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    shown: set[str] = field(default_factory=lambda: {ADMIN})


@dataclass(frozen=True, slots=True)
class Place:
    """Where sessions are kept.

    Attributes:
        spec: of the MemoryBackend, its login apart.
        url: for the library, with `{login}` in it.
        port: gives the port of the primary.
    """

    spec: dict[str, Any]
    url: str
    port: Callable[[], Awaitable[int]]

    @classmethod
    def on(cls, server: Server, *, through: int | None = None) -> Self:
        """Return the place on one server, which the operator reaches at another port if one is given."""

        async def port() -> int:
            return server.port

        spec = {"endpoints": [f"127.0.0.1:{through or server.port}"]}
        return cls(spec, f"redis://{{login}}@127.0.0.1:{server.port}", port)


Disturbance: TypeAlias = Callable[["Life"], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a life.

    Attributes:
        name: of it.
        act: what people do.
        converged: whether everything is as it should be, as far as the API server says.
        check: says what is wrong nevertheless.
        writes: whether clients write meanwhile.
    """

    name: str
    act: Callable[["Life"], Awaitable[None]]
    converged: Callable[["Life"], Awaitable[bool]]
    check: Callable[["Life"], Awaitable[list[str]]]
    writes: bool = False


@dataclass(slots=True)
class Found:
    """What came of a life.

    Attributes:
        deaths: by phase, how often an operator died.
        survived: phases that ended before their point came.
        violations: sentences.
        points: by phase, how many there were.
    """

    deaths: Counter[str] = field(default_factory=Counter[str])
    survived: set[str] = field(default_factory=set[str])
    violations: list[str] = field(default_factory=list[str])
    points: dict[str, list[str]] = field(default_factory=dict[str, list[str]])


class Life:
    """One namespace with its backend, memory and sessions.

    Args:
        ground: what it shares with others.
        fate: how its operators are doomed.
        deaths: how many of them die in one phase.
        place: where its sessions are; None: on the shared server.
        kubeconfig: the operators' own way to the API server.
        disturb: what happens in every phase once the operator is at work.
        sessions: how many.
        forgetful: whether the server loses its users for a while, as one does that is restarted.
    """

    def __init__(
        self,
        ground: Ground,
        fate: Fate,
        *,
        deaths: int = 1,
        place: Place | None = None,
        kubeconfig: Path | None = None,
        disturb: Disturbance | None = None,
        sessions: int = 240,
        forgetful: bool = False,
    ) -> None:
        self.ground = ground
        self.api = ground.api
        self.place = place or Place.on(ground.server)
        self.namespace = f"chaos-{secrets.token_hex(4)}"
        self.name = f"person{secrets.token_hex(6)}"
        self.count = sessions
        self.expected = Expected()
        self.expected.shown.add(self.name)
        self.found = Found()
        self.logins: dict[str, str] = {}
        self.former: dict[str, str] = {}
        self._fate = fate
        self.forgetful = forgetful
        self._phase = ""
        self._deaths = deaths
        self._kubeconfig = kubeconfig
        self._disturb = disturb
        self._operators: list[Operator] = []
        self._begun = 0

    # What phases use

    async def get(self, what: Reference) -> dict[str, Any]:
        """Return an object of the namespace."""
        return await self.api.get(self.namespace, what)

    async def raw(self, username: str = "default", password: str = ADMIN) -> Redis:
        """Make a plain client of the primary; with no login given, one that may do everything."""
        return redis_client(await self.place.port(), username=username, password=password)

    def client(self, username: str = "", password: str = "") -> Client:
        """Make a client of the library, with the current login of the binding or the one given."""
        user = username or self.logins.get("username", "default")
        word = password or self.logins.get("password", ADMIN)
        url = self.place.url.format(login=f"{quote(user, safe='')}:{word}")
        return Client(RedisStore.from_url(url), namespace=self.namespace)

    async def entries(self) -> dict[str, str]:
        """Return the login in the binding's Secret; nothing where it cannot be read."""
        try:
            data = (await self.get(ISSUED)).get("data", {})
        except (aiohttp.ClientError, TimeoutError):
            return {}
        found = {name: base64.b64decode(value).decode() for name, value in data.items()}
        return {name: found[name] for name in ("username", "password") if name in found}

    async def let_in(self, login: dict[str, str]) -> bool | None:
        """Return whether the server lets somebody in; None where it does not say."""
        async with await self.raw(login["username"], login["password"]) as client:
            try:
                return bool(await client.ping())
            except AuthenticationError:
                return False
            except RedisError:
                return None

    @property
    def operator(self) -> Operator:
        """The one that acts."""
        return self._operators[-1]

    def log(self) -> str:
        """Return what all operators of this life wrote."""
        return "".join(operator.log() for operator in self._operators)

    async def reached(self, exchanges: int) -> None:
        """Wait until the operators sent so much in this phase, or all is done."""
        await until(
            lambda: self._sent() - self._begun >= exchanges or not self.operator.alive,
            "the operator is at work",
            deadline=self.ground.patience,
        )

    def accuse(self, sentence: str) -> None:
        """Note what is wrong in this phase."""
        self.found.violations.append(f"{self._phase}: {sentence}")

    # Living

    async def live(self, phases: list[Phase]) -> Found:
        """Go through phases, and say what was found. The operators end with it."""
        await self.api.namespace(self.namespace)
        for name in _GRANTS:
            file = RBAC / f"{name}.yaml"
            if file.exists():
                await self.api.apply_file(self.namespace, file)
        try:
            for phase in phases:
                await self._go_through(phase)
                if self.found.violations:
                    break
        finally:
            for operator in self._operators:
                await operator.kill()
        return self.found

    async def _go_through(self, phase: Phase) -> None:
        self._phase, self._begun = phase.name, self._sent()
        if self._operators and self.operator.alive:
            self.operator.arm()
        else:
            await self._bear(armed=True)
        acting = self._watch_over(phase)
        if phase.writes:
            async with self._writing(phase):
                ended = await acting
        else:
            ended = await acting
        if not ended:
            return
        self.operator.disarm()
        points = [point.what for one in self._operators for point in one.sent()]
        self.found.points[phase.name] = points[self._begun :]
        wrong = [
            *await phase.check(self),
            *await self._at_rest(phase),
            *await self._shown(),
            *self._said(),
        ]
        if not self.found.deaths[phase.name]:
            self.found.survived.add(phase.name)
        self.found.violations += [f"{phase.name}: {sentence}" for sentence in wrong]

    async def _watch_over(self, phase: Phase) -> bool:
        """Act, and replace who dies until everything converged; False if it never did."""
        await phase.act(self)
        disturbing = asyncio.ensure_future(self._disturb(self)) if self._disturb else None
        end = time.monotonic() + self.ground.patience
        while True:
            if not self.operator.alive:
                await self._replace(phase, armed=self.found.deaths[phase.name] + 1 < self._deaths)
            disturbed = disturbing is None or disturbing.done()
            if disturbed and await phase.converged(self):
                break
            if time.monotonic() > end:
                self.found.violations.append(f"{phase.name}: {await self._stuck()}")
                return False
            await asyncio.sleep(_LOOKED)
        if disturbing is not None:
            await disturbing
        return True

    async def _replace(self, phase: Phase, *, armed: bool) -> None:
        self.found.deaths[phase.name] += 1
        if not self.operator.doomed:
            tail = "\n".join(self.operator.log().splitlines()[-12:])
            self.found.violations.append(f"{phase.name}: the operator ended by itself:\n{tail}")
        await self._bear(armed=armed)

    async def _bear(self, *, armed: bool = False) -> None:
        operator = await self.ground.nursery.bear(
            self.namespace, self._fate, armed=armed, kubeconfig=self._kubeconfig
        )
        self._operators.append(operator)

    def _sent(self) -> int:
        return sum(len(operator.sent()) for operator in self._operators)

    @asynccontextmanager
    async def _writing(self, phase: Phase) -> AsyncGenerator[None]:
        """Let clients append for the time of the block; each message until it is acknowledged."""
        stop = asyncio.Event()
        async with self.client() as client, asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(self._write(client, f"{self.name}-{number}", stop, phase))
            if self.logins and not self.forgetful:
                group.create_task(self._follow(stop, phase))
            try:
                yield
            finally:
                stop.set()

    async def _write(self, client: Client, session: str, stop: asyncio.Event, phase: Phase) -> None:
        texts = self.expected.acknowledged[session]
        writer = client.memory(RESOURCE.name).session(session)
        while not stop.is_set():
            text = f"{self.name}:{len(texts)}"
            end = time.monotonic() + self.ground.patience
            while True:
                try:
                    await writer.append(message(text), id=text)
                except HoldfastError as error:
                    if isinstance(error, AccessDenied) and not self.forgetful:
                        self.found.violations.append(f"{phase.name}: a writer is refused: {error}")
                        return
                    if time.monotonic() > end:
                        self.found.violations.append(f"{phase.name}: no append any more: {error}")
                        return
                    await asyncio.sleep(0.05)
                else:
                    texts.append(text)
                    break
            await asyncio.sleep(_WRITTEN)

    async def _follow(self, stop: asyncio.Event, phase: Phase) -> None:
        """Log in with what the Secret says, again and again: it must be let in at every moment."""
        while not stop.is_set():
            before = await self.entries()
            if before and await self.let_in(before) is False and before == await self.entries():
                self.found.violations.append(f"{phase.name}: the login in the Secret is refused")
                return
            await asyncio.sleep(_LOOKED)

    # What must hold after every phase

    async def _at_rest(self, phase: Phase) -> list[str]:
        """Wait for a while in which nothing is written to the API server, and little is sent to Redis."""
        end, watched = time.monotonic() + self.ground.rest, self.ground.watched
        while True:
            if not self.operator.alive:  # its point came when everything was done
                await self._replace(phase, armed=False)
            operator, before = self.operator, len(self.operator.sent())
            await asyncio.sleep(watched)  # there is nothing to wait for but time
            sent = operator.sent()[before:]
            writes = [point for point in sent if point.server == "api"]
            if operator.alive and not writes and len(sent) <= 10 * watched:
                return []
            if time.monotonic() > end:
                return [f"no rest: {Counter(point.what for point in sent).most_common(3)}"]

    async def _shown(self) -> list[str]:
        """Look for words in everything that people are shown: log, events, status, annotations."""
        shown = {"the operator's log": self.log()}
        for kind in ("MemoryBackend", "MemoryResource", "MemoryBinding", "MemoryErasure", "Event"):
            for body in await self.api.all(self.namespace, kind):
                # An order names whom it is about: in its spec, and where Kopf keeps that of before.
                body.pop("spec", None)
                metadata = body["metadata"]
                metadata.pop("managedFields", None)
                metadata.get("annotations", {}).pop("holdfast.dev/last-handled", None)
                shown[f"{kind} {metadata['name']}"] = json.dumps(body)
        return [
            f"{place} shows {'a password' if word != self.name else 'the id of a session'}"
            for place, text in shown.items()
            for word in self.expected.shown
            if word in text
        ]

    def _said(self) -> list[str]:
        """Look for what the operator did not expect."""
        return [
            f"the operator's log has a traceback: {tail_of(operator.log())}"
            for operator in self._operators
            if "Traceback" in operator.log()
        ]

    async def _stuck(self) -> str:
        lines = ["not converged"]
        for what in (BACKEND, RESOURCE, BINDING, ERASURE):
            if body := await self.get(what):
                status = body.get("status", {})
                says = [
                    f"{one['type']}={one['status']}/{one['reason']}"
                    for one in status.get("conditions", ())
                ]
                lines.append(f"  {what.kind}: {' '.join(says)} {status.get('rollout', '')}")
        lines.append(self.operator.log()[-1500:])
        return "\n".join(lines)


def message(text: str) -> dict[str, Any]:
    """Return a message of a person."""
    return {"role": "user", "content": text}


def tail_of(log: str) -> str:
    """Return the last traceback of a log."""
    return log[log.rindex("Traceback") :][:1500]
