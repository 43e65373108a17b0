"""A server that speaks just enough of the Redis protocol to be talked to, and notes what it hears."""

import asyncio
from types import TracebackType
from typing import Self

import hiredis

_HELLO = b"%2\r\n$6\r\nserver\r\n$5\r\nredis\r\n$5\r\nproto\r\n:3\r\n"


class Listener:
    """Listens on a port of its own on 127.0.0.1, as `async with`.

    Args:
        answers: the reply to a command, as it goes over the wire, by the command's name in capitals;
            an empty one closes the connection. Everything else is answered with OK.

    Attributes:
        port: where it listens.
        connections: how many were opened so far.
        open: how many of them are open now.
        heard: every command, in order.
        silent: names of commands in capitals that are never answered.
        hold: nothing is answered while it is not set.
    """

    def __init__(self, answers: dict[bytes, bytes] | None = None) -> None:
        self.answers = {b"HELLO": _HELLO, **(answers or {})}
        self.port = 0
        self.connections = 0
        self.open = 0
        self.heard: list[list[bytes]] = []
        self.silent: set[bytes] = set()
        self.hold = asyncio.Event()
        self.hold.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def named(self, name: bytes) -> list[list[bytes]]:
        """Return the commands of that name."""
        return [command for command in self.heard if command[0].upper() == name]

    def hang_up(self) -> None:
        """Close every connection."""
        for writer in self._writers:
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        self._writers.add(writer)
        parser = hiredis.Reader(notEnoughData=Ellipsis)
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not Ellipsis:
                    self.heard.append(command)
                    await self.hold.wait()
                    answer = self.answers.get(command[0].upper(), b"+OK\r\n")
                    if not answer:
                        return
                    if command[0].upper() not in self.silent:
                        writer.write(answer)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.close()
