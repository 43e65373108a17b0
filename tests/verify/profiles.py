"""The kinds of sessions that are worked on: their policies, and what their agents do."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

LEASE: Final = 3.0
"""Seconds that a turn lasts unrenewed: the shortest there is."""
GRANT: Final = 2.0
"""Seconds that a turn which was handed over waits for its new holder."""


class Step(StrEnum):
    """What an agent does next; some are several calls."""

    APPEND = "append"
    BATCH = "batch"
    TOOL = "tool"
    LATE_RETRY = "late retry"
    READ = "read"
    PAGE = "page"
    NEWEST = "newest"
    TURN = "turn"
    HOLD = "hold"
    POP = "pop"
    PIN = "pin"
    UNPIN = "unpin"
    CLEAR = "clear"
    ERASE = "erase"
    FLUSH = "flush"


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of session.

    Attributes:
        name: of the memory.
        spec: its policy.
        steps: what agents do, by how often.
        keeps: nothing ever leaves: what was acknowledged is there until the end.
        in_order: what leaves by the limits is always older than everything evictable that stays.
        spacious: it never reaches its limits: what leaves is summarised or taken out on purpose.
    """

    name: str
    spec: Mapping[str, Any]
    steps: Mapping[Step, int]
    keeps: bool = False
    in_order: bool = False
    spacious: bool = False


def _spec(limits: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "model": {"tokenizer": "approximate"},
        "limits": dict(limits),
        "retention": {"ttl": "2h"},
        "idempotency": {"maxRememberedIDs": 10_000},
        "locking": {"leaseTTL": "3s", "waitTimeout": "10s"},
    }
    return base | parts


_AMPLE: Final = {"maxTokens": 9_000_000}
_WRITES: Final = {Step.APPEND: 20, Step.BATCH: 4, Step.LATE_RETRY: 2}
_PARTS: Final = {Step.PAGE: 4, Step.NEWEST: 3}
_READS: Final = _PARTS | {Step.READ: 1}

PROFILES: Final = {
    profile.name: profile
    for profile in (
        Profile("plain", _spec(_AMPLE), _WRITES | _PARTS | {Step.TURN: 4}, keeps=True),
        Profile(
            "enforced",
            _spec(_AMPLE, locking={"mode": "Enforced", "leaseTTL": "3s", "waitTimeout": "10s"}),
            {Step.TURN: 20, Step.HOLD: 1, Step.APPEND: 3, Step.PAGE: 3},
            keeps=True,
        ),
        Profile(
            "interrupt",
            _spec(_AMPLE, locking={"leaseTTL": "3s", "onBusy": "Interrupt"}),
            {Step.TURN: 16, Step.HOLD: 3, Step.APPEND: 3, Step.PAGE: 2},
            keeps=True,
        ),
        Profile(
            "clearing",
            _spec(_AMPLE),
            _WRITES | _READS | {Step.TURN: 8, Step.HOLD: 1, Step.CLEAR: 1, Step.LATE_RETRY: 6},
        ),
        Profile(
            "erasing",
            _spec(_AMPLE),
            _WRITES | _READS | {Step.TURN: 6, Step.ERASE: 1, Step.LATE_RETRY: 4},
        ),
        Profile(
            "fifo",
            _spec(
                {"maxMessages": 60},
                flushing={"strategy": "FIFO", "thresholdPercent": 90, "targetPercent": 60},
            ),
            _WRITES | _READS | {Step.TOOL: 3, Step.PIN: 1, Step.FLUSH: 1, Step.TURN: 3},
            in_order=True,
        ),
        Profile(
            "lru",
            _spec(
                {"maxTokens": 3_000},
                flushing={"strategy": "LRU", "thresholdPercent": 70, "targetPercent": 40},
                eviction={"policy": "LRU"},
            ),
            _WRITES
            | _READS
            | {Step.TOOL: 3, Step.PIN: 1, Step.UNPIN: 1, Step.POP: 2, Step.FLUSH: 1},
        ),
        Profile(
            "summary",
            _spec(
                {"maxTokens": 100_000},
                flushing={
                    "strategy": "HybridSummary",
                    "thresholdPercent": 2,
                    "targetPercent": 1,
                    "summary": {"oldestPercent": 50, "maxTokens": 100},
                },
            ),
            _WRITES | _READS | {Step.TOOL: 2, Step.PIN: 2, Step.UNPIN: 1, Step.FLUSH: 1},
            spacious=True,
        ),
        Profile(
            "forgetting",
            _spec(
                {"maxTokens": 6_000},
                flushing={
                    "strategy": "HybridSummary",
                    "thresholdPercent": 10,
                    "targetPercent": 3,
                    "summary": {"oldestPercent": 80, "maxTokens": 100},
                },
            ),
            _WRITES | _READS | {Step.FLUSH: 3, Step.CLEAR: 1, Step.TURN: 2},
        ),
        # A summary takes longer than a session is left alone: many land when it is another one.
        Profile(
            "withdrawing",
            _spec(
                {"maxTokens": 6_000},
                flushing={
                    "strategy": "HybridSummary",
                    "thresholdPercent": 5,
                    "targetPercent": 1,
                    "summary": {"oldestPercent": 80, "maxTokens": 100},
                },
            ),
            _WRITES
            | _READS
            | {Step.FLUSH: 8, Step.CLEAR: 1, Step.ERASE: 1, Step.TURN: 2, Step.LATE_RETRY: 4},
        ),
    )
}
