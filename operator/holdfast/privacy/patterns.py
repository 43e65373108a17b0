"""Where patterns match in a text, in a time that neither pattern nor text can stretch."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

Span: TypeAlias = tuple[int, int]
Clock: TypeAlias = Callable[[], float]

PATIENCE = 5.0
"""Seconds that one call's patterns may take before whole rests of texts are replaced unread."""


class _Match(Protocol):
    def span(self) -> Span: ...


class _Pattern(Protocol):
    def finditer(self, text: str) -> Sequence[_Match]: ...


class Search:
    """The search through the texts of one call.

    One pass over a text takes linear time. Finding all matches need not: each of a million matches may
    look ahead to the end of the text in vain. So there is a time limit, after which everything from the
    next match to the end of its text counts as matched: too much is replaced, never too little.

    Args:
        patterns: compiled.
        clock: monotonic seconds.

    Attributes:
        exhausted: the time was over, and more was taken for a match than matches.
    """

    def __init__(self, patterns: "Patterns", clock: Clock) -> None:
        self._patterns = patterns.compiled
        self._clock = clock
        self._deadline = clock() + PATIENCE
        self.exhausted = False

    def __bool__(self) -> bool:
        """Whether there is anything to search for."""
        return bool(self._patterns)

    def spans(self, text: str) -> list[Span]:
        """Return where the patterns match: ascending, apart from each other, none of them empty.

        All patterns see the text as it came, never another one's replacement, so that the text cannot
        grow from one to the next. Matches that touch or overlap are one.
        """
        found: list[Span] = []
        for pattern in self._patterns:
            for match in pattern.finditer(text):
                start, end = match.span()
                if self._clock() > self._deadline:
                    self.exhausted = True
                    found.append((start, len(text)))
                    break
                found.append((start, end))
        return _joined(found)


class Patterns:
    """The patterns of a policy, compiled by RE2, which has no patterns of exponential time.

    Args:
        patterns: in RE2 syntax; a policy's validation has accepted them.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self.compiled: tuple[_Pattern, ...] = tuple(map(_compile, patterns))

    def search(self, clock: Clock = time.monotonic) -> Search:
        """Begin a search through the texts of one call."""
        return Search(self, clock)


def _compile(pattern: str) -> _Pattern:
    import re2  # noqa: PLC0415 - a C++ library: loaded by the first policy that redacts

    engine: Any = re2
    options = engine.Options()
    options.log_errors = False  # it would write the pattern to stderr
    options.never_capture = True  # groups would take it off its fastest path, and nobody asks
    return engine.compile(pattern, options)


def _joined(spans: list[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in sorted(span for span in spans if span[0] < span[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined
