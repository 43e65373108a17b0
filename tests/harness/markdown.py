"""The parts of a Markdown document that a test can hold it to: blocks, links, headings, code.

Read is the Markdown that this project's documents use: `#` headings, blocks fenced by three
backticks at the start of a line, code spans and inline links within one line. Other fences are
refused rather than overlooked.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

_FENCE = re.compile(r"```(\w*)")
_LIKE_A_FENCE = re.compile(r"\s*(?:`{3,}|~{3,})")
_HEADING = re.compile(r"(#{1,6}) +(.+?)(?: +#+)?")
_SPAN = re.compile(r"(`+)(.+?)\1(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(<?([^)\s>]+)>?[^)]*\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the fence; empty without.
        heading: the nearest heading above, as it is written; empty without.
        index: 0 for the first block under that heading.
        line: of the fence, from 1.
        text: what is inside, each line with its end.
    """

    language: str
    heading: str
    index: int
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a document with the line it stands on, from 1."""

    line: int
    text: str


class MarkdownError(ValueError):
    """The document holds something that this module does not read."""


class Document:
    """A Markdown document, taken apart.

    Args:
        text: the document.

    Raises:
        MarkdownError: a fence that is not closed, or of another form than three backticks.
    """

    def __init__(self, text: str) -> None:
        blocks: list[Block] = []
        prose: list[Span] = []
        headings: list[str] = []
        counts: Counter[str] = Counter()
        lines = enumerate(text.splitlines(), 1)
        for number, line in lines:
            if _LIKE_A_FENCE.match(line):
                heading = headings[-1] if headings else ""
                language, content = _read_block(number, line, lines)
                blocks.append(Block(language, heading, counts[heading], number, content))
                counts[heading] += 1
                continue
            prose.append(Span(number, line))
            if found := _HEADING.fullmatch(line):
                headings.append(found[2])
        self.blocks = tuple(blocks)
        self.headings = tuple(headings)
        self._prose = tuple(prose)

    @classmethod
    def read(cls, path: Path) -> "Document":
        """Take a file apart; UTF-8."""
        return cls(path.read_text(encoding="utf-8"))

    def anchors(self) -> set[str]:
        """What may follow `#` in a link to this document, as a code host makes it of headings."""
        seen: Counter[str] = Counter()
        found: set[str] = set()
        for heading in self.headings:
            words = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            found.add(f"{words}-{seen[words]}" if seen[words] else words)
            seen[words] += 1
        return found

    def links(self) -> Iterator[Span]:
        """Give the target of every link, of pictures too."""
        for span in self._prose:
            # What looks like a link inside code is none; a link around code is one.
            text = _SPAN.sub(lambda code: "x" * len(code[0]), span.text)
            for link in _LINK.finditer(text):
                yield Span(span.line, link[1])

    def code_spans(self) -> Iterator[Span]:
        """Give the text of every code span outside of blocks."""
        for span in self._prose:
            for code in _SPAN.finditer(span.text):
                yield Span(span.line, code[2].strip())


@dataclass(frozen=True, slots=True)
class Claim:
    """Says of one block that a test runs it, and what stood there when the test was written.

    Attributes:
        heading: the heading above the block.
        index: 0 for the first block under that heading.
        text: the block's text.
    """

    heading: str
    index: int
    text: str

    def check(self, document: Document) -> str:
        """Make sure that the document still says this, and return the text.

        Raises:
            AssertionError: there is no such block, or it says something else.
        """
        for block in document.blocks:
            if (block.heading, block.index) == (self.heading, self.index):
                assert block.text == self.text, f"line {block.line}: the block was edited"
                return block.text
        raise AssertionError(f"there is no block {self.index} under {self.heading!r}")


F = TypeVar("F", bound=Callable[..., object])


def claims(*claimed: Claim) -> Callable[[F], F]:
    """Mark a test as the one that runs these blocks."""

    def mark(test: F) -> F:
        test.claims = claimed  # type: ignore[attr-defined]
        return test

    return mark


def claims_of(module: ModuleType) -> list[Claim]:
    """Return the claims of all tests of a module."""
    tests = (test for name, test in vars(module).items() if name.startswith("test_"))
    return [claim for test in tests for claim in getattr(test, "claims", ())]


def _read_block(number: int, fence: str, lines: Iterator[tuple[int, str]]) -> tuple[str, str]:
    opening = _FENCE.fullmatch(fence.rstrip())
    if opening is None:
        raise MarkdownError(f"line {number}: a fence is three backticks and a word: {fence!r}")
    content: list[str] = []
    for _, line in lines:
        if line.rstrip() == "```":
            return opening[1], "".join(content)
        content.append(f"{line}\n")
    raise MarkdownError(f"line {number}: the block has no end")
