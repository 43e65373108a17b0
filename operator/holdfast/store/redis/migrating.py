"""Sessions of an older layout: whoever meets one brings it to this version's, and goes on."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from holdfast.errors import AccessDenied, StoreUnavailable
from holdfast.store.redis.carrier import Command, Reply
from holdfast.store.redis.handle import NOBODY
from holdfast.store.redis.layout import LAYOUT, SessionKeys
from holdfast.store.redis.replies import OlderLayout, accept
from holdfast.store.redis.runner import Runner, evalsha
from holdfast.store.redis.script import Script
from holdfast.store.redis.session import RedisSession
from holdfast.values import Appended, Batch, Caller, Terms, Window

C = TypeVar("C", bound=Callable[..., Any])


class Migration:
    """Brings sessions to this version's layout.

    Args:
        runner: runs scripts.
        script: `migrate`, with the steps that it has.
    """

    def __init__(self, runner: Runner, script: Script) -> None:
        self._runner = runner
        self._script = script

    async def one(self, keys: SessionKeys) -> None:
        """Bring one session to this version's layout. One round trip.

        Raises:
            CorruptRecord: no step leads there from its own; UnknownKeys: it is newer by now.
            StoreUnavailable: these credentials may not, or there is no answer.
        """
        try:
            reply = await self._runner.run(self._script, keys[:5], [LAYOUT], repeatable=True)
        except AccessDenied as error:
            raise StoreUnavailable(
                "the session still has an older layout, and these credentials may not change it: the "
                "operator does, try again in a moment"
            ) from error
        accept(reply, NOBODY)

    async def each_unless(
        self,
        sessions: Sequence[SessionKeys],
        command: Callable[[SessionKeys], Command],
        *,
        done: Callable[[Reply], bool],
        answer: Reply,
    ) -> list[Reply]:
        """As `each`, for those only whose counters do not say that there is nothing to do.

        Two round trips. A look costs the server a tenth of a script.

        Args:
            sessions: the keys of each.
            command: runs the script.
            done: whether there is nothing to do, by the values of `k` and `s`.
            answer: what is returned for such a session.
        """
        looks = await self._runner.each([(b"HMGET", keys.meta, b"k", b"s") for keys in sessions])
        settled = [done(look) for look in looks]
        others = [keys for keys, ended in zip(sessions, settled, strict=True) if not ended]
        replies = iter(await self.each(others, command) if others else ())
        return [answer if ended else next(replies) for ended in settled]

    async def each(
        self, sessions: Sequence[SessionKeys], command: Callable[[SessionKeys], Command]
    ) -> list[Reply]:
        """Run a script for each session; for one of an older layout again, after it was brought to ours.

        One round trip, three where there is such a session.
        """
        replies = list(await self._runner.each([command(keys) for keys in sessions]))
        older = [place for place, reply in enumerate(replies) if _says_older(reply)]
        if older:
            steps = [evalsha(self._script, sessions[place][:5], [LAYOUT]) for place in older]
            await self._runner.each(steps)
            again = await self._runner.each([command(sessions[place]) for place in older])
            for place, reply in zip(older, again, strict=True):
                replies[place] = reply
        return replies


def _says_older(reply: Reply) -> bool:
    """Whether this is what a script says of a session that an older version wrote."""
    match reply:
        case [b"LAYOUT", int(layout)]:
            return layout < LAYOUT
        case _:
            return False


def _migrated(call: C) -> C:
    """Repeat a call after it met an older layout. It wrote nothing: scripts look at the layout first."""

    @functools.wraps(call)
    async def repeated(session: "MigratingSession", *arguments: Any, **named: Any) -> Any:
        try:
            return await call(session, *arguments, **named)
        except OlderLayout:
            await session.migrate()
            return await call(session, *arguments, **named)

    return cast("C", repeated)


class MigratingSession(RedisSession):
    """A handle on one session that may have an older layout.

    Args:
        runner: runs scripts.
        keys: the session's keys.
        indexes: as of `Handle`.
        name: the session's name there.
        labels: digests of the labels.
        migration: brings it to this version's.
    """

    def __init__(
        self,
        runner: Runner,
        keys: SessionKeys,
        indexes: Sequence[bytes],
        name: str,
        labels: Sequence[str] = (),
        *,
        migration: Migration,
    ) -> None:
        super().__init__(runner, keys, indexes, name, labels)
        self._migration = migration

    async def migrate(self) -> None:
        """Bring the session to this version's layout; see `Migration.one`."""
        await self._migration.one(self._keys)

    # The two calls that are made most are written out: a wrapper for any arguments takes a microsecond.

    async def append(self, terms: Terms, batch: Batch, caller: Caller) -> Appended:
        """Store a batch; see `RedisSession.append`."""
        try:
            return await self._store("append", terms, batch, caller)
        except OlderLayout:
            await self.migrate()
            return await self._store("append", terms, batch, caller)

    async def everything(self, terms: Terms) -> Window:
        """Return all records; see `RedisSession.everything`."""
        try:
            return await super().everything(terms)
        except OlderLayout:
            await self.migrate()
            return await super().everything(terms)

    replace = _migrated(RedisSession.replace)
    archive = _migrated(RedisSession.archive)
    import_part = _migrated(RedisSession.import_part)
    erase = _migrated(RedisSession.erase)
    known = _migrated(RedisSession.known)
    pop = _migrated(RedisSession.pop)
    clear = _migrated(RedisSession.clear)
    pin = _migrated(RedisSession.pin)
    tail = _migrated(RedisSession.tail)
    page = _migrated(RedisSession.page)
    claim_flush = _migrated(RedisSession.claim_flush)
    snapshot = _migrated(RedisSession.snapshot)
    trim = _migrated(RedisSession.trim)
    splice = _migrated(RedisSession.splice)
    status = _migrated(RedisSession.status)
    acquire = _migrated(RedisSession.acquire)
    renew = _migrated(RedisSession.renew)
