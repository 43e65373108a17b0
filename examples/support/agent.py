"""One agent of a support desk, in a conversation that it shares with others.

    HOLDFAST_URL='redis://127.0.0.1:6379/0?namespace=local' python agent.py orders

It takes the turn for each question, so no other agent speaks in between, and prints one JSON line for
each message that the store acknowledged. A model is not asked: `script.py` says what it would say.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from script import AGENTS, Exchange, exchanges

import holdfast

THINKING = 0.04
"""Seconds that stand for a call of a model or of a tool."""


def conversation(exchange: Exchange, call: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the messages of one exchange in the Chat Completions format, each with its part."""
    yield "question", {"role": "user", "content": exchange.question}
    function = {"name": exchange.tool, "arguments": json.dumps(exchange.arguments)}
    calls = [{"id": call, "type": "function", "function": function}]
    yield "call", {"role": "assistant", "content": None, "tool_calls": calls}
    result = json.dumps(exchange.result, ensure_ascii=False)
    yield "result", {"role": "tool", "tool_call_id": call, "content": result}
    yield "answer", {"role": "assistant", "content": exchange.answer}


async def answer(session: holdfast.Session, agent: str, number: int, exchange: Exchange) -> None:
    """Answer one question within one turn."""
    asked = time.monotonic()
    async with session.turn(wait="1m") as turn:
        waited = time.monotonic() - asked
        context = await turn.read()  # this is what a model would be given
        for part, message in conversation(exchange, f"{agent}-{number}"):
            if part != "question":
                await asyncio.sleep(THINKING)
            message_id = f"{agent}-{number}-{part}"  # makes a repeated append harmless
            done = await turn.append(message, id=message_id)
            line = {
                "agent": agent,
                "title": exchange.title,
                "part": part,
                "id": message_id,
                "message": message,
                "seq": done.seq,
                "tokens": done.tokens,
                "length": done.length,
                "evicted": done.evicted,
                "waited": round(waited, 4),
                "context": len(context),
                "fence": turn.fence,
            }
            print(json.dumps(line), flush=True)


async def work(agent: str, session_id: str, phases: list[int] | None) -> None:
    """Answer all questions, or so many of them each time that a line comes in on stdin."""
    script = exchanges(agent)
    async with holdfast.connect() as client:
        session = client.memory("support").session(session_id)
        number = 0
        for size in [len(script)] if phases is None else phases:
            if phases is not None:
                print(json.dumps({"agent": agent, "ready": True}), flush=True)
                await asyncio.to_thread(sys.stdin.readline)
            for exchange in script[number : number + size]:
                number += 1
                await answer(session, agent, number, exchange)


def main() -> None:
    """Read the command line and work."""
    parser = argparse.ArgumentParser(description="One agent of the support desk.")
    parser.add_argument("agent", choices=AGENTS)
    parser.add_argument("--session", default="mira-okafor", help="id of the conversation")
    parser.add_argument(
        "--phases",
        type=lambda text: [int(size) for size in text.split(",")],
        help="answer so many questions after each line on stdin, such as 5,3; otherwise all at once",
    )
    arguments = parser.parse_args()
    asyncio.run(work(arguments.agent, arguments.session, arguments.phases))


if __name__ == "__main__":
    main()
