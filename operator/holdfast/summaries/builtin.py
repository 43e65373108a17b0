"""The built-in summariser: the first message, and the most telling sentences of the rest.

It calls no model and uses no word lists, so it works in any language and without a network. What it
writes are sentences of the conversation itself, in their order, each message's behind its role.

A sentence tells much when it has terms that come up again in the conversation without being
everywhere in it; when it opens its message, holds a figure or a name; and when it says what the
sentences already taken do not. Terms are words; in scripts that put no blanks between words, pairs of
neighbouring characters.
"""

import heapq
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from holdfast.formats import ROLES
from holdfast.summaries.protocol import SummaryRequest
from holdfast.summaries.thread import in_thread
from holdfast.tokens import TokenCounter

MIN_TOKENS: Final = 16
"""From this many tokens on a summary is never empty when there is any text."""

_LONGEST: Final = 240  # characters of a sentence; longer ones are cut where a blank is
_SHORTEST: Final = 16  # shorter ones are taken together with the next
_LOOKS: Final = 8  # how often a sentence is weighed again before it is taken as it is
_SMALL: Final = 6  # tokens that no further sentence is looked for
_MISSES: Final = 32  # sentences in a row that do not fit, after which the rest is not tried
_LEAST: Final = 256  # how many sentences are weighed at least, if there are as many

# A full stop counts before a blank only (it may be in a number); one of the wide forms always.
_END: Final = re.compile(
    r"(?<=[.!?\u2026\u061f\u06d4\u0964\u0965\u1362\u17d4])\s+|(?<=[\u3002\uff01\uff1f])"
)
_TERM: Final = re.compile(
    r"[^\s\x00-/:-@\[-`{-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf\u2000-\u206f\u3000-\u3003\u3008-\u301f"
    r"\uff00-\uff0f\uff1a-\uff20\u060c\u061b\u061f\u06d4\u0964\u0965]+"
)
_UNSPACED: Final = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
_LABELLED: Final = re.compile(rf"({'|'.join(sorted((*ROLES, 'other', 'summary')))}): +(?=\S)")

# What people ask and what was found before says more than what a tool returned.
_ROLE_WEIGHTS: Final = {"user": 1.2, "tool": 0.6, "other": 0.8}
_PREVIOUS_WEIGHT: Final = 1.3
_OPENING_WEIGHT: Final = 1.15
_FIGURE_WEIGHT: Final = 1.15
_NAME_WEIGHT: Final = 1.1
_REPEATED_WEIGHT: Final = 0.5


class _Passage(NamedTuple):
    """A message, or a line of an earlier summary, as sentences."""

    label: str
    weight: float
    sentences: tuple[str, ...]


@dataclass(slots=True)
class _Candidate:
    """A sentence that may be taken; `at` is its passage and its place in it."""

    at: tuple[int, int]
    terms: tuple[str, ...]
    weight: float
    looks: int = 0


@dataclass(frozen=True, slots=True)
class BuiltinSummarizer:
    """Chooses sentences. Deterministic; time grows with the length of the text."""

    name: str = "builtin"

    async def summarize(self, request: SummaryRequest) -> str:
        """Write the summary. Empty only without any text, or below `MIN_TOKENS`."""
        # A long text or a slow counter takes its time.
        return await in_thread(extract, request)


def extract(request: SummaryRequest) -> str:
    """Return the most telling sentences: at most `request.max_tokens` by `request.counter`."""
    passages = list(_passages(request))
    if not passages:
        return ""
    choice = _Choice(passages, request.max_tokens, request.counter)
    choice.open()
    misses = 0
    for at in _by_worth(passages, request.max_tokens, choice):
        misses = 0 if choice.add(at) else misses + 1
        if choice.room < _SMALL or misses == _MISSES:
            break
    return choice.text()


# --- taking a conversation apart


def _passages(request: SummaryRequest) -> Iterator[_Passage]:
    for line in (request.previous or "").splitlines():
        match = _LABELLED.match(line)
        text = line[match.end() :] if match else line
        if sentences := _sentences(text):
            label = match[1] if match else "summary"
            yield _Passage(label, _PREVIOUS_WEIGHT, sentences)
    for message in request.messages:
        if sentences := _sentences(message.text):
            yield _Passage(message.role, _ROLE_WEIGHTS.get(message.role, 1.0), sentences)


def _sentences(text: str) -> tuple[str, ...]:
    found: list[str] = []
    for line in text.splitlines():
        start = ""
        for piece in _END.split(line):
            whole = f"{start} {piece.strip()}".strip()
            if len(whole) < _SHORTEST:
                start = whole
                continue
            start = ""
            found += _pieces(whole)
        if start:
            found.append(start)
    return tuple(found)


def _pieces(text: str) -> Iterator[str]:
    """Cut a text into pieces of at most `_LONGEST` characters, at blanks where there are some."""
    start = 0
    while len(text) - start > _LONGEST:
        blank = text.rfind(" ", start + _LONGEST // 2, start + _LONGEST)
        end = blank if blank > 0 else start + _LONGEST
        if piece := text[start:end].strip():
            yield piece
        start = end
    if piece := text[start:].strip():
        yield piece


def _terms(sentence: str) -> tuple[str, ...]:
    """Return the terms, each once, in order: sums over them are then the same in every process."""
    terms: dict[str, None] = {}
    for word in _TERM.findall(sentence.casefold()):
        if len(word) > 2 and _UNSPACED.search(word):
            terms.update((word[at : at + 2], None) for at in range(len(word) - 1))
        else:
            terms[word] = None
    return tuple(terms)


def _shape_weight(sentence: str, place: int) -> float:
    weight = _OPENING_WEIGHT if place == 0 else 1.0
    if any(map(str.isdecimal, sentence)):
        weight *= _FIGURE_WEIGHT
    words = sentence.split()
    if any(word[0].isupper() and word[1:].islower() for word in words[1:]):
        weight *= _NAME_WEIGHT
    return weight


# --- weighing


def _by_worth(
    passages: Sequence[_Passage], max_tokens: int, choice: "_Choice"
) -> Iterator[tuple[int, int]]:
    """Give the places of sentences, the most telling first, in view of those taken so far."""
    candidates = [
        _Candidate(
            (number, place), _terms(sentence), passage.weight * _shape_weight(sentence, place)
        )
        for number, passage in enumerate(passages)
        for place, sentence in enumerate(passage.sentences)
    ]
    spread = Counter(term for candidate in candidates for term in candidate.terms)
    total = len(candidates)
    worth = {
        term: math.log1p(count) * math.log((total + 1) / count) for term, count in spread.items()
    }
    taken: Counter[str] = Counter()

    def score(candidate: _Candidate) -> float:
        terms = candidate.terms
        worths = (worth[term] * _REPEATED_WEIGHT ** min(taken[term], 32) for term in terms)
        return candidate.weight * math.fsum(worths) / (len(terms) + 4) ** 0.6

    terms_at = {candidate.at: candidate.terms for candidate in candidates}
    for at in choice.taken:
        taken.update(terms_at[at])
    rest = (candidate for candidate in candidates if candidate.at not in choice.chosen)
    weighed = ((-score(candidate), candidate.at, candidate) for candidate in rest)
    heap = heapq.nsmallest(max(_LEAST, max_tokens), weighed, key=lambda entry: entry[:2])
    while heap:
        old, at, candidate = heapq.heappop(heap)
        new = -score(candidate)
        candidate.looks += 1
        # What was taken meanwhile can only have made it worse: is it still better than the next?
        if heap and new > old and (new, at) > heap[0][:2] and candidate.looks < _LOOKS:
            heapq.heappush(heap, (new, at, candidate))
            continue
        yield at
        if at in choice.chosen:
            taken.update(candidate.terms)


# --- putting it together


class _Choice:
    """The sentences taken so far, and the tokens that are left.

    Attributes:
        taken: places in the order in which they were taken.
        chosen: what stands at each of them: the sentence, or the start of it.
        room: tokens left, by the sum over parts. The whole may differ a little, so `text` counts again.
    """

    def __init__(
        self, passages: Sequence[_Passage], max_tokens: int, counter: TokenCounter
    ) -> None:
        self.taken: list[tuple[int, int]] = []
        self.chosen: dict[tuple[int, int], str] = {}
        self.room = max_tokens
        self._passages = passages
        self._max_tokens = max_tokens
        self._counter = counter
        self._begun: set[int] = set()

    def open(self) -> None:
        """Take the first message, as far as a third of the tokens goes.

        Its first sentence may take half of them, and is shortened to that.
        """
        first = self._passages[0]
        most = max(self._max_tokens // 2, min(self._max_tokens, MIN_TOKENS))
        for place, sentence in enumerate(first.sentences):
            at = (0, place)
            cost = self._cost(at, sentence)
            if self._max_tokens - self.room + cost <= most:
                self._put(at, sentence, cost)
            elif place == 0 and (start := self._start_of(sentence, f"{first.label}: ", most)):
                self._put(at, start, self._cost(at, start))
                return
            else:
                return
            most = self._max_tokens // 3

    def add(self, at: tuple[int, int]) -> bool:
        """Take a sentence if it fits, and tell whether it did."""
        sentence = self._passages[at[0]].sentences[at[1]]
        cost = self._cost(at, sentence)
        if cost > self.room:
            return False
        self._put(at, sentence, cost)
        return True

    def text(self) -> str:
        """Return the summary: what was taken last leaves again if the whole is too long."""
        taken, drop = list(self.taken), 1
        text = self._compose(taken)
        while taken and self._count(text) > self._max_tokens:
            if len(taken) == 1:
                return self._start_of(self._passages[0].sentences[0], "", self._max_tokens)
            del taken[max(1, len(taken) - drop) :]
            drop *= 2
            text = self._compose(taken)
        return text

    def _put(self, at: tuple[int, int], text: str, cost: int) -> None:
        self.room -= cost
        self.taken.append(at)
        self.chosen[at] = text
        self._begun.add(at[0])

    def _cost(self, at: tuple[int, int], text: str) -> int:
        if at[0] in self._begun:
            return self._count(f" {text}")
        return self._count(f"{self._passages[at[0]].label}: {text}\n")

    def _count(self, text: str) -> int:
        return self._counter.count(text).tokens

    def _start_of(self, sentence: str, label: str, max_tokens: int) -> str:
        """Return as much of the start of a sentence as fits behind the label; "" for nothing."""
        low, high = 0, len(sentence)
        while low < high:
            middle = (low + high + 1) // 2
            if self._count(f"{label}{sentence[:middle]}\n") <= max_tokens:
                low = middle
            else:
                high = middle - 1
        blank = sentence.rfind(" ", low // 2, low)
        if low < len(sentence) and blank > 0:
            low = blank
        # Fewer characters can be more tokens, where blanks at the end go or a word is broken.
        for length in range(low, 0, -1):
            start = sentence[:length].rstrip()
            if self._count(label + start) <= max_tokens:
                return start
        return ""

    def _compose(self, taken: Sequence[tuple[int, int]]) -> str:
        lines: dict[int, list[str]] = {}
        for number, place in sorted(taken):
            lines.setdefault(number, []).append(self.chosen[number, place])
        return "\n".join(
            f"{self._passages[number].label}: {' '.join(texts)}" for number, texts in lines.items()
        )
