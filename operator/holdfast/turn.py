"""A turn: the lease on a session, and the messages written under it."""

import asyncio
import dataclasses
import time
from collections.abc import Collection, Coroutine, Generator, Iterable
from types import TracebackType
from typing import Any, Self

from holdfast.errors import HoldfastError, LeaseLost, SessionBusy
from holdfast.log import MessageLog
from holdfast.place import Place
from holdfast.policies import Agreement
from holdfast.policy import OnBusy
from holdfast.store import StalePolicy, lease_token
from holdfast.store.refusals import lease_lost
from holdfast.values import Caller, Granted, Queued, Status, Terms

_RENEWALS = 3  # a lease is renewed at a third of its TTL
_RETRIES = 10  # and after a failure at each tenth
_MARGIN = 0.9  # of the TTL: past it the turn counts as lost without asking
_WAKE_SLACK = 0.02  # seconds after a lease's end before asking whether it ended
_WITHDRAW = 1.0  # seconds that giving up the turn or a place may keep a caller waiting


class Signal:
    """Something that happens once; awaiting it returns when it has happened."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __await__(self) -> Generator[Any, Any, None]:
        """Wait until it happened."""
        return self._wait().__await__()

    def __bool__(self) -> bool:
        """Whether it happened."""
        return self._event.is_set()

    def set(self) -> None:
        """It happened."""
        self._event.set()

    async def _wait(self) -> None:
        await self._event.wait()


class Turn(MessageLog):
    """The right to answer in a session, held by one caller at a time; `async with session.turn()`.

    The lease is renewed while it is held, and every write is checked against it inside the store. Once
    it is lost, every call raises `LeaseLost`, which means that the call wrote nothing.

    Attributes:
        lost: await it to learn of the loss; false until then.
    """

    def __init__(
        self,
        place: Place,
        *,
        wait: int | None,
        ttl: int | None,
        holder: str,
        background: set[asyncio.Task[Any]],
    ) -> None:
        super().__init__(place)
        self.lost = Signal()
        self._wait = wait
        self._ttl = ttl
        self._holder = holder
        self._background = background
        self._token = ""
        self._terms: Terms | None = None
        self._fence = 0
        self._epoch = 0
        self._deadline = 0.0
        self._asking: asyncio.Task[Granted | Queued] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._written: set[int] = set()
        self._naming_epoch = asyncio.Lock()

    @property
    def fence(self) -> int:
        """The fencing token: an integer that grows with every turn of the session."""
        return self._fence

    async def __aenter__(self) -> Self:
        """Wait for the turn.

        Raises:
            SessionBusy: somebody else held it all the time.
            StoreUnavailable, AccessDenied, PolicyNotFound.
        """
        if self._token:
            raise RuntimeError("a turn is entered once: call session.turn() again")
        with self._place.naming():
            await self._acquire()
        self._renewal = asyncio.create_task(self._renew_until_lost())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the turn to the next in line. Never hides the body's exception."""
        if self._renewal is not None:
            self._renewal.cancel()
        self._deadline = 0.0
        await self._shielded(self._give_up())

    async def check(self) -> None:
        """Ask the store whether the turn is still held; call it before a side effect.

        Raises:
            LeaseLost: it is not.
            StoreUnavailable: nobody knows.
        """
        with self._place.naming():
            self._caller()
            await self._renew()

    async def clear(self, *, force: bool = False) -> int:
        """Remove all messages; see `MessageLog.clear`. The turn goes on."""
        # A renewal that still named the epoch before would be told that the turn is over.
        async with self._naming_epoch:
            return await super().clear(force=force)

    def _caller(self) -> Caller:
        if self.lost or time.monotonic() >= self._deadline:
            self._lose()
            raise lease_lost()
        return Caller(self._token, self._epoch, self._place.seen)

    def _wrote(self, seqs: Iterable[int]) -> None:
        self._written.update(seqs)

    def _own(self) -> Collection[int]:
        return self._written

    def _lease_gone(self) -> None:
        self._lose()

    def _guard(self) -> None:
        self._caller()

    def _holds(self, status: Status) -> bool:
        return status.lease_token == self._token

    def _check_window(self, status: Status) -> None:
        self._caller()
        if not self._holds(status) or status.epoch != self._epoch:
            self._lose()
            raise lease_lost()

    def _cleared(self, epoch: int) -> None:
        self._epoch = epoch

    def _lose(self) -> None:
        self.lost.set()

    async def _acquire(self) -> None:
        wait = self._patience(await self._place.agreed())
        self._token = lease_token(wait)
        until = time.monotonic() + wait / 1000
        try:
            while True:
                self._terms = self._with_ttl((await self._place.agreed()).terms)
                try:
                    if await self._try(self._terms, until):
                        return
                except StalePolicy as stale:
                    await self._place.policies.catch_up(stale.revision)
        except BaseException:
            await self._shielded(self._withdraw())
            raise

    def _patience(self, agreed: Agreement) -> int:
        """Milliseconds this caller waits in line."""
        if self._wait is not None:
            return self._wait
        locking = agreed.policy.locking
        return 0 if locking.on_busy is OnBusy.REJECT else locking.wait_timeout.milliseconds

    def _with_ttl(self, terms: Terms) -> Terms:
        return terms if self._ttl is None else dataclasses.replace(terms, lease=self._ttl)

    async def _try(self, terms: Terms, until: float) -> bool:
        """Ask for the turn once, and sleep in line if it is somebody else's."""
        asked = time.monotonic()
        self._asking = asyncio.create_task(self._ask(terms))
        self._keep(self._asking)
        answer = await asyncio.shield(self._asking)  # cut off it might be granted to nobody
        if isinstance(answer, Granted):
            self._fence, self._epoch = answer.fence, answer.epoch
            self._place.note(answer.epoch, answer.seen)
            self._deadline = asked + terms.lease / 1000 * _MARGIN
            return True
        left = until - time.monotonic()
        if not answer.queued or left <= 0:
            raise _busy(answer)
        nap = min(answer.remaining + _WAKE_SLACK, terms.lease / 1000 / _RENEWALS, left)
        await self._place.store.sleep(self._token, nap)
        return False

    async def _ask(self, terms: Terms) -> Granted | Queued:
        return await self._place.store.acquire(terms, self._token, self._holder)

    async def _withdraw(self) -> None:
        """Give up the turn or the place in line, once nothing asks for it any more."""
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=_WITHDRAW)
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._give_up()

    async def _shielded(self, call: Coroutine[Any, Any, None]) -> None:
        """Run a short clean-up to its end, in the background if this task is cancelled again."""
        task = asyncio.create_task(call)
        self._keep(task)
        await asyncio.wait([task], timeout=_WITHDRAW)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        task.add_done_callback(_retrieve)

    async def _give_up(self) -> None:
        if self._terms is None:
            return
        try:
            await self._place.store.release(self._terms, self._token)
        except HoldfastError:
            # The lease ends by itself, after its TTL at the latest.
            return

    async def _renew(self) -> None:
        assert self._terms is not None
        async with self._naming_epoch:
            asked = time.monotonic()
            try:
                revision = await self._place.store.renew(self._terms, self._token, self._epoch)
            except LeaseLost:
                self._lose()
                raise
            self._deadline = max(self._deadline, asked + self._terms.lease / 1000 * _MARGIN)
        if revision > self._terms.revision:
            await self._place.policies.catch_up(revision)
            newer = self._with_ttl((await self._place.agreed()).terms)
            # A shorter lease is for the next turn: this one's would end before its next renewal.
            longest = max(newer.lease, self._terms.lease)
            self._terms = dataclasses.replace(newer, lease=longest)

    async def _renew_until_lost(self) -> None:
        assert self._terms is not None
        ttl = self._terms.lease / 1000
        pause = ttl / _RENEWALS
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._lose()
                return
            await asyncio.sleep(min(pause, left))
            try:
                async with asyncio.timeout_at(_loop_time(self._deadline)):
                    await self._renew()
                pause = ttl / _RENEWALS
            except LeaseLost:
                return
            except (HoldfastError, TimeoutError):
                pause = ttl / _RETRIES


def _loop_time(monotonic: float) -> float:
    return asyncio.get_running_loop().time() + monotonic - time.monotonic()


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Read a background task's result, so that nobody complains that nobody did."""
    if not task.cancelled():
        task.exception()


def _busy(answer: Queued) -> SessionBusy:
    who = f"{answer.holder!r}" if answer.holder else "somebody else"
    return SessionBusy(
        f"{who} holds the turn of this session for another {max(0.0, answer.remaining):.1f} s, with "
        f"{answer.place} in line: wait longer, or try again",
        holder=answer.holder,
        remaining=max(0.0, answer.remaining),
        place=answer.place,
    )
