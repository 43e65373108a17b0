"""Bugs of an operator, planted in a doomed process alone: each must be found by what is checked."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from holdfast.store.maintenance import Step
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast_operator.handlers.keeper import Keeper
from holdfast_operator.services import passwords, references, users

_log: Final = logging.getLogger("holdfast.operator")


def _rollout_is_only_claimed() -> None:
    """Count the sessions of a rollout, and leave them as they are."""

    async def roll_out(self: RedisMaintenance, memory: Any, terms: Any, **more: Any) -> Any:
        step, _ = await self.measure(memory, cursor=more["cursor"], limit=more["limit"])
        return step

    RedisMaintenance.roll_out = roll_out


def _rollout_stops_half_way() -> None:
    """End a rollout with its first step."""
    original: Any = RedisMaintenance.roll_out

    async def roll_out(self: RedisMaintenance, memory: Any, terms: Any, **more: Any) -> Any:
        step = await original(self, memory, terms, **more | {"limit": 50})
        return step._replace(cursor=0)

    RedisMaintenance.roll_out = roll_out


def _rollout_drops_too_much() -> None:
    """Keep one message less than the policy allows."""
    original: Any = RedisMaintenance.roll_out

    async def roll_out(self: RedisMaintenance, memory: Any, terms: Any, **more: Any) -> Any:
        fewer = replace(terms, max_messages=terms.max_messages - 1)
        return await original(self, memory, fewer, **more)

    RedisMaintenance.roll_out = roll_out


def _log_shows_passwords() -> None:
    """Log what the operator logs in with."""
    original: Any = references.credentials

    def credentials(secret: Any) -> Any:
        found = original(secret)
        _log.info("The login is %s with %s.", found.username, found.password)
        return found

    references.credentials = credentials


def _status_is_written_for_ever() -> None:
    """Write every status again, a few times a second."""
    original: Any = Keeper._report

    async def report(self: Keeper, key: Any, body: Any, current: Any, outcome: Any) -> None:
        await original(self, key, body, current, outcome)
        if outcome.status is None:
            version = str(current["metadata"]["resourceVersion"])
            await self._writer.put_status(key, version, current["status"])

    Keeper._report = report
    Keeper._at_rest = lambda self: 0.2  # noqa: ARG005


def _deletion_forgets_the_sessions() -> None:
    """End a deletion without burying a session."""

    async def bury(self: RedisMaintenance, memory: Any, revision: int, **more: Any) -> Any:
        step, _ = await self.measure(memory, cursor=more["cursor"], limit=more["limit"])
        return step

    async def bury_hidden(self: RedisMaintenance, revisions: Any, **more: Any) -> Step:
        return Step(0, 0, 0, 0, 0)

    RedisMaintenance.bury = bury
    RedisMaintenance.bury_hidden = bury_hidden


def _secret_comes_before_the_user() -> None:
    """Change users some seconds after the Secret says so: long enough to be seen on a busy machine."""
    original: Any = users.Users.change
    at_work: set[asyncio.Task[Any]] = set()

    async def later(self: users.Users, work: Any) -> None:
        await asyncio.sleep(5.0)
        await original(self, work)

    async def change(self: users.Users, work: Any) -> Any:
        at_work.add(asyncio.create_task(later(self, work)))
        return True

    users.Users.change = change


def _rotation_takes_the_old_password() -> None:
    """Let no user have two passwords."""
    original: Any = passwords.Password.hashes
    passwords.Password.hashes = lambda self, now: original(self, now)[:1]


PLANTS: Final[dict[str, Callable[[], None]]] = {
    "rollout-is-only-claimed": _rollout_is_only_claimed,
    "rollout-stops-half-way": _rollout_stops_half_way,
    "rollout-drops-too-much": _rollout_drops_too_much,
    "log-shows-passwords": _log_shows_passwords,
    "status-is-written-for-ever": _status_is_written_for_ever,
    "secret-comes-before-the-user": _secret_comes_before_the_user,
    "rotation-takes-the-old-password": _rotation_takes_the_old_password,
    "deletion-forgets-the-sessions": _deletion_forgets_the_sessions,
}
