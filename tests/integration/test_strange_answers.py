"""What answers where a server should be, and is none; and the connections to it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from holdfast.errors import HoldfastError
from holdfast.store.addresses import Address, Mode
from holdfast.store.redis.maintenance import RedisMaintenance
from holdfast_operator.storage.backends import ConnectionPool

SECRET = "hunter2"


def bulk(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return b"$%d\r\n%s\r\n" % (len(data), data)


def info(**values: str) -> bytes:
    standard = {"redis_version": "7.2.4", "redis_mode": "standalone", "used_memory": "1"}
    return bulk("\r\n".join(f"{name}:{value}" for name, value in (standard | values).items()))


@asynccontextmanager
async def answering(answer: bytes) -> AsyncGenerator[int]:
    """The port of something that answers so whenever it is asked what it is."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words: list[bytes] = []
            for _ in range(int(line[1:])):
                await reader.readline()
                words.append((await reader.readline()).strip())
            writer.write(answer if words[0] == b"INFO" else b"+OK\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def reaching(answer: bytes) -> AsyncGenerator[RedisMaintenance]:
    """The hands in it."""
    async with answering(answer) as port:
        hands = RedisMaintenance.connect("127.0.0.1", port, timeout=2.0)
        try:
            yield hands
        finally:
            await hands.aclose()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "answer",
    [
        info(used_memory=SECRET),
        info(used_memory="9" * 5000),
        info(redis_version=SECRET),
        info(redis_version="7." + "9" * 100),
        info(redis_mode=f"{SECRET} and more"),
        info(maxmemory_policy=SECRET * 100),
        bulk(b"\xff\xfe"),
        b":5\r\n",
        b"*1\r\n$7\r\nhunter2\r\n",
    ],
)
async def test_it_is_an_error_of_ours_and_quotes_nothing(answer: bytes) -> None:
    async with reaching(answer) as hands:
        with pytest.raises(HoldfastError) as error:
            await hands.server()
    assert SECRET not in str(error.value)


@pytest.mark.asyncio
async def test_versions_before_a_release_are_versions() -> None:
    async with reaching(info(redis_version="8.0.0-rc1")) as hands:
        assert (await hands.server()).version == "8.0.0-rc1"


@pytest.mark.asyncio
async def test_two_who_replace_a_connection_at_once_get_the_same() -> None:
    pool = ConnectionPool()
    async with answering(info()) as port:
        address = Address(Mode.STANDALONE, (("127.0.0.1", port),))
        old = await pool.open("uid", 1, "5", address, "mem")
        await old.server()  # now there is something to close, which takes a moment
        one, other = await asyncio.gather(
            pool.open("uid", 1, "6", address, "mem"), pool.open("uid", 1, "6", address, "mem")
        )
        assert one is other
        assert one is not old
        assert pool.current("uid", 1) is one
        await pool.aclose()
