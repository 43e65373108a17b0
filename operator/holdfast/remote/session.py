"""A session that a sidecar keeps."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Final, Literal

from holdfast.background import Background
from holdfast.errors import ImportRefused
from holdfast.remote.answers import Answer
from holdfast.remote.connections import MODEL
from holdfast.remote.log import RemoteLog
from holdfast.remote.place import RemotePlace
from holdfast.remote.turn import RemoteTurn
from holdfast.session import Session, asked_turn
from holdfast.telemetry import Call
from holdfast.transfer import each_line
from holdfast.values import ImportResult, Lines, Receipt
from holdfast.wire import JSON_LINES

_PIECE: Final = 64 * 1024  # bytes of lines that are sent together

_RECEIPT = Answer(Receipt)
_IMPORTED = Answer(ImportResult)


class RemoteSession(RemoteLog, Session):
    """One conversation, kept by a sidecar; see `Session`.

    Args:
        place: which.
        background: of the client.
    """

    def __init__(self, place: RemotePlace, *, background: Background) -> None:
        super().__init__(place)
        self._behind = background

    def turn(
        self,
        *,
        wait: str | timedelta | None = None,
        ttl: str | timedelta | None = None,
        on_interrupt: Literal["cancel"] | None = None,
    ) -> RemoteTurn:
        """Ask for the turn; see `Session.turn`. It has a connection of its own while it is open."""
        asked = asked_turn(wait, ttl, on_interrupt)
        return RemoteTurn(self._at, asked, background=self._behind)

    async def erase(self, *, force: bool = False) -> Receipt:
        """Remove all that is kept of the session; see `Session.erase`."""
        query = (("force", force),)
        return _RECEIPT.read(await self._ask(Call.ERASE, "DELETE", "", query, silence=MODEL))

    async def export(self, *, name: bool = False) -> AsyncIterator[str]:
        """Give the session as lines of JSON; see `Session.export`.

        Raises:
            StoreUnavailable: also where the connection breaks before the last line.
        """
        place = self._at
        with place.naming():
            async with AsyncExitStack() as connection:
                with place.naming(Call.EXPORT):
                    request = await place.request(
                        "GET", "/export", (("name", name),), accept=JSON_LINES
                    )
                    answer = place.answering(request)
                    content = (await connection.enter_async_context(answer)).content
                rest = b""
                async for part in content.iter_any():
                    *lines, rest = (rest + part).split(b"\n")
                    for line in lines:
                        yield line.decode()
                if rest:
                    yield rest.decode()

    async def import_(self, lines: Lines) -> ImportResult:
        """Take in what `export` gave; see `Session.import_`. One request.

        Where `lines` raises, what it gave before is taken in as far as it goes, and then its error comes out.
        """
        body = _LinesBody(lines)
        with self._at.naming(Call.IMPORT):
            request = await self._at.request(
                "POST", "/import", body=body, repeatable=False, silence=MODEL
            )
            answer = await self._at.call(request)
            if body.failure is not None:
                raise body.failure
            return _IMPORTED.read(answer)


class _LinesBody:
    """Lines as the body of a request.

    Attributes:
        begun: some were asked for.
        failure: what their source raised.
    """

    def __init__(self, lines: Lines) -> None:
        self.begun = False
        self.failure: Exception | None = None
        self._lines = lines

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the lines, several at once."""
        self.begun = True
        piece = bytearray()
        number = 0
        try:
            async for line in each_line(self._lines):
                number += 1
                # Within JSON text a line break is nothing but a space.
                piece += line.rstrip("\r\n").replace("\n", " ").encode() + b"\n"
                if len(piece) >= _PIECE:
                    yield bytes(piece)
                    piece.clear()
        except UnicodeEncodeError:
            self.failure = ImportRefused(f"line {number} is no Unicode text", line=number)
        except Exception as error:  # noqa: BLE001 - foreign code; raised again in the caller's own task
            self.failure = error
        if piece:
            yield bytes(piece)
