"""A client in another event loop than its own: refused before anything is sent."""

import json
import subprocess
import sys
import uuid

from tests.harness.servers import Server

# A program of its own, since nobody can close the connections of an event loop that has ended.
PROGRAM = """
import asyncio, json, multiprocessing, sys
import holdfast

url, namespace = sys.argv[1:]
policy = {"limits": {"maxTokens": 1000}, "retention": {"ttl": "1h"}, "model": {"tokenizer": "approximate"}}


def connect():
    return holdfast.connect(url, namespace=namespace, policy=policy)


async def say(client, text, then=None):
    session = client.memory("support").session("a")
    try:
        async with asyncio.timeout(20):
            await session.append(text)
            if then is not None:
                then()
            return list(await session.read())
    except RuntimeError as error:
        return str(error)


async def close(client):
    try:
        await client.aclose()
    except RuntimeError as error:
        return str(error)


def fork(client, there):
    work = lambda: there.send(asyncio.run(say(client, "of the child")))
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join(30)


client = connect()
here, there = multiprocessing.Pipe()
found = {"first": asyncio.run(say(client, "of the parent", lambda: fork(client, there)))}
found["forked"] = here.recv()
found["second"] = asyncio.run(say(client, "of the second loop"))
found["close"] = asyncio.run(close(client))
found["new"] = asyncio.run(say(connect(), "of a new client"))
print(json.dumps(found))
"""


def test_another_event_loop_or_a_fork_is_refused_before_anything_is_sent(
    valkey_server: Server,
) -> None:
    namespace = f"team-{uuid.uuid4().hex[:12]}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, valkey_server.url, namespace],
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    found = json.loads(done.stdout)
    assert found["first"] == ["of the parent"]
    assert found["new"] == ["of the parent", "of a new client"]
    for refused in ("forked", "second", "close"):
        assert "another event loop" in found[refused]
        assert "forked" in found[refused]
