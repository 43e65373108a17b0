"""Clients that could be led astray: by no remembered ids, by bytes that are no reply, by a broken record."""

import asyncio

import pytest

import holdfast
from holdfast.errors import AmbiguousWrite, CorruptRecord, StoreUnavailable
from holdfast.store.redis.script import script
from tests.harness.proxy import CuttingProxy
from tests.harness.servers import Server
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]


async def test_where_no_ids_are_remembered_an_append_is_not_repeated(
    proxy: CuttingProxy, namespace: str
) -> None:
    forgetful = work.policy(idempotency={"maxRememberedIDs": 0})
    async with holdfast.connect(proxy.url, namespace=namespace, policy=forgetful) as client:
        session = client.memory(work.MEMORY).session(work.SHARED)
        await session.append(user("first"))
        fault = proxy.cut_after_request(script("append").sha)
        with pytest.raises(AmbiguousWrite):
            await session.append(user("second"), id="r-1")
        assert fault.fired == 1
        assert await session.read() == [user("first"), user("second")]


async def test_a_turn_knows_its_own_call_also_after_a_lost_reply(
    proxy: CuttingProxy, namespace: str
) -> None:
    function = {"name": "weather", "arguments": "{}"}
    calling = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call-1", "type": "function", "function": function}],
    }
    async with (
        holdfast.connect(proxy.url, namespace=namespace, policy=work.policy()) as client,
        client.memory(work.MEMORY).session(work.SHARED).turn() as turn,
    ):
        fault = proxy.cut_after_request(script("append").sha)
        await turn.append(calling, id="r-1")
        assert fault.fired == 1
        await turn.append(user("still there?"))
        assert await turn.read() == [calling, user("still there?")]


async def test_bytes_that_are_no_reply_are_a_broken_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words: list[bytes] = []
            for _ in range(int(line[1:])):
                await reader.readline()
                words.append((await reader.readline()).strip())
            hello = b"%1\r\n$5\r\nproto\r\n:3\r\n" if words[0] == b"HELLO" else b"+OK\r\n"
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\n\r\n" if words[0] == b"HMGET" else hello)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with holdfast.connect(f"redis://127.0.0.1:{port}", policy=work.policy()) as client:
            with pytest.raises(StoreUnavailable):
                await client.memory(work.MEMORY).session(work.SHARED).append(user("hi"))
    finally:
        server.close()
        await server.wait_closed()


async def test_a_newest_record_that_cannot_be_read_is_not_asked_for_for_ever(
    valkey_server: Server, namespace: str
) -> None:
    url = valkey_server.url
    async with holdfast.connect(url, namespace=namespace, policy=work.policy()) as client:
        session = client.memory(work.MEMORY).session(work.SHARED)
        await session.append({"role": "system", "content": "be brief"})
        await session.append(user("hi"))
        async with valkey_server.client() as raw:
            await raw.lset(work.key_of(namespace, "log"), 0, '[1,0,2,5,2,null,{"role"')
        async with asyncio.timeout(90):
            with pytest.raises(CorruptRecord):
                await session.pop()
        assert await session.read() == [{"role": "system", "content": "be brief"}]


async def test_records_that_cannot_be_read_hide_nothing_behind_them(
    valkey_server: Server, namespace: str
) -> None:
    """A walk does not end before them, a limit counts what can be read, and each look is told of."""
    url = valkey_server.url
    async with holdfast.connect(url, namespace=namespace, policy=work.policy()) as client:
        session = client.memory(work.MEMORY).session(work.SHARED)
        await session.append_many([user(str(at)) for at in range(1, 13)])
        torn = '[1,0,{0},5,{0},null,{{"role"'
        async with valkey_server.client() as raw:
            for seq in (4, 11, 12):
                log = work.key_of(namespace, "log")
                await raw.lset(log, seq - 1, torn.format(seq))
        walked, after = list[int](), None
        while True:
            page = await session.read_page(after=after, limit=3)
            walked += [record.seq for record in page.records]
            if (after := page.next) is None:
                break
        assert walked == [1, 2, 3, 5, 6, 7, 8, 9, 10]
        assert (await session.health()).warnings
        assert await session.read(limit=2) == [user("9"), user("10")]
        fresh = client.memory(work.MEMORY).session(work.SHARED)
        await fresh.read(limit=1)
        assert "2 records could not be read" in (await fresh.health()).warnings[0]


async def test_a_newest_record_that_cannot_be_read_is_not_nothing(
    valkey_server: Server, namespace: str
) -> None:
    url = valkey_server.url
    async with holdfast.connect(url, namespace=namespace, policy=work.policy()) as client:
        session = client.memory(work.MEMORY).session(work.SHARED)
        await session.append(user("hi"))
        async with valkey_server.client() as raw:
            await raw.lset(work.key_of(namespace, "log"), 0, '[1,0,1,5,1,null,{"role"')
        with pytest.raises(CorruptRecord):
            await session.pop()
        assert await session.length() == 1
