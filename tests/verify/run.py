"""One run: servers, workers, faults; then what the history says of it."""

import asyncio
import random
import shutil
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.verify.case import Rules, Violation
from tests.verify.checker import check, evidence
from tests.verify.faults import Crew, Injector
from tests.verify.history import History, Recorder, read_history
from tests.verify.images import Image, immortal_keys, sessions_of, take_image
from tests.verify.profiles import PROFILES
from tests.verify.state_rules import immortal
from tests.verify.targets import Target, TargetName, running_target

_EVERYTHING = {
    "plain": 3,
    "enforced": 2,
    "interrupt": 2,
    "clearing": 2,
    "erasing": 1,
    "fifo": 2,
    "lru": 2,
    "summary": 3,
    "forgetting": 2,
    "withdrawing": 2,
}
_REMOVING = {"clearing", "erasing", "withdrawing"}
_WHERE_WRITES_GET_LOST = {
    name: often for name, often in _EVERYTHING.items() if PROFILES[name].keeps or name in _REMOVING
}
"""Of what keeps everything one can tell what was lost; and what was removed outside failovers stays away."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does.

    Attributes:
        target: the servers.
        seconds: how long the workers work.
        seed: of all that is left to chance, but for what the machine decides.
        workers: processes.
        profiles: kinds of sessions, by how often; None: those that suit the target.
        faults: kinds, by how often; None: all.
        pause: seconds between two faults of one kind of victim, on average.
        options: of the workers.
    """

    target: TargetName
    seconds: float
    seed: int = 1
    workers: int = 4
    profiles: Mapping[str, int] | None = None
    faults: Mapping[str, int] | None = None
    pause: float = 1.5
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to.

    Attributes:
        target: the servers.
        seed: of the run.
        seconds: how long the workers worked.
        operations: calls, by which and by how they ended.
        faults: how often each struck.
        sessions: how many there were.
        violations: all of them.
        lost: acknowledged messages that a failover has lost.
        evidence: what the rules had to go by.
    """

    target: TargetName
    seed: int
    seconds: float
    operations: Counter[tuple[str, str]]
    faults: Counter[str]
    sessions: int
    violations: Sequence[Violation]
    lost: int
    evidence: Counter[str]


@dataclass(frozen=True, slots=True)
class Observed:
    """What there is to be judged.

    Attributes:
        records: the directory of the history.
        probes: what was stored at moments in between.
        images: by session, what is stored in the end.
        immortal: keys that never expire.
    """

    records: Path
    probes: Sequence[Image]
    images: Mapping[str, Image]
    immortal: Sequence[str]


async def run(plan: Plan, directory: Path) -> Report:
    """Do what the plan says; whatever was started has ended when this returns.

    Args:
        plan: what to do.
        directory: for data, logs and the history; should be empty.

    Raises:
        WorkerFailed: a worker did not end in order.
    """
    async with running_target(plan.target, directory / "servers") as target:
        observed = await observe(plan, target, directory)
    # A history of many calls takes a while, in which the servers need not run.
    return judge(plan, observed)


async def observe(plan: Plan, target: Target, directory: Path) -> Observed:
    """Let workers work on servers that run, and look at what is stored; see `run`."""
    records = directory / "history"
    records.mkdir(parents=True)
    namespace = f"verify-{plan.seed}"
    probes = await _work(plan, target, directory, namespace, time.monotonic())
    images, keys = await _what_is_left(target, namespace)
    return Observed(records, probes, images, keys)


def judge(plan: Plan, observed: Observed) -> Report:
    """Apply every rule to what was observed."""
    history, images = read_history(observed.records), observed.images
    violations, lost = check(history, images, _rules, observed.probes)
    return Report(
        plan.target,
        plan.seed,
        plan.seconds,
        Counter((call.begun.op.value, call.outcome) for call in history.calls),
        _struck(history),
        len(images),
        [*violations, *immortal(observed.immortal)],
        lost,
        evidence(history, [*observed.probes, *images.values()]),
    )


async def _work(
    plan: Plan, target: Target, directory: Path, namespace: str, began: float
) -> list[Image]:
    """Let the workers work while faults strike; return what was stored in between."""
    chance = random.Random(plan.seed)
    chosen = plan.profiles
    if chosen is None:
        chosen = _WHERE_WRITES_GET_LOST if target.loses else _EVERYTHING
    settings = {
        "namespace": namespace,
        "directory": str(directory / "history"),
        "profiles": dict(chosen),
        "seed": plan.seed,
        "start": began,
        **plan.options,
    }
    generation, sessions = settings.get("generation", 15.0), settings.get("sessions", 2)

    def session() -> str:
        """One of those that are worked on now."""
        number = int((time.monotonic() - began) / generation)
        name = f"g{number}-{chance.randrange(sessions)}"
        return f"{namespace}/{chance.choice(list(chosen))}/{name}"

    logs = directory / "workers"
    logs.mkdir()
    crew = Crew(plan.workers, settings, tuple(target.urls()), logs)
    over = asyncio.Event()
    try:
        await crew.start()
        with Recorder(directory / "history" / "faults.jsonl") as recorder:
            injector = Injector(
                target, crew, recorder, chance, session, kinds=plan.faults, pause=plan.pause
            )
            async with asyncio.TaskGroup() as running:
                running.create_task(injector.run(over))
                probing = running.create_task(_probe(target, namespace, session, over))
                await asyncio.sleep(plan.seconds)
                over.set()
        await crew.finish()
        return probing.result()
    finally:
        await crew.close()


async def _probe(target: Target, namespace: str, session: Any, over: asyncio.Event) -> list[Image]:
    """Look at sessions now and then; keep what is worth a second look."""
    raw = target.probe()
    if raw is None:
        return []
    taken: list[Image] = []
    async with raw:
        while not over.is_set():
            await asyncio.sleep(0.1)
            image = await _look(raw, namespace, session().partition("/")[2])
            if image is not None:
                taken.append(image)
    return taken


async def _look(raw: Redis, namespace: str, session: str) -> Image | None:
    try:
        return await take_image(raw, namespace, session)
    except (RedisError, OSError):
        return None  # the server is struck just now


async def _what_is_left(target: Target, namespace: str) -> tuple[dict[str, Image], list[str]]:
    """Read every session, and name the keys that never expire."""
    images: dict[str, Image] = {}
    keys: list[str] = []
    for node in await target.nodes():
        async with node.client(socket_timeout=60.0) as raw:
            for session in sorted(await sessions_of(raw, namespace)):
                images[session] = await take_image(raw, namespace, session)
            keys += await immortal_keys(raw, namespace)
    return images, keys


def _rules(session: str) -> Rules:
    profile = PROFILES[session.partition("/")[0]]
    return Rules(profile.keeps, profile.in_order, profile.spacious)


def _struck(history: History) -> Counter[str]:
    struck: Counter[str] = Counter()
    for fault in history.faults:
        struck[fault.kind] += fault.times
    return struck


def clean(directory: Path) -> None:
    """Remove what a run left behind."""
    shutil.rmtree(directory, ignore_errors=True)
