"""A turn that a sidecar holds for this process."""

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from holdfast.background import Background
from holdfast.errors import HoldfastError, LeaseLost
from holdfast.lease import Signal
from holdfast.remote.lease import StreamLease
from holdfast.remote.log import RemoteLog
from holdfast.remote.place import RemotePlace
from holdfast.remote.transport import Request
from holdfast.session import AskedTurn
from holdfast.store.refusals import lease_lost, turn_interrupted
from holdfast.telemetry import Call, outcome_of
from holdfast.turn import Body, Turn


class RemoteTurn(RemoteLog, Turn):
    """The right to answer in a session, held by the sidecar for this process; see `Turn`.

    Made by `RemoteSession.turn`.
    """

    def __init__(self, place: RemotePlace, asked: AskedTurn, *, background: Background) -> None:
        super().__init__(place)
        self._task = Body(cancels=asked.cancels)
        self._held = StreamLease(
            place, asked, background=background, on_interrupt=self._task.interrupt
        )
        self._began = 0.0

    @property
    def fence(self) -> int:
        """The fencing token: an integer that grows with every turn of the session."""
        return self._held.fence

    @property
    def interrupted(self) -> Signal:
        """Await it to learn that somebody else took the turn; false until then. Implies `lost`."""
        return self._held.interrupted

    @property
    def lost(self) -> Signal:
        """Await it to learn of the loss of the turn; false until then."""
        return self._held.lost

    async def __aenter__(self) -> Self:
        """Wait for the turn; see `Turn.__aenter__`."""
        if self._held.token:
            raise RuntimeError("a turn is entered once: call session.turn() again")
        with self._at.naming(Call.WAIT):
            await self._held.acquire()
        self._began = time.monotonic()
        self._task.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the turn to the next in line; see `Turn.__aexit__`."""
        lost = turn_interrupted() if self.interrupted else lease_lost() if self.lost else None
        seconds = time.monotonic() - self._began
        self._at.telemetry.timed(Call.HOLD, outcome_of(lost), seconds)
        try:
            await self._held.release()
        finally:
            ours = self._task.end(error)
        if ours:
            with self._at.naming():
                raise turn_interrupted() from error

    async def check(self) -> None:
        """Ask whether the turn is still held; see `Turn.check`."""
        await self._ask(Call.CHECK, "PUT", f"/turns/{self._held.token}")

    async def _request(
        self, method: str, rest: str, query: Sequence[tuple[str, object]] = (), **parts: Any
    ) -> Request:
        self._held.guard()
        return await super()._request(method, rest, query, turn=self._held.token, **parts)

    async def _make(self, request: Request) -> bytes:
        try:
            return await super()._make(request)
        except LeaseLost as error:
            self._held.lose(error)
            raise
        except HoldfastError as error:
            # Repeated after a lost answer, under a turn that had ended: the first may have been carried out.
            if isinstance(error.__cause__, LeaseLost):
                self._held.lose(error.__cause__)
            raise
