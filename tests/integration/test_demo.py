"""The demo ends well, and its checks find what they are there to find."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from examples.support import checks
from examples.support.checks import Acknowledged, Check, Content, Replay
from holdfast.policy import load_policy
from holdfast.values import Record

ROOT = Path(__file__).parents[2]
POLICIES = [
    load_policy({"limits": {"maxTokens": limit}, "retention": {"ttl": "1h"}})[1]
    for limit in (120, 60)
]
pytestmark = pytest.mark.redis


@pytest.mark.slow
def test_the_demo_ends_well() -> None:
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "support" / "demo.py")],
        env=os.environ | {"PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "FAILED" not in done.stdout
    assert "All 9 hold." in done.stdout
    for agent in ("orders", "shipping", "billing"):
        assert f"  {agent} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110


def messages(agent: str, number: int) -> list[tuple[str, dict[str, Any]]]:
    call = {
        "id": f"{agent}-{number}",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }
    return [
        ("call", {"role": "assistant", "content": None, "tool_calls": [call]}),
        ("result", {"role": "tool", "tool_call_id": f"{agent}-{number}", "content": "a result"}),
        ("answer", {"role": "assistant", "content": f"answer {number} of {agent}"}),
    ]


async def acknowledged() -> list[Acknowledged]:
    """What two agents wrote in turns, with the answers that a right store gives."""
    told = [Acknowledged("desk", "system", 1, {"role": "system", "content": "be brief"}, 0, 0, 0)]
    for number in range(6):
        agent = ("orders", "billing")[number % 2]
        for part, message in messages(agent, number):
            one = Acknowledged(
                agent, f"{agent}-{number}-{part}", len(told) + 1, message, 0, 0, number // 4
            )
            told.append(one)
    totals = (await checks.replay(told, POLICIES)).totals
    return [
        dataclasses.replace(one, tokens=totals[one.seq][0], length=totals[one.seq][1])
        for one in told
    ]


@pytest.mark.asyncio
async def test_a_right_run_passes_every_check() -> None:
    told = await acknowledged()
    expected = await checks.replay(told, POLICIES)
    assert len(expected.followed.records) < len(expected.before.records) < len(told)
    for check in (
        checks.places(told),
        checks.orders(told),
        checks.counts(told, expected),
        checks.budgets(told, POLICIES),
        checks.same("end", expected.after, expected.after),
        checks.pairs([[record.item for record in expected.after.records]]),
    ):
        assert check.ok, check


def without(records: Sequence[Record], at: int) -> tuple[Record, ...]:
    return (*records[:at], *records[at + 1 :])


def changed(content: Content, records: Sequence[Record]) -> Content:
    return dataclasses.replace(content, records=tuple(records))


WRONG: dict[str, tuple[Callable[[Content], Content], str]] = {
    "lost": (lambda held: changed(held, without(held.records, 1)), "is lost"),
    "duplicated": (
        lambda held: changed(held, (*held.records, held.records[-1])),
        "is there 2 times",
    ),
    "reordered": (
        lambda held: changed(held, (held.records[0], held.records[2], held.records[1])),
        "out of order",
    ),
    "not evicted": (
        lambda held: changed(
            held, (held.records[0], dataclasses.replace(held.records[1], seq=2), *held.records[1:])
        ),
        "#2 should have left",
    ),
    "content": (
        lambda held: changed(
            held,
            (*held.records[:-1], dataclasses.replace(held.records[-1], item={"role": "user"})),
        ),
        "differs: item",
    ),
    "group": (
        lambda held: changed(
            held, (*held.records[:-1], dataclasses.replace(held.records[-1], group=1))
        ),
        "differs: group",
    ),
    "id": (
        lambda held: changed(
            held, (*held.records[:-1], dataclasses.replace(held.records[-1], id=None))
        ),
        "differs: id",
    ),
    "tokens": (lambda held: dataclasses.replace(held, tokens=held.tokens + 1), "tokens"),
    "length": (lambda held: dataclasses.replace(held, length=held.length - 1), "messages"),
}


@pytest.mark.asyncio
@pytest.mark.parametrize("what", WRONG)
async def test_whatever_differs_in_redis_is_found(what: str) -> None:
    spoil, sentence = WRONG[what]
    held = (await checks.replay(await acknowledged(), POLICIES)).after
    check = checks.same("end", spoil(held), held)
    assert any(sentence in fault for fault in check.faults), check


def _places(told: list[Acknowledged], expected: Replay) -> Check:
    return checks.places(told)


def _orders(told: list[Acknowledged], expected: Replay) -> Check:
    return checks.orders(told)


def _counts(told: list[Acknowledged], expected: Replay) -> Check:
    return checks.counts(told, expected)


def _budgets(told: list[Acknowledged], expected: Replay) -> Check:
    return checks.budgets(told, POLICIES)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("judge", "change", "sentence"),
    [
        (_places, {"seq": 4}, "#4 was given 2 times"),
        (_places, {"seq": 99}, "nobody was given #8"),
        (_places, {"id": "system"}, "system was acknowledged 2 times"),
        (_orders, {"seq": 2}, "orders-2-call (#2) follows"),
        (_counts, {"tokens": 1}, "1 tokens in"),
        (_counts, {"length": 40}, "in 40 messages"),
        (_budgets, {"tokens": 121}, "121 tokens after orders-2-call, allowed were 120"),
        (_budgets, {"phase": 1, "tokens": 61}, "61 tokens after orders-2-call, allowed were 60"),
    ],
)
async def test_whatever_is_wrong_in_an_answer_is_found(
    judge: Callable[[list[Acknowledged], Replay], Check], change: dict[str, Any], sentence: str
) -> None:
    told = await acknowledged()
    expected = await checks.replay(told, POLICIES)
    assert judge(told, expected).ok
    assert told[7].id == "orders-2-call"
    told[7] = dataclasses.replace(told[7], **change)
    found = judge(told, expected)
    assert any(sentence in fault for fault in found.faults), found


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [(("call",), "orders-1 has no result"), (("result",), "orders-1 has no call")],
)
def test_half_a_tool_call_is_found(parts: Sequence[str], sentence: str) -> None:
    whole = dict(messages("orders", 1))
    found = checks.pairs([list(whole.values()), [whole[part] for part in parts]])
    assert found.faults == (f"look 2: {sentence}",)
