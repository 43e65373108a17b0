"""MemoryErasures: one session, or a person's, erased in bounded steps, with a receipt.

What is found is counted and written to status before anything is erased. So an erasure that breaks off
is known to have begun, goes on from the beginning, and does not claim that there was nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from holdfast.erasure import receipt
from holdfast.errors import HoldfastError, PolicyInvalid
from holdfast.keys import (
    template_fields,
)
from holdfast.policies import terms_of
from holdfast.policy import Policy
from holdfast.store import StalePolicy
from holdfast.store.maintenance import Ownership
from holdfast.values import Erased, MemoryAddress
from holdfast_operator.erasure import ErasureProgress, ErasureReceipt, ErasureStatus
from holdfast_operator.reasons import ConditionType, ReadyReason
from holdfast_operator.resources import MemoryErasure, MemoryResource
from holdfast_operator.services.conditions import (
    FALSE,
    TRUE,
    Finding,
    conditions,
    healing_interval,
    is_true,
    moment,
    not_ready,
    paused,
    reason_of,
    timestamp,
    transition,
)
from holdfast_operator.services.confirming import Confirmation, Standing
from holdfast_operator.services.objects import (
    PAUSED,
    backend_ref,
    is_set,
    namespace_of,
    uid_of,
    unreadable,
)
from holdfast_operator.services.orders import Order, Search
from holdfast_operator.services.outcome import Obstacle, Outcome, changed
from holdfast_operator.services.pacing import Paces
from holdfast_operator.services.ports import Body, Clock, Cluster
from holdfast_operator.services.targets import Target, Targets

BUDGET: Final = 1.0
"""Seconds of work in one step."""
AT_ONCE: Final = 16
"""Sessions that are dealt with at the same time."""

_AGAIN: Final = 1.0
_FOLLOW: Final = 0.25
"""Seconds between questions to replicas, which say once a second how far they are."""
_LONGEST: Final = timedelta(hours=1)
_SUSPICIOUS: Final = frozenset({ReadyReason.BACKEND_UNREACHABLE, ReadyReason.SERVER_REPLACED})

Act: TypeAlias = Callable[[str], Awaitable[Erased]]
Facts: TypeAlias = list[tuple[str, Erased]]


class Figures(NamedTuple):
    """How much there is."""

    sessions: int = 0
    messages: int = 0
    bytes: int = 0


@dataclass(slots=True)
class _Walk:
    """Goes once over the sessions that are meant: what is left, and what was found."""

    left: dict[str, None] = field(default_factory=dict[str, None])
    cursor: int = 0
    searched: int = 0  # searches that are done
    facts: Facts = field(default_factory=list[tuple[str, Erased]])


@dataclass(slots=True)
class _Work:
    """An erasure as far as this process knows it. Lost with the process."""

    counting: _Walk = field(default_factory=_Walk)
    erasing: _Walk = field(default_factory=_Walk)
    passes: int = 0
    confirmation: Confirmation = field(default_factory=Confirmation)
    begun: bool = False
    broken_off: bool = False  # what was erased is not known exactly any more
    before: Figures = field(default_factory=Figures)


class _Superseded(Exception):
    """A newer leader acts: there is nothing to say."""


class ErasureService:
    """Carries MemoryErasures out.

    Args:
        targets: finds where a memory is kept.
        cluster: knows the memories.
        clock: for budgets, transitions and the end of what has finished.
        paces: how fast to go over the keys of a server.
    """

    def __init__(self, targets: Targets, cluster: Cluster, clock: Clock, paces: Paces) -> None:
        self._targets = targets
        self._cluster = cluster
        self._clock = clock
        self._paces = paces
        self._works: dict[str, _Work] = {}

    async def finalize(self, body: Body) -> Outcome:
        """Let an order go: what it has not erased yet stays."""
        self._works.pop(str(body["metadata"]["uid"]), None)
        return Outcome()

    async def reconcile(self, body: Body) -> Outcome:
        """Do the next step of an erasure: at most about a second of work.

        Raises:
            ClusterUnavailable: the API server does not answer; nothing can be said.
        """
        try:
            erasure = MemoryErasure.from_body(body)
        except PolicyInvalid as error:
            return unreadable(body, ErasureStatus, error, self._clock)
        before, now = erasure.status, self._clock.now()
        if is_set(erasure.metadata, PAUSED):
            generation = erasure.metadata.generation or 0
            return Outcome(changed(before, paused(before, generation=generation, now=now)))
        if before.receipt is not None:
            self._works.pop(uid_of(erasure.metadata), None)
            return self._finished(erasure, before.receipt)
        try:
            return await self._step(erasure)
        except Obstacle as obstacle:
            return self._held_up(erasure, obstacle)
        except (StalePolicy, _Superseded):
            return Outcome(again=_AGAIN)

    def _finished(self, erasure: MemoryErasure, done: ErasureReceipt) -> Outcome:
        """Let an order that was carried out stay for its time, and then remove it."""
        stays = timedelta(milliseconds=erasure.spec.ttl_after_finished.milliseconds)
        left = moment(done.completed_at) + stays - self._clock.now()
        if left <= timedelta():
            return Outcome(remove=True)
        before = erasure.status
        unpaused = tuple(
            item for item in before.conditions if item.type != ConditionType.PAUSED.value
        )
        after = before.model_copy(update={"conditions": unpaused})
        return Outcome(changed(before, after), again=min(left, _LONGEST).total_seconds())

    async def _step(self, erasure: MemoryErasure) -> Outcome:
        resource = self._memory(erasure)
        target = await self._targets.find(resource)
        try:
            return await self._work(erasure, resource, target)
        except StalePolicy:
            raise
        except HoldfastError as error:
            raise await self._targets.explain(target, error) from error

    def _memory(self, erasure: MemoryErasure) -> MemoryResource:
        """Return the memory, if it is Ready and can have what the order names."""
        where, name = _memory_of(erasure)
        body = self._cluster.resource(where, name)
        if body is None:
            raise Obstacle(
                ReadyReason.MEMORY_NOT_FOUND,
                f"There is no MemoryResource {name} in this namespace. Nothing was erased because of this "
                "object; sessions of a memory that was deleted go when they expire.",
            )
        try:
            resource = MemoryResource.from_body(body)
        except PolicyInvalid:
            raise _not_ready(name, str(ReadyReason.INVALID_SPEC)) from None
        if not is_true(resource.status, ConditionType.READY):
            raise _not_ready(name, reason_of(resource.status, ConditionType.READY))
        template = resource.spec.key_template
        wanted = {item.name for item in erasure.spec.fields}
        known = set(template_fields(template)) if template else set[str]()
        if (template is None) != (erasure.spec.session is not None) or not wanted <= known:
            names = ", ".join(template_fields(template)) if template else ""
            raise Obstacle(
                ReadyReason.INVALID_SPEC,
                f"The memory {name} has a key template: name some of its fields ({names}), and no session. "
                "Nothing was erased; create another object."
                if template
                else f"The memory {name} has no key template: name the session, and no fields. Nothing was "
                "erased; create another object.",
            )
        return resource

    async def _work(
        self, erasure: MemoryErasure, resource: MemoryResource, target: Target
    ) -> Outcome:
        # A receipt from a server that does not hold the data would say what did not happen to them.
        await target.require_same_data()
        found = await target.hands.claim(target.memory, target.owner)
        if found is Ownership.FENCED:
            raise _Superseded
        if found in {Ownership.OTHER, Ownership.UNMARKED}:
            raise _not_ready(resource.metadata.name, str(ReadyReason.KEYS_OWNED_BY_OTHER))
        store = target.hands.store()
        document = await store.policy(target.memory)
        if document is None or not document.active:
            raise _not_ready(resource.metadata.name, str(ReadyReason.DELETING))
        terms = terms_of(Policy.from_document(document.document), document.revision)
        pace = self._paces.of(target.backend_uid)
        order = Order(erasure, resource.spec.key_template, target, store, terms, pace=pace)
        work = self._works.setdefault(uid_of(erasure.metadata), _Work())
        if erasure.status.progress is None:
            return await self._count(order, work)
        if not work.begun:
            self._take_up(erasure.status.progress, work)
        outcome = await self._erase(order, work)
        try:
            await target.require_same_data()
        except (Obstacle, HoldfastError):
            # What was noted may be of the other server: whoever goes on begins with what status says.
            self._works.pop(uid_of(erasure.metadata), None)
            raise
        return outcome

    async def _count(self, order: Order, work: _Work) -> Outcome:
        """Count what is there, and note it, before anything is erased."""
        if not await self._walk(order.searches(), order.memory, work.counting, order.look):
            return Outcome(again=0.0)
        facts, work.counting = work.counting.facts, _Walk()
        if order.erasure.spec.dry_run:
            return self._done(order.erasure, facts, None)
        found, work.begun = _figures(facts), True
        progress = ErasureProgress(
            found=found.sessions, found_messages=found.messages, found_bytes=found.bytes
        )
        return self._progress(order.erasure, progress)

    def _take_up(self, progress: ErasureProgress, work: _Work) -> None:
        """Go on with what another process began."""
        work.begun = work.broken_off = True
        work.before = Figures(progress.sessions, progress.messages, progress.bytes)

    async def _erase(self, order: Order, work: _Work) -> Outcome:
        """Erase, twice: writers may have begun sessions during the first pass. And see that it stays so."""
        progress = order.erasure.status.progress
        assert progress is not None, "nothing is erased before it is there"
        begun = self._clock.monotonic()
        if not work.confirmation.begun:
            await work.confirmation.begin(order.hands)
        while work.passes < 2:
            try:
                searches = order.searches(again=work.passes > 0)
                ended = await self._walk(
                    searches, order.memory, work.erasing, order.erase, since=begun
                )
            except HoldfastError:
                work.broken_off = True  # it may have been carried out, and the answer been lost
                raise
            if not ended:
                return self._progress(order.erasure, _so_far(progress, work))
            work.passes += 1
        standing = await work.confirmation.ask(order.hands)
        if standing is Standing.REPLACED:
            # What went on the server before is no part of it: what is here now may be the same again.
            work.passes, work.broken_off = 0, True
            work.erasing, work.before = _Walk(), Figures()
        if standing is not Standing.CONFIRMED:
            return self._progress(order.erasure, _so_far(progress, work), again=_FOLLOW)
        if not work.broken_off:
            return self._done(order.erasure, work.erasing.facts, None)
        gone = _sum(work.before, _figures(work.erasing.facts))
        found = (progress.found, progress.found_messages, progress.found_bytes)
        return self._done(order.erasure, [], Figures(*map(max, zip(found, gone, strict=True))))

    async def _walk(
        self,
        searches: Sequence[Search],
        memory: MemoryAddress,
        walk: _Walk,
        act: Act,
        *,
        since: float | None = None,
    ) -> bool:
        """Go on over the sessions; False when the time for one step is over.

        What has succeeded beside a failure is noted; only what failed comes again.
        """
        since = self._clock.monotonic() if since is None else since
        while walk.searched < len(searches):
            walk.cursor, found = await searches[walk.searched](walk.cursor)
            walk.left |= dict.fromkeys(found)
            walk.searched += walk.cursor == 0
            if self._clock.monotonic() - since >= BUDGET:
                return False
        while walk.left:
            part = list(islice(walk.left, AT_ONCE))
            answers = await asyncio.gather(*map(act, part), return_exceptions=True)
            failures: list[BaseException] = []
            for key, answer in zip(part, answers, strict=True):
                if isinstance(answer, BaseException):
                    failures.append(answer)
                else:
                    del walk.left[key]
                    walk.facts.append((f"{memory}/{key}", answer))
            if failures:
                raise failures[0]
            if self._clock.monotonic() - since >= BUDGET:
                return False
        walk.searched = 0
        return True

    def _progress(
        self, erasure: MemoryErasure, progress: ErasureProgress, *, again: float = 0.0
    ) -> Outcome:
        message = (
            f"{progress.sessions} of {max(progress.found, progress.sessions)} sessions are erased."
        )
        findings = [
            Finding(ConditionType.READY, FALSE, ReadyReason.ERASING, message),
            Finding(ConditionType.RECONCILING, TRUE, ReadyReason.ERASING, message),
        ]
        after = self._status(erasure, findings, progress=progress)
        return Outcome(changed(erasure.status, after), again=again)

    def _done(self, erasure: MemoryErasure, facts: Facts, estimate: Figures | None) -> Outcome:
        """Make the receipt: exact, or from an estimate where the erasure was interrupted."""
        exact = receipt(facts)
        figures = estimate or Figures(exact.sessions, exact.messages, exact.bytes)
        made = ErasureReceipt(
            sessions=figures.sessions,
            messages=figures.messages,
            bytes=figures.bytes,
            digest=exact.digest if estimate is None else None,
            completed_at=timestamp(self._clock.now()),
            interrupted=None if estimate is None else True,
        )
        what = f"{figures.sessions} sessions with {figures.messages} messages"
        finding = Finding(
            ConditionType.READY,
            TRUE,
            *(
                (ReadyReason.COUNTED, f"{what} would be erased; nothing was, because of dryRun.")
                if erasure.spec.dry_run
                else (ReadyReason.ERASED, f"{what} are erased.")
            ),
        )
        after = self._status(erasure, [finding], progress=None, receipt=made)
        stays = erasure.spec.ttl_after_finished.milliseconds / 1000
        return Outcome(
            changed(erasure.status, after),
            again=min(stays, _LONGEST.total_seconds()),
            events=transition(erasure.status, after),
        )

    def _held_up(self, erasure: MemoryErasure, obstacle: Obstacle) -> Outcome:
        before = erasure.status
        after = self._status(erasure, not_ready(obstacle))
        memory = self._cluster.resource(*_memory_of(erasure))
        return Outcome(
            changed(before, after),
            again=healing_interval(after, self._clock.now()),
            events=transition(before, after),
            suspect=backend_ref(memory)
            if memory is not None and obstacle.reason in _SUSPICIOUS
            else None,
        )

    def _status(
        self, erasure: MemoryErasure, findings: list[Finding], **changes: object
    ) -> ErasureStatus:
        generation = erasure.metadata.generation or 0
        found = conditions(
            erasure.status.conditions, findings, generation=generation, now=self._clock.now()
        )
        told = {**changes, "conditions": found, "observed_generation": generation}
        return erasure.status.model_copy(update=told)


def _memory_of(erasure: MemoryErasure) -> tuple[str, str]:
    return namespace_of(erasure.metadata), erasure.spec.memory_ref.name


def _not_ready(name: str, reason: str) -> Obstacle:
    return Obstacle(
        ReadyReason.MEMORY_NOT_READY,
        f"MemoryResource {name} is not Ready: {reason or ReadyReason.PENDING}. The erasure begins by "
        "itself when it is.",
    )


def _so_far(progress: ErasureProgress, work: _Work) -> ErasureProgress:
    gone = _sum(work.before, _figures(work.erasing.facts))
    return progress.model_copy(
        update={"sessions": gone.sessions, "messages": gone.messages, "bytes": gone.bytes}
    )


def _figures(facts: Facts) -> Figures:
    made = receipt(facts)
    return Figures(made.sessions, made.messages, made.bytes)


def _sum(one: Figures, other: Figures) -> Figures:
    return Figures(*(first + second for first, second in zip(one, other, strict=True)))
