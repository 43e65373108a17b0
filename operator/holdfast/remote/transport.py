"""Calls to one sidecar: sent, repeated where that is safe, and their refusals turned into errors."""

import asyncio
import dataclasses
import io
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias

import aiohttp
import msgspec
from yarl import URL

from holdfast import problems, wire
from holdfast.breaker import PROBE, Breaker, Breakers, is_away
from holdfast.errors import AmbiguousWrite, ConfigurationError, HoldfastError, StoreUnavailable
from holdfast.remote.addresses import SidecarAddress
from holdfast.remote.connections import (
    ANSWER,
    CONNECT,
    MOST_CONNECTIONS,
    QUEUE,
    LostConnection,
    open_session,
)
from holdfast.telemetry import Observer, Retry, Telemetry

PATIENCE: Final = 5.0
"""Seconds in which a call is repeated: a sidecar that starts again is back before."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.5
_LARGE = 512 * 1024  # bytes of a body from which on it is handed over in pieces
_COMING_BACK = frozenset({"Starting", "ShuttingDown", "Overloaded"})
"""Codes of refusals that pass by themselves, soon, and before which nothing was done."""
_UNANSWERED = (LostConnection, aiohttp.ClientError, TimeoutError, OSError)

_PROBLEM = msgspec.json.Decoder(problems.Problem)


class Pieces(AsyncIterable[bytes], Protocol):
    """A body that is made while it is sent, and cannot be sent again.

    Attributes:
        begun: some of it was sent.
    """

    begun: bool


Body: TypeAlias = bytes | Pieces | None


@dataclass(frozen=True, slots=True)
class Request:
    """One call.

    Attributes:
        method: of HTTP.
        path: with the query, encoded.
        body: JSON; or pieces of lines, which cannot be sent again.
        accept: the type of the answer, where it is not JSON.
        turn: the token of the turn under which it is made.
        repeatable: carried out twice it has the effect of once.
        stores: what it writes is the caller's, who has to know when it is in doubt.
        silence: seconds that the answer may take, or pause; None for ever.
        repeated: its answer was lost once.
    """

    method: str
    path: str
    body: Body = field(default=None, repr=False)
    accept: str = ""
    turn: str = field(default="", repr=False)
    repeatable: bool = True
    stores: bool = False
    silence: float | None = ANSWER
    repeated: bool = False

    def headers(self) -> dict[str, str]:
        """Return those that say what the body and the answer are."""
        found: dict[str, str] = {}
        if self.body is not None:
            json = isinstance(self.body, bytes)
            found["Content-Type"] = wire.JSON if json else wire.JSON_LINES
        if self.accept:
            found["Accept"] = self.accept
        if self.turn:
            found[wire.TURN_HEADER] = self.turn
        if self.repeated:
            found[wire.REPEATED_HEADER] = "true"
        return found

    @property
    def is_spent(self) -> bool:
        """Whether the body is not there any more to be sent again."""
        return self.body is not None and not isinstance(self.body, bytes) and self.body.begun

    def data(self) -> io.BytesIO | Body:
        """Return the body as aiohttp sends it best."""
        if isinstance(self.body, bytes) and len(self.body) > _LARGE:
            return io.BytesIO(self.body)
        return self.body


class Refused(Exception):
    """The sidecar answered with an error.

    Attributes:
        error: that it stands for.
        passes: it does so soon, and nothing was done.
    """

    def __init__(self, error: HoldfastError, *, passes: bool) -> None:
        super().__init__(error.code)
        self.error = error
        self.passes = passes


class Transport:
    """The way to one sidecar. Connections are made in the loop of the first call.

    Repeated by itself is only what wrote nothing: where nobody listens yet or any more, or the sidecar says
    that it starts or ends; and, where the call says that it may be repeated, one whose answer was lost.

    Args:
        address: where it listens.
        observers: are told of repetitions, and of the state of the breaker.
        patience: seconds in which a call is repeated.
    """

    def __init__(
        self,
        address: SidecarAddress,
        *,
        observers: Sequence[Observer] = (),
        patience: float = PATIENCE,
    ) -> None:
        self._address = address
        self._patience = patience
        self._telemetry = Telemetry(observers)
        self._breakers = Breakers(patience=patience, telemetry=self._telemetry)
        self._breaker = self._breakers.add(address.name)
        self._pooled: aiohttp.ClientSession | None = None
        self._single: aiohttp.ClientSession | None = None
        self._closed = False

    @property
    def breakers(self) -> Sequence[Breaker]:
        """What is known of the sidecar; nothing once this is closed."""
        return tuple(self._breakers)

    async def call(self, request: Request) -> bytes:
        """Make a call and return the body of its answer.

        Raises:
            StoreUnavailable: nobody listens, or answers; nothing was written.
            AmbiguousWrite: the answer was lost, and the call may not be repeated; or it stores, and no
                repetition was answered either.
            HoldfastError: what the sidecar answered.
        """
        response, in_doubt = await self._repeat(request, alone=False)
        try:
            return await response.read()
        except _UNANSWERED as error:
            raise self._lost(request, in_doubt=in_doubt) from error
        finally:
            # One that was not read to its end takes its connection with it.
            response.release()

    @asynccontextmanager
    async def answering(
        self, request: Request, *, alone: bool = False
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Make a call and give the beginning of its answer, whose body is read in the block.

        What breaks the connection in the block is what breaks it before: the call is not repeated any
        more, and fails. See `call`.

        Args:
            request: what to ask.
            alone: on a connection of its own, which ends with the block.
        """
        response, in_doubt = await self._repeat(request, alone=alone)
        try:
            yield response
        except _UNANSWERED as error:
            if isinstance(error, HoldfastError):
                raise
            raise self._lost(request, in_doubt=in_doubt) from error
        finally:
            if alone:
                response.close()
            else:
                response.release()

    async def aclose(self) -> None:
        """Close all connections. Calls fail from now on."""
        self._closed = True
        self._breakers.remove(self._breaker)
        for session in (self._pooled, self._single):
            if session is not None:
                await session.close()

    async def _repeat(
        self, request: Request, *, alone: bool
    ) -> tuple[aiohttp.ClientResponse, bool]:
        """Return a good answer, and whether an earlier one was lost; see `call`."""
        deadline: float | None = None
        pause = _FIRST_PAUSE
        in_doubt = False
        while True:
            if self._closed:
                raise StoreUnavailable("the client is closed: make another with connect()")
            try:
                return await self._attempt(request, alone=alone), in_doubt
            except LostConnection as error:
                in_doubt = in_doubt or request.stores
                failure, reason = self._lost(request, in_doubt=in_doubt), Retry.LOST
                cause, again = error.__cause__, request.repeatable
                request = dataclasses.replace(request, repeated=True)
            except Refused as refusal:
                failure, reason = refusal.error, Retry.SERVER
                cause, again = None, refusal.passes
            except StoreUnavailable as error:
                failure, reason = error, Retry.UNREACHABLE
                cause, again = error.__cause__, not (deadline is None and is_away(error))
            now = time.monotonic()
            deadline = deadline or now + self._patience
            if not again or now + pause > deadline or request.is_spent:
                if in_doubt and not isinstance(failure, AmbiguousWrite):
                    raise _ambiguous() from failure
                raise failure from cause
            self._telemetry.retried(reason)
            await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311 - jitter, no secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _attempt(self, request: Request, *, alone: bool) -> aiohttp.ClientResponse:
        """Send the request once; return an answer that is none of an error.

        Raises:
            LostConnection: it may or may not have been carried out.
            Refused: the sidecar says that it was not.
            StoreUnavailable: nothing was sent.
        """
        if self._breaker.admit():
            await self._probe()
        try:
            response = await self._send(request, alone=alone)
        except (LostConnection, StoreUnavailable) as error:
            self._breaker.failed(str(error))
            raise
        self._breaker.succeeded()
        if response.status < HTTPStatus.MULTIPLE_CHOICES:
            return response
        try:
            body = await response.read()
        except _UNANSWERED as error:
            raise LostConnection(f"the answer was lost ({type(error).__name__})") from error
        finally:
            response.release()
        raise self._refusal(response, body)

    async def _send(self, request: Request, *, alone: bool) -> aiohttp.ClientResponse:
        session = self._session(alone=alone)
        try:
            return await session.request(
                request.method,
                URL(self._address.base + request.path, encoded=True),
                data=request.data(),
                headers=request.headers(),
                allow_redirects=False,
                timeout=_SOON if request.silence == ANSWER else _timeout(request.silence),
            )
        except aiohttp.ClientConnectorError as error:
            why = os.strerror(error.errno) if error.errno else type(error).__name__
            raise self._unreachable(why) from error
        except aiohttp.ConnectionTimeoutError as error:
            raise self._unreachable("no connection in time") from error
        except LostConnection:
            raise
        except _UNANSWERED as error:
            raise LostConnection(f"the answer was lost ({type(error).__name__})") from error

    def _session(self, *, alone: bool) -> aiohttp.ClientSession:
        if alone:
            if self._single is None:
                self._single = open_session(self._address, limit=0)
            return self._single
        if self._pooled is None:
            self._pooled = open_session(self._address, limit=MOST_CONNECTIONS)
        return self._pooled

    async def _probe(self) -> None:
        """Ask whether the sidecar is there: no write is put in doubt only to find that out."""
        try:
            async with asyncio.timeout(PROBE):
                response = await self._send(Request("GET", "/v1/memories"), alone=False)
                await response.read()
        except _UNANSWERED as error:  # StoreUnavailable is among them
            reason = str(error) or "it did not answer in time"
            raise self._breaker.still_away(reason) from error
        except BaseException:
            self._breaker.left()
            raise
        self._breaker.succeeded()

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> Refused:
        if response.content_type == problems.PROBLEM_JSON:
            try:
                problem = _PROBLEM.decode(body)
            except (msgspec.MsgspecError, UnicodeError):
                pass
            else:
                error = problems.error_of(problem)
                return Refused(error, passes=problem.code in _COMING_BACK)
        return Refused(
            ConfigurationError(
                f"what answers at {self._address.name} is no sidecar of Holdfast: it said "
                f"{response.status} in words of its own"
            ),
            passes=False,
        )

    def _lost(self, request: Request, *, in_doubt: bool) -> HoldfastError:
        if in_doubt or not request.repeatable:
            return _ambiguous()
        return StoreUnavailable(
            f"the sidecar at {self._address.name} does not answer in time, or its answer was lost"
        )

    def _unreachable(self, why: str) -> StoreUnavailable:
        if self._address.socket is not None:
            return StoreUnavailable(
                f"nobody listens on the socket {self._address.name} ({why}): the sidecar is missing in "
                "this pod, has not started or has ended, or its directory is not mounted in this container"
            )
        return StoreUnavailable(
            f"nobody listens on {self._address.name} ({why}): the sidecar is missing in this pod, has not "
            "started or has ended, or a NetworkPolicy or a mesh takes what is sent to it"
        )


def _timeout(silence: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=QUEUE, sock_connect=CONNECT, sock_read=silence)


_SOON: Final = _timeout(ANSWER)


def _ambiguous() -> AmbiguousWrite:
    return AmbiguousWrite(
        "the connection to the sidecar broke before the answer: the call may or may not have been carried "
        "out. Read the session to find out; an append with an id is repeated by itself and stored once"
    )
