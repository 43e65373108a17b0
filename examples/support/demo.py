"""The main job of Holdfast, to be watched: agents share a conversation under a policy that changes.

    python examples/support/demo.py            on this machine, with `holdfast dev`
    python examples/support/demo.py --cluster  on a Kubernetes API server, with the operator

Three processes answer in one session, at the same time. Then the policy is edited, and the session that
is there already follows. At the end what Redis holds is compared with what was acknowledged; the exit
code is 1 if anything is not as it should be.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import checks
import yaml
from checks import Acknowledged, Check, Content
from processes import Agent, Told, agents
from screen import Screen, span
from script import AGENTS, SYSTEM
from worlds import HERE, MEMORY, World, WorldFailed, local

import holdfast
from holdfast.policy import Policy, load_policy

SESSION = "mira-okafor"
PHASES = (5, 3)
EDIT = (("maxTokens: 1200", "maxTokens: 600"), ("ttl: 24h", "ttl: 2h"))
_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class Moment:
    """The session at one moment, while nobody writes."""

    content: Content
    health: holdfast.Health
    at: float

    @property
    def left(self) -> float:
        """Seconds until it expires."""
        return (self.health.expires_at or 0) / 1000 - self.at


async def look(session: holdfast.Session) -> Moment:
    """Return the session as it is now."""
    return Moment(await checks.content(session), await session.health(), time.time())


async def watch(session: holdfast.Session, told: Told) -> None:
    """Read the session again and again, as one more program that needs it."""
    while True:
        told.looks.append(await session.read())
        await asyncio.sleep(_LOOK)


async def phase(working: list[Agent], *, last: bool = False) -> None:
    """Let all agents answer at the same time, until each is done."""
    for agent in working:
        agent.go()
    await asyncio.gather(
        *(agent.until_ended() if last else agent.until_ready() for agent in working)
    )


async def demo(world: World, began: float) -> bool:
    """Run the demo and return whether everything is as it should be."""
    first, second = manifests()
    policies = [policy_of(first), policy_of(second)]
    screen, told = Screen(policies[0].max_tokens or 0), Told()
    screen.opening(world.name, SESSION, AGENTS, in_words(policies[0]))
    async with (
        holdfast.connect(world.url) as client,
        agents(world.url, SESSION, PHASES, told, screen) as working,
    ):
        session = client.memory("support").session(SESSION)
        await open_conversation(session, told)
        watching = asyncio.create_task(watch(session, told))
        await phase(working)
        before = await look(session)
        screen.edit(EDIT, policies[1].max_tokens or 0)
        edited = time.monotonic()
        await world.edit(second)
        sentence = await world.followed(2)
        after = await look(session)
        screen.followed(time.monotonic() - edited, rows(before, after), sentence)
        told.phase = 1
        await phase(working, last=True)
        end = await look(session)
        watching.cancel()
    kept = [record.seq for record in end.content.records]
    screen.closing(len(told.acknowledged), kept, before.content.length - after.content.length)
    found = await judge(told, policies, before, after, end)
    screen.checks(found, time.monotonic() - began)
    return all(check.ok for check in found)


async def judge(
    told: Told, policies: list[Policy], before: Moment, after: Moment, end: Moment
) -> list[Check]:
    """Compare what there is with what was acknowledged."""
    acknowledged = told.acknowledged
    expected = await checks.replay(acknowledged, policies)
    return [
        checks.places(acknowledged),
        checks.orders(acknowledged),
        checks.counts(acknowledged, expected),
        checks.budgets(acknowledged, policies),
        checks.pairs(told.looks),
        checks.same("before the edit Redis held the exact replay", before.content, expected.before),
        followed(after, policies[1]),
        checks.same("exactly the oldest left with the edit", after.content, expected.followed),
        checks.same("in the end Redis holds the exact replay", end.content, expected.after),
    ]


def followed(after: Moment, policy: Policy) -> Check:
    """The session that was there follows the edited policy: revision, tokens and expiry."""
    ttl, limit, health = policy.retention.ttl.seconds, policy.max_tokens or 0, after.health
    faults: list[str] = []
    if (health.revision, health.revision_behind) != (2, 0):
        faults.append(f"it is at revision {health.revision}, {health.revision_behind} behind")
    if health.tokens > limit:
        faults.append(f"it has {health.tokens} tokens, allowed are {limit}")
    if not ttl - 600 < after.left <= ttl:
        faults.append(f"it expires in {span(after.left)}, the policy says {policy.retention.ttl}")
    return Check("the live session followed the edit", tuple(faults), in_words(policy))


async def open_conversation(session: holdfast.Session, told: Told) -> None:
    """Append what every conversation begins with."""
    message = {"role": "system", "content": SYSTEM}
    done = await session.append(message, id="system")
    told.acknowledged.append(
        Acknowledged("desk", "system", done.seq, message, done.tokens, done.length, phase=0)
    )


def manifests() -> tuple[str, str]:
    """Return the manifest as it is, and as somebody edits it."""
    first = second = (HERE / MEMORY).read_text(encoding="utf-8")
    for old, new in EDIT:
        assert old in first, f"{MEMORY} does not say {old!r}"
        second = second.replace(old, new)
    return first, second


def policy_of(manifest: str) -> Policy:
    """Return the policy of a manifest."""
    return load_policy(yaml.safe_load(manifest))[1]


def in_words(policy: Policy) -> str:
    """Say what a policy allows."""
    return f"{policy.max_tokens} tokens, expires {policy.retention.ttl} after the last call"


def rows(before: Moment, after: Moment) -> list[tuple[str, object, object]]:
    """Compare the session before the edit and after it."""
    return [
        ("tokens", before.health.tokens, after.health.tokens),
        ("messages", before.health.messages, after.health.messages),
        ("policy revision", before.health.revision, after.health.revision),
        ("expires in", span(before.left), span(after.left)),
    ]


async def run(in_cluster: bool, context: str | None) -> bool:
    """Make the world, run the demo in it, and leave nothing behind."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began = time.monotonic()

    def world(folder: Path) -> AbstractAsyncContextManager[World]:
        if not in_cluster:
            return local(folder)
        from clusters import cluster  # noqa: PLC0415 - needs more than the demo on one machine

        return cluster(folder, context)

    with tempfile.TemporaryDirectory(prefix="holdfast-demo-") as folder:
        async with world(Path(folder)) as place:
            return await demo(place, began)


def main() -> int:
    """Read the command line and run the demo."""
    parser = argparse.ArgumentParser(description="Agents share one conversation.")
    parser.add_argument("--cluster", action="store_true", help="on a Kubernetes API server")
    parser.add_argument(
        "--context",
        metavar="current",
        default=os.environ.get("KUBECONFIG_CONTEXT") or None,
        help="with --cluster: the cluster of the current kubeconfig, not one started for the demo",
    )
    arguments = parser.parse_args()
    if arguments.context not in (None, "current"):
        parser.error("--context takes only current: kubectl config use-context chooses another one")
    try:
        return 0 if asyncio.run(run(arguments.cluster, arguments.context)) else 1
    except (WorldFailed, TimeoutError) as error:
        print(f"the demo could not go on: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
