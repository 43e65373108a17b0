"""Bindings in the small world of the services: Secrets that are written, and a process that can die.

What is foreign stays in memory as in `operator_world`. A death is an exception that no service may
catch, before or after any call that leaves the process; then everything the services remembered is
lost, and they begin anew.
"""

import asyncio
import contextlib
import copy
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.store.access import AccessUser, Grant, password_hash
from holdfast.store.addresses import Login
from holdfast_operator.services.bindings import BindingService
from holdfast_operator.services.outcome import Outcome
from holdfast_operator.services.ports import (
    ClusterConflict,
    ClusterForbidden,
    Secret,
    SecretDraft,
)
from holdfast_operator.services.users import SweptBackends, Users
from tests.harness.access_world import FakeAccess
from tests.harness.operator_world import World

NAME = "agent-holdfast"


class Killed(BaseException):
    """The process ended here."""


class Death:
    """Kills the process at the n-th border of a foreign call: even ones before it, odd ones after it."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.passed = 0

    def border(self) -> None:
        number, self.passed = self.passed, self.passed + 1
        if number == self.at:
            self.at = None
            raise Killed


class MortalAccess(FakeAccess):
    """Users of a server, as a process feels it that may die. What a call did stays done."""

    def __init__(self, death: Death) -> None:
        super().__init__()
        self._death = death
        self.log: list[AccessUser] = []
        self.stuck = False  # no call about users is ever answered

    async def put(self, user: AccessUser) -> bool:
        self._death.border()
        await self._answer()
        changed = await super().put(user)
        self.log.append(user)
        self._death.border()
        return changed

    async def revoke(self, name: str) -> None:
        self._death.border()
        await self._answer()
        await super().revoke(name)
        self._death.border()

    async def probe(self, login: Login, grants: Sequence[Grant]) -> tuple[str, ...]:
        self._death.border()
        return await super().probe(login, grants)

    async def _answer(self) -> None:
        if self.stuck:
            await asyncio.Event().wait()


class WorldLeader:
    """What a process knows of its leadership.

    Attributes:
        certain: seconds for which it leads, whatever happens.
    """

    epoch = 1

    def __init__(self) -> None:
        self.certain = 60.0

    def sure(self, seconds: float) -> bool:
        return self.certain >= seconds


class BindingWorld(World):
    """A world with bindings.

    Attributes:
        death: of the process.
        leader: knows for how long the process leads.
        forbidden: namespaces whose Secrets we may not touch.
        writes: of Secrets, in order: verb and name.
    """

    def __init__(self) -> None:
        self.death = Death()
        self.leader = WorldLeader()
        self.access = MortalAccess(self.death)
        self.forbidden: set[str] = set()
        self.writes: list[tuple[str, str]] = []
        self.passwords = itertools.count()
        self.versions = itertools.count(100)
        super().__init__()
        self.server.access = self.access

    def restart(self) -> None:
        super().restart()
        secrets = WorldSecrets(self)
        users = Users(self, self.backends, self.leader)
        self.bindings = BindingService(
            self,
            secrets,
            self.backends,
            self.clock,
            users=users,
            make_password=self._password,
            observer=self.observer,
        )
        self.swept = SweptBackends(self.backends, users, self, self.clock)

    def add_binding(self, name: str = "agent", **spec: Any) -> dict[str, Any]:
        standard = {"serviceAccountName": "agent", "memories": [memory("support")]}
        return self._add("MemoryBinding", "team", name, {**standard, **spec})

    async def look(self, body: dict[str, Any]) -> Outcome:
        if body["kind"] == "MemoryBinding":
            return await self._look_at_binding(body)
        if body["kind"] == "MemoryBackend" and "deletionTimestamp" not in body["metadata"]:
            outcome = await self.swept.reconcile(copy.deepcopy(body))
            if outcome.status is not None:
                body["status"] = outcome.status.model_dump(mode="json", exclude_none=True)
            return outcome
        return await super().look(body)

    async def _look_at_binding(self, body: dict[str, Any]) -> Outcome:
        metadata = body["metadata"]
        if "deletionTimestamp" in metadata:
            outcome = await self.bindings.finalize(copy.deepcopy(body))
            if outcome.again is None:
                del self.objects["MemoryBinding", metadata["namespace"], metadata["name"]]
        else:
            outcome = await self.bindings.reconcile(copy.deepcopy(body))
        if outcome.status is not None:
            self.death.border()
            body["status"] = outcome.status.model_dump(mode="json", exclude_none=True)
        return outcome

    async def look_and_die(self, body: dict[str, Any], at: int) -> bool:
        """Look once and be killed at a border; start again. False: the look has fewer borders."""
        self.death.at, self.death.passed = at, 0
        try:
            with contextlib.suppress(ClusterConflict):
                await self.look(body)
        except Killed:
            self.restart()
            return True
        finally:
            self.death.at = None
        return False

    async def secret(self, namespace: str, name: str) -> Secret | None:
        self.require(namespace)
        self.death.border()
        return self.secrets.get((namespace, name))

    def put_secret(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        controller: str = "",
        **data: str,
    ) -> None:
        """Make or overwrite a Secret in the namespace of the bindings, as people do."""
        entries = {key: value.encode() for key, value in data.items()}
        version = str(next(self.versions))
        self.secrets["team", name] = Secret(
            name, version, labels or {}, entries, type="Opaque", controller=controller
        )

    def edit_secret(self, **data: str) -> None:
        """Overwrite entries of the binding's Secret."""
        there = self.secrets["team", NAME]
        entries = {**there.data, **{key: value.encode() for key, value in data.items()}}
        self.secrets["team", NAME] = Secret(
            NAME,
            str(next(self.versions)),
            there.labels,
            entries,
            annotations=there.annotations,
            type=there.type,
            controller=there.controller,
        )

    def entry(self, entry: str, name: str = NAME) -> str:
        return self.secrets["team", name].data[entry].decode()

    def user(self, name: str = NAME) -> AccessUser | None:
        """Return the user that the server has under the name in the Secret."""
        return self.access.held.get(self.entry("username", name))

    def works(self, name: str = NAME) -> bool:
        """Whether the server takes the login in the Secret."""
        found = self.user(name)
        return found is not None and password_hash(self.entry("password", name)) in found.passwords

    def require(self, namespace: str) -> None:
        if namespace in self.forbidden:
            raise ClusterForbidden("not allowed")

    def _password(self) -> str:
        return f"{next(self.passwords):043d}"


class WorldSecrets:
    """Writes Secrets of the world."""

    account = "agents:memory-operator"

    def __init__(self, world: BindingWorld) -> None:
        self._world = world

    async def create(self, draft: SecretDraft) -> None:
        self._world.require(draft.namespace)
        self._world.death.border()
        if (draft.namespace, draft.name) in self._world.secrets:
            raise ClusterConflict("there is one")
        self._store(draft, "create", {})
        self._world.death.border()

    async def replace(self, draft: SecretDraft, version: str) -> None:
        self._world.require(draft.namespace)
        self._world.death.border()
        there = self._world.secrets.get((draft.namespace, draft.name))
        if there is None or there.version != version or there.immutable:
            raise ClusterConflict("it changed")
        self._store(draft, "replace", there.annotations)
        self._world.death.border()

    async def delete(self, namespace: str, name: str, version: str) -> None:
        self._world.require(namespace)
        self._world.death.border()
        there = self._world.secrets.get((namespace, name))
        if there is not None and there.version != version:
            raise ClusterConflict("it changed")
        self._world.secrets.pop((namespace, name), None)
        self._world.writes.append(("delete", name))
        self._world.death.border()

    def _store(self, draft: SecretDraft, verb: str, notes: Mapping[str, str]) -> None:
        self._world.secrets[draft.namespace, draft.name] = Secret(
            draft.name,
            str(next(self._world.versions)),
            {},
            dict(draft.data),
            annotations={**notes, **draft.annotations},
            type="servicebinding.io/holdfast",
            controller=draft.uid,
        )
        self._world.writes.append((verb, draft.name))


def memory(name: str, access: str = "ReadWrite", **fields: str) -> dict[str, Any]:
    """Return an entry of a binding's memories that is called like its MemoryResource."""
    fixed = [{"name": field, "value": value} for field, value in fields.items()]
    entry: dict[str, Any] = {"name": name, "memoryRef": {"name": name}, "access": access}
    return {**entry, "fields": fixed} if fixed else entry
