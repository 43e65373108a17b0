"""Worker processes: agents that call the library at random and write down every call."""

import asyncio
import contextlib
import contextvars
import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.client import Client
from holdfast.errors import AmbiguousWrite, HoldfastError
from holdfast.log import MessageLog
from holdfast.session import Session
from holdfast.store import MemoryStore, SessionStore
from holdfast.store.redis import RedisStore
from holdfast.summaries import SummaryRequest
from holdfast.turn import Turn
from holdfast.values import AppendResult, Granted, MemoryAddress, PolicyDocument, Queued, Terms
from tests.harness.processes import Child
from tests.verify.history import CANCELLED, OK, Begin, End, Op, Recorder, Summarised
from tests.verify.images import markers_in
from tests.verify.mutants import MUTANTS
from tests.verify.profiles import LEASE, PROFILES, Profile, Step

_TORN = "had vanished"
_KNOWN = 40  # sessions that an actor keeps a handle on
_asking: contextvars.ContextVar[list[int]] = contextvars.ContextVar("asking")
"""Where the moment is noted at which the turn that this task asks for is somebody else's."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a worker does.

    Attributes:
        url: of the server, or of what stands in front of it.
        namespace: of the run.
        directory: of the history.
        profiles: names of those that it works on, by how often.
        seed: of its chances.
        actors: tasks that call at the same time.
        pace: seconds that an actor waits between steps, on average.
        sessions: of each profile that live at the same time.
        generation: seconds after which other sessions follow.
        start: of the first, monotonic seconds.
        mutant: the fault that is planted in its library; empty without one.
        summarizing: seconds that a summary takes at most.
    """

    url: str
    namespace: str
    directory: str
    profiles: dict[str, int]
    seed: int
    actors: int = 14
    pace: float = 0.005
    sessions: int = 2
    generation: float = 15.0
    start: float = 0.0
    mutant: str = ""
    summarizing: float = 1.0


class ObservedSession:
    """A session of a store that notes when a waiter is told its place in line."""

    def __init__(self, inner: SessionStore) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def acquire(
        self, terms: Terms, token: str, holder: str, *, interrupt: bool = False
    ) -> Granted | Queued:
        answer = await self._inner.acquire(terms, token, holder, interrupt=interrupt)
        noted = _asking.get(None)
        if isinstance(answer, Queued) and answer.queued and noted is not None and not noted:
            noted.append(time.monotonic_ns())
        return answer


class ObservedStore:
    """A store whose sessions are observed."""

    def __init__(self, inner: MemoryStore) -> None:
        self._inner = inner

    def session(self, memory: MemoryAddress, key: str) -> Any:
        return ObservedSession(self._inner.session(memory, key))

    async def policy(self, memory: MemoryAddress) -> PolicyDocument | None:
        return await self._inner.policy(memory)

    async def aclose(self) -> None:
        """Nothing: the store is everybody's."""


async def work(child: Child, *, name: str, settings: dict[str, Any]) -> int:
    """Work until told to stop; return how many calls were made."""
    chosen = Settings(**settings)
    if chosen.mutant:
        MUTANTS[chosen.mutant].plant()
    with Recorder(Path(chosen.directory) / f"{name}.jsonl") as recorder:
        worker = Worker(name, chosen, recorder)
        child.report("working")
        running = asyncio.create_task(worker.run())
        told = asyncio.create_task(child.receive())
        await asyncio.wait((running, told), return_when=asyncio.FIRST_COMPLETED)
        worker.over.set()
        await running
        return recorder.number()


class Worker:
    """The agents of one process."""

    def __init__(self, name: str, settings: Settings, recorder: Recorder) -> None:
        self.name = name
        self.settings = settings
        self.recorder = recorder
        self.over = asyncio.Event()
        self.clients: dict[str, Client] = {}
        self.chance = random.Random(f"{settings.seed}/{name}")
        self._summaries = 0

    async def run(self) -> None:
        store = RedisStore.from_url(self.settings.url)
        try:
            async with contextlib.AsyncExitStack() as clients:
                for name in self.settings.profiles:
                    client = Client(
                        ObservedStore(store),
                        namespace=self.settings.namespace,
                        policy=dict(PROFILES[name].spec),
                        summarizer=self._summarize,
                    )
                    self.clients[name] = await clients.enter_async_context(client)
                async with asyncio.TaskGroup() as actors:
                    for number in range(self.settings.actors):
                        actors.create_task(Actor(self, number).run())
        finally:
            await store.aclose()

    def session_name(self) -> str:
        """Return one of the sessions that are worked on now."""
        since = time.monotonic() - self.settings.start
        generation = int(since / self.settings.generation)
        return f"g{generation}-{self.chance.randrange(self.settings.sessions)}"

    async def _summarize(self, request: SummaryRequest) -> str:
        """Write a summary that says nothing but which one it is, and note what it is made of."""
        self._summaries += 1
        marker = f"{self.name}.s{self._summaries}"
        messages = [{"content": message.text} for message in request.messages]
        made_of = markers_in(messages)
        folds = markers_in([{"content": line} for line in (request.previous or "").split("\n")])
        self.recorder.write(
            Summarised(
                marker,
                tuple(one for one in made_of if one and not one.startswith("s:")),
                tuple(one.removeprefix("s:") for one in folds if one.startswith("s:")),
            )
        )
        slow = self.settings.summarizing
        await asyncio.sleep(self.chance.choice((0.0, 0.02, 0.2 * slow, slow)))
        return f"s:{marker}"


class Actor:
    """One agent: it makes one call after the other."""

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._name = f"{worker.name}/{number}"
        self._chance = random.Random(f"{worker.settings.seed}/{self._name}")
        self._sessions: dict[str, Session] = {}
        self._sent: deque[tuple[str, str, tuple[str, ...], list[Any]]] = deque(maxlen=60)

    async def run(self) -> None:
        settings = self._worker.settings
        names, weights = list(settings.profiles), list(settings.profiles.values())
        while not self._worker.over.is_set():
            profile = PROFILES[self._chance.choices(names, weights)[0]]
            session = f"{profile.name}/{self._worker.session_name()}"
            step = self._chance.choices(list(profile.steps), list(profile.steps.values()))[0]
            await self._step(step, profile, session)
            await asyncio.sleep(self._chance.uniform(0, 2 * settings.pace))

    async def _step(self, step: Step, profile: Profile, session: str) -> None:
        log = self._open(session)
        match step:
            case Step.TURN | Step.HOLD:
                await self._turn(log, session, profile, hold=step is Step.HOLD)
            case Step.LATE_RETRY:
                await self._retry_late()
            case Step.TOOL:
                await self._tool(log, session)
            case Step.APPEND | Step.BATCH:
                await self._append(log, session, batch=step is Step.BATCH)
            case Step.READ | Step.PAGE | Step.NEWEST:
                await self._read(step, log, session)
            case _:
                await self._change(step, log, session)

    def _open(self, session: str) -> Session:
        if session not in self._sessions:
            profile, _, name = session.partition("/")
            client = self._worker.clients[profile]
            self._sessions[session] = client.memory(profile).session(name)
            if len(self._sessions) > _KNOWN:
                del self._sessions[next(iter(self._sessions))]
        return self._sessions[session]

    @contextlib.asynccontextmanager
    async def _call(
        self, op: Op, session: str, log: MessageLog | None = None, **facts: Any
    ) -> AsyncGenerator[dict[str, Any]]:
        """Write down a call: what is put into the value is its result."""
        recorder = self._worker.recorder
        number = facts.pop("n", None) or recorder.number()
        begin = Begin(number, time.monotonic_ns(), self._name, session, op, **facts)
        recorder.write(begin)
        result: dict[str, Any] = {"outcome": OK}
        try:
            yield result
        except HoldfastError as error:
            result.clear()
            result["outcome"] = error.code
        except TimeoutError:
            result.clear()
            result["outcome"] = CANCELLED
        except Exception as error:  # noqa: BLE001 - whatever it is
            # Nothing but the library's own errors may come out of it: the checker says so.
            result.clear()
            result |= {"outcome": f"unexpected {type(error).__name__}", "detail": str(error)[:200]}
        if log is not None:
            result.setdefault("epoch", log._place.epoch)
        recorder.write(End(number, time.monotonic_ns(), **result))

    async def _append(
        self, log: MessageLog, session: str, *, batch: bool = False, turn: int | None = None
    ) -> None:
        number = self._worker.recorder.number()
        count = self._chance.randint(2, 5) if batch else 1
        markers = tuple(f"{self._worker.name}.{number}.{at}" for at in range(count))
        items = [
            {"role": "user", "content": f"m:{marker} {'x' * self._chance.randrange(200)}"}
            for marker in markers
        ]
        own = f"i:{self._worker.name}.{number}" if self._chance.random() < 0.5 else None
        outcome = await self._send(log, session, markers, items, id=own, turn=turn, n=number)
        if own is None:
            return
        if turn is None:
            self._sent.append((session, own, markers, items))
        # Some callers repeat what they were not told of, and some what they were.
        if outcome in (AmbiguousWrite.code, CANCELLED) or self._chance.random() < 0.05:
            await self._send(log, session, markers, items, id=own, turn=turn)

    async def _send(
        self,
        log: MessageLog,
        session: str,
        markers: tuple[str, ...],
        items: Sequence[Any],
        **facts: Any,
    ) -> str:
        own = facts.get("id")
        async with self._call(Op.APPEND, session, log, markers=markers, **facts) as result:
            done: AppendResult
            async with asyncio.timeout(self._patience(0.01)):
                if len(items) == 1:
                    done = await log.append(items[0], id=own)
                else:
                    done = await log.append_many(items, id=own)
            result |= {
                "seq": done.seq,
                "duplicate": done.duplicate,
                "torn": any(_TORN in warning for warning in done.warnings),
            }
        return result["outcome"]

    def _patience(self, share: float) -> float | None:
        """Seconds after which a call is cancelled: for a share of them soon, for the others never."""
        return self._chance.uniform(0.0, 0.02) if self._chance.random() < share else None

    async def _retry_late(self) -> None:
        """Send something again that was sent a while ago."""
        if self._sent:
            session, own, markers, items = self._chance.choice(self._sent)
            await self._send(self._open(session), session, markers, items, id=own)

    async def _tool(self, log: MessageLog, session: str) -> None:
        """A tool call and its result, together."""
        number = self._worker.recorder.number()
        call, answer = (f"{self._worker.name}.{number}.{at}" for at in range(2))
        function = {"name": "look_up", "arguments": "{}"}
        items = [
            {
                "role": "assistant",
                "content": f"m:{call}",
                "tool_calls": [{"id": f"c:{call}", "type": "function", "function": function}],
            },
            {"role": "tool", "content": f"m:{answer}", "tool_call_id": f"c:{call}"},
        ]
        await self._send(log, session, (call, answer), items, n=number)

    async def _read(
        self, step: Step, log: MessageLog, session: str, *, turn: int | None = None
    ) -> None:
        if step is not Step.PAGE:
            limit = 20 if step is Step.NEWEST else None
            detail = "" if limit is None else f"limit={limit}"
            async with self._call(Op.READ, session, log, turn=turn, detail=detail) as result:
                items = await log.read(limit=limit)
                result["seen"] = tuple((0, marker) for marker in markers_in(items))
            return
        after = max(0, log._place.seen - self._chance.randrange(5, 40))
        async with self._call(Op.PAGE, session, log, turn=turn, detail=f"after={after}") as result:
            page = await log.read_page(after=after, limit=40)
            markers = markers_in([record.item for record in page.records])
            seqs = [record.seq for record in page.records]
            result["seen"] = tuple(zip(seqs, markers, strict=True))
            result["detail"] = "more" if page.next is not None else ""

    async def _turn(self, log: Session, session: str, profile: Profile, *, hold: bool) -> None:
        """Take the turn, read, answer twice; some hold it for long in between."""
        number = self._worker.recorder.number()
        wait = self._chance.choice(("10s", "10s", "10s", "200ms"))
        turn = log.turn(wait=wait, ttl=None)
        queued: list[int] = []
        _asking.set(queued)
        async with self._call(Op.ENTER, session, turn, n=number, detail=f"wait={wait}") as result:
            async with asyncio.timeout(self._patience(0.03)):
                await turn.__aenter__()
            result |= {"fence": turn.fence, "queued": queued[0] if queued else 0}
        if result["outcome"] != OK:
            return
        try:
            await self._body(turn, session, profile, number, hold=hold)
        finally:
            async with self._call(Op.LEAVE, session, turn, turn=number):
                await turn.__aexit__(None, None, None)

    async def _body(
        self, turn: Turn, session: str, profile: Profile, number: int, *, hold: bool
    ) -> None:
        await self._read(Step.NEWEST, turn, session, turn=number)
        await self._append(turn, session, turn=number)
        if hold:
            pause = self._chance.choice((0.1, 0.5, LEASE * 1.2))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._worker.over.wait(), pause)
        else:
            await asyncio.sleep(self._chance.choice((0, 0, 0.005, 0.02)))
        if self._chance.random() < 0.2:
            async with self._call(Op.CHECK, session, turn, turn=number):
                await turn.check()
        if Step.CLEAR in profile.steps and self._chance.random() < 0.05:
            await self._change(Step.CLEAR, turn, session, turn=number)
        await self._append(turn, session, turn=number)

    async def _change(
        self, step: Step, log: MessageLog, session: str, *, turn: int | None = None
    ) -> None:
        match step:
            case Step.POP:
                async with self._call(Op.POP, session, log, turn=turn) as result:
                    item = await log.pop()
                    result["seen"] = ((0, markers_in([item])[0]),) if item is not None else ()
            case Step.PIN | Step.UNPIN:
                seq, pinned = await self._some_seq(log, session), step is Step.PIN
                if seq:
                    detail = f"{seq} {'' if pinned else 'not '}pinned"
                    async with self._call(Op.PIN, session, log, turn=turn, detail=detail):
                        await log.pin(seq, pinned)
            case Step.FLUSH:
                async with self._call(Op.FLUSH, session, log, turn=turn) as result:
                    done = await log.flush()
                    result["detail"] = f"{done.dropped} dropped, {done.summarised} summarised"
            case _:
                await self._remove(Op(step.value), log, session, turn)

    async def _remove(self, op: Op, log: MessageLog, session: str, turn: int | None) -> None:
        call: Callable[[], Awaitable[Any]] = getattr(log, op.value)
        async with self._call(op, session, log, turn=turn) as result:
            result["detail"] = str(await call())

    async def _some_seq(self, log: MessageLog, session: str) -> int:
        """Return the number of a message that was there a moment ago."""
        seen: list[int] = []
        async with self._call(Op.PAGE, session, log, detail="after=0") as result:
            page = await log.read_page(limit=40)
            markers = markers_in([record.item for record in page.records])
            seqs = [record.seq for record in page.records]
            result["seen"] = tuple(zip(seqs, markers, strict=True))
            result["detail"] = "more" if page.next is not None else ""
            seen += seqs
        return self._chance.choice(seen) if seen else 0
