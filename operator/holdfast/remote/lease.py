"""A turn's lease that the sidecar keeps: asked for with a stream of events, and bound to its connection."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Final

import aiohttp
import msgspec

from holdfast import problems
from holdfast.background import Background
from holdfast.errors import HoldfastError, LeaseLost, StoreUnavailable
from holdfast.lease import Ending
from holdfast.remote.answers import Answer
from holdfast.remote.events import Event, Events
from holdfast.remote.place import RemotePlace
from holdfast.session import AskedTurn
from holdfast.store.refusals import lease_lost, turn_interrupted, turn_not_entered
from holdfast.wire import EVENT_STREAM, TurnBody, TurnGrant

SILENCE: Final = 60.0
"""Seconds without a sign of life after which the stream counts as broken; the sidecar gives one each 15."""

_WITHDRAW: Final = 1.0  # seconds that giving back the turn may keep a caller waiting
_MOST: Final = 9_999_999  # of one unit in a duration

_GRANT = Answer(TurnGrant)
_PROBLEM = msgspec.json.Decoder(problems.Problem)


class StreamLease(Ending):
    """The lease of one turn.

    The sidecar renews it as long as the connection stands on which it was asked for, and gives it back when
    that closes, whatever the reason: so nothing of it is left where this process ends or is cancelled.

    Args:
        place: the session.
        asked: how long to wait, and for what life.
        background: of the client.
        on_interrupt: called once, when it turns out that somebody else took the lease.

    Attributes:
        lost: happens once the lease is lost.
        interrupted: happens as well where somebody else took it.
        token: names the turn to the sidecar; empty before it was granted.
        fence: grows with every turn of the session.
    """

    def __init__(
        self,
        place: RemotePlace,
        asked: AskedTurn,
        *,
        background: Background,
        on_interrupt: Callable[[], None],
    ) -> None:
        super().__init__(place, on_interrupt)
        self.token = ""
        self.fence = 0
        self._place = place
        self._asked = asked
        self._background = background
        self._connection = AsyncExitStack()
        self._watch: asyncio.Task[None] | None = None
        self._over = False

    def guard(self) -> None:
        """Refuse what comes too late.

        Raises:
            LeaseLost: it is known that the lease is lost, or it was never had.
        """
        if not self.token:
            raise turn_not_entered()
        if self.lost or self._over:
            self.lose()
            raise self.refusal()

    async def acquire(self) -> None:
        """Wait for the lease; see `Turn.__aenter__`. Whatever it raises, no lease and no place is left.

        Where the sidecar starts again meanwhile, it is asked anew, and the wait begins anew.
        """
        body = TurnBody(_duration(self._asked.wait), _duration(self._asked.ttl))
        request = await self._place.request(
            "POST",
            "/turns",
            body=msgspec.json.encode(body),
            accept=EVENT_STREAM,
            silence=None,
        )
        async with AsyncExitStack() as connection:
            answer = self._place.answering(request, alone=True)
            events = Events((await connection.enter_async_context(answer)).content)
            first = await events.next()
            if first is None or first.name != "granted":
                raise _loss(first) or StoreUnavailable("the sidecar ended before it gave the turn")
            grant = _GRANT.read(first.data)
            self.token, self.fence = grant.token, grant.fence
            self._connection = connection.pop_all()
        self._watch = asyncio.create_task(self._follow(events))
        self._background.opened(self._end)

    async def release(self) -> None:
        """Give the lease to the next in line. Takes a second at most: closing the connection does it too."""
        self._background.closed(self._end)
        held = not self.lost
        self._close()
        try:
            if held:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_WITHDRAW):
                        await self._give_back()
        finally:
            await self._connection.aclose()

    async def _give_back(self) -> None:
        request = await self._place.request("DELETE", f"/turns/{self.token}")
        with suppress(HoldfastError):
            await self._place.call(request)

    async def _follow(self, events: Events) -> None:
        """Wait for the end of the stream, which is the end of the turn."""
        loss: LeaseLost | None = None
        with suppress(aiohttp.ClientError, OSError):  # TimeoutError is among the latter
            while loss is None and (event := await events.next(SILENCE)) is not None:
                loss = _loss(event)
        self.lose(loss)
        await self._connection.aclose()

    def _end(self) -> None:
        """End a turn whose client is closed."""
        self._close()
        self.lose()
        self._background.run(self._finish())

    async def _finish(self) -> None:
        try:
            await self._give_back()
        finally:
            await self._connection.aclose()

    def _close(self) -> None:
        self._over = True
        self._on_interrupt = None
        if self._watch is not None:
            self._watch.cancel()


def _loss(event: Event | None) -> LeaseLost | None:
    """Return what an event says of the loss of the turn; None where it says nothing of it."""
    if event is None or event.name not in ("lost", "interrupted"):
        return None
    try:
        error = problems.error_of(_PROBLEM.decode(event.data))
    except (msgspec.MsgspecError, UnicodeError):
        error = None
    if isinstance(error, LeaseLost):
        return error
    return turn_interrupted() if event.name == "interrupted" else lease_lost()


def _duration(milliseconds: int | None) -> str | None:
    """Return a duration as the sidecar reads it."""
    if milliseconds is None:
        return None
    if milliseconds == 0:
        return "0s"
    if milliseconds <= _MOST:
        return f"{milliseconds}ms"
    return f"{min(-(-milliseconds // 1000), _MOST)}s"
