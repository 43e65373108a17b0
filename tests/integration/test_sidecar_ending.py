"""A sidecar that ends while a model is asked for a summary: it waits for no model, and nothing is lost."""

import asyncio
import secrets
import time
from pathlib import Path

import pytest

import holdfast
from holdfast.summaries import SummaryRequest
from tests.harness.servers import Server
from tests.harness.sidecar_process import running_sidecar
from tests.harness.waiting import until
from tests.integration.test_sidecar import manifest
from tests.integration.world import spec, user

pytestmark = [pytest.mark.redis, pytest.mark.asyncio]

SESSION = "/v1/memories/support/sessions/long"
LIMITS = {"maxTokens": 2_000}
HYBRID = {"strategy": "HybridSummary", "thresholdPercent": 50, "targetPercent": 30}
SUMMARY = {"oldestPercent": 30, "maxTokens": 60}
DRAIN = 8.0
"""Seconds that the sidecar has to end: less than a model has to answer."""


class Author:
    """Summarises at once."""

    name = "author"

    async def summarize(self, request: SummaryRequest) -> str:
        return f"{len(request.messages)} messages"


async def test_a_summary_under_way_is_dropped_and_made_elsewhere(
    valkey_server: Server, tmp_path: Path
) -> None:
    namespace = f"team-{secrets.token_hex(6)}"
    asked = asyncio.Event()
    over = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await over.wait()
        writer.close()

    model = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{model.sockets[0].getsockname()[1]}/v1"
    endpoint = {"type": "OpenAICompatible", "openAICompatible": {"url": url, "model": "small"}}
    summarizing = {**HYBRID, "summary": {**SUMMARY, "summarizer": endpoint}}
    policy = manifest(tmp_path, "support", limits=LIMITS, flushing=summarizing)
    arguments = ("--url", valkey_server.url, "--namespace", namespace, "--policy", policy)
    # Beyond half of what may be there, and below all of it: nothing has to leave.
    sent = [f"message {number} {'word ' * 20}" for number in range(40)]
    async with model, running_sidecar(*arguments, "--drain", f"{DRAIN:g}s") as sidecar:
        async with sidecar.client() as api:
            for text in sent:
                answer = await api.post(f"{SESSION}/messages", json={"message": user(text)})
                assert answer.status_code == 200, answer.text
            await until(asked.is_set, "a model is asked for a summary")
            begun = time.monotonic()
            sidecar.terminate()
            assert await sidecar.ended() == 0
            assert time.monotonic() - begun < DRAIN
        over.set()

    plain = spec(limits=LIMITS)
    async with holdfast.connect(
        valkey_server.url, namespace=namespace, policy=plain, summarizer=Author()
    ) as client:
        session = client.memory("support").session("long")
        assert [message["content"] for message in await session.read()] == sent
        # Whoever comes next needs not wait until the claim of the one that ended has run out.
        summary = (await session.flush("HybridSummary")).summary
        assert summary is not None
