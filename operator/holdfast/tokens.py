"""Token counters: how much of a model's context a text takes, without a network.

The two exact encodings are built from vocabulary files inside the package. Counting is meant for
text from anybody, so it never raises on content and its time grows with the length alone: texts
are handed to the tokenizer in pieces short enough for its regular expressions, cut where a cut
changes nothing.
"""

import re
import threading
from binascii import a2b_base64
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from holdfast.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    from tiktoken import Encoding

APPROXIMATE: Final = "approximate"
"""The counter that needs no vocabulary: UTF-8 bytes divided by four."""

MESSAGE_OVERHEAD: Final = 4
"""Tokens a message costs besides its texts: three that frame it and one for its role.

The rule OpenAI published for its chat models since gpt-3.5-turbo-0613. Other vendors frame messages
otherwise and do not say how; the figure serves them as an estimate.
"""

MAX_PIECE: Final = 200_000
"""Characters given to the tokenizer at once.

Its regular expressions give up with a panic (not an `Exception`) after a million steps back, which
somewhat more than 900,000 blanks in a row are enough for.
"""


class Count(NamedTuple):
    """A number of tokens, and whether the model's own tokenizer would say the same."""

    tokens: int
    exact: bool


class TokenCounter(Protocol):
    """What counts tokens. Implementations are safe to share between threads.

    A program may bring its own, as `connect(counter=)`. That one is asked on a thread of its own,
    never on the event loop, so it may take its time, and even ask a server; an append waits for it.
    What it raises, and an answer that is no `Count` of 0 or more, become `TokenCountFailed`.
    """

    @property
    def name(self) -> str:
        """A name for people; of the library's own, the one that `counter()` knows it by."""
        ...

    def count(self, text: str) -> Count:
        """Count one text; never raises on content. Lone surrogates count as U+FFFD.

        The tokens of a text must always be the same: a message is counted once, when it is appended.
        """
        ...


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What defines an encoding.

    Args:
        sha256: digest of the file `vocabularies/<name>.tiktoken`, in hexadecimal.
        pattern: regular expression that splits a text before its pieces are encoded, in the
            syntax of Rust's fancy-regex.
    """

    sha256: str
    pattern: str


def _alternatives(*patterns: str) -> str:
    return "|".join(patterns)


_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = r"'(?i:[sdmt]|ll|re|ve)"

ENCODINGS: Final[Mapping[str, Vocabulary]] = MappingProxyType(
    {
        "o200k_base": Vocabulary(
            sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
            # The first two may not become one: a combining mark is a letter to them and also what
            # may stand in front of one, so the order in which they are tried shows. The five in a
            # group have no look-ahead, and are tried at once by a faster kind of machine.
            pattern=_alternatives(
                "(?:"
                + _alternatives(
                    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?:{_CONTRACTION})?",
                    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?:{_CONTRACTION})?",
                    r"\p{N}{1,3}",
                    r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
                    r"\s*[\r\n]+",
                )
                + ")",
                r"\s+(?!\S)",
                r"\s+",
            ),
        ),
        "cl100k_base": Vocabulary(
            sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
            pattern=_alternatives(
                _CONTRACTION,
                r"[^\r\n\p{L}\p{N}]?+\p{L}++",
                r"\p{N}{1,3}+",
                r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
                r"\s++$",
                r"\s*[\r\n]",
                r"\s+(?!\S)",
                r"\s",
            ),
        ),
    }
)
"""The exact encodings, by name."""


def counter(encoding: str) -> TokenCounter:
    """Return the counter of that name: one of `ENCODINGS`, or `APPROXIMATE`.

    Costs nothing. The first count of an exact encoding loads it, once per process: some 0.4 s and
    80 MiB for o200k_base, 0.1 s and 45 MiB for cl100k_base. Call `count("")` in a thread to have
    that behind you.

    Raises:
        ConfigurationError: no such counter. Raised at the first count: the vocabulary is not in
            the installed package, or is not the one it should be.
    """
    if encoding == APPROXIMATE:
        return _ApproximateCounter()
    if encoding in ENCODINGS:
        return _ExactCounter(encoding)
    known = ", ".join((*ENCODINGS, APPROXIMATE))
    raise ConfigurationError(f"There is no tokenizer {encoding!r}; there are {known}.")


def estimating(counter: TokenCounter) -> TokenCounter:
    """Return a counter of the same numbers and name, none of which it calls exact."""
    return _Estimate(counter)


def count_texts(counter: TokenCounter, texts: Iterable[str]) -> Count:
    """Add up the counts of several texts; exact when every one of them is."""
    counts = list(map(counter.count, texts))
    if len(counts) == 1:  # the usual case
        return counts[0]
    return Count(sum(count.tokens for count in counts), all(count.exact for count in counts))


class _Estimate:
    """Another vocabulary's count, for a model that has its own."""

    __slots__ = ("_counter", "name")

    def __init__(self, counter: TokenCounter) -> None:
        self.name: Final = counter.name
        self._counter = counter

    def count(self, text: str) -> Count:
        """Count one text, as the other counter does."""
        return Count(self._counter.count(text).tokens, exact=False)


class _ApproximateCounter:
    """UTF-8 bytes divided by four, rounded up.

    Measured against o200k_base it is off by about 24 % on average over mixed messages: prose comes
    out up to a quarter too high, other scripts than Latin 20 to 90 % too high, JSON and digits 40
    to 50 % too low, base64 60 % too low.
    """

    __slots__ = ()

    name: str = APPROXIMATE

    def count(self, text: str) -> Count:
        """Count one text, in less than a microsecond for a short one."""
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            size = len(_well_formed(text).encode())
        return Count(-(-size // 4), exact=False)


class _ExactCounter:
    """The tokenizer of an encoding in `ENCODINGS`, loaded at the first count."""

    __slots__ = ("_encoding", "name")

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self._encoding: Encoding | None = None

    def count(self, text: str) -> Count:
        """Count one text. Over `MAX_PIECE` characters it is exact unless a cut had to be made."""
        encoding = self._encoding
        if encoding is None:
            encoding = self._encoding = _load(self.name)
        # Text such as "<|endoftext|>" is text here, never a control token and never an error.
        encode = encoding.encode_ordinary
        if len(text) <= MAX_PIECE:
            return Count(len(encode(text)), exact=True)
        tokens = 0
        exact = True
        for piece, harmless in split(_well_formed(text), MAX_PIECE):
            tokens += len(encode(piece))
            exact = exact and harmless
        return Count(tokens, exact)


# A letter or digit in front of a blank or of punctuation: a token never reaches across, in either
# encoding, and what is left and right of it is tokenized as if the other side were not there. The
# apostrophe is left out, for it may begin a contraction.
_BORDER = re.compile(
    r"(?s:.*)[^\W_](?=[\s!-&(-/:-@\[-`{-~\u2010-\u2017\u2020-\u2027\u3001\u3002"
    r"\uff01\uff0c\uff1a\uff1b\uff1f])"
)


def split(text: str, size: int) -> Iterator[tuple[str, bool]]:
    """Cut a text into pieces of at most `size` characters, each as long as it can be.

    Yields each piece with whether the cut after it is harmless: the tokens of the pieces are then
    those of the whole. Where `size` characters have no place for such a cut, as in a run of blanks,
    the piece is exactly `size` long and the count may be off by a few tokens (five at most in
    trials, less than one on average).
    """
    start = 0
    while len(text) - start > size:
        # The greedy start of the expression finds the last place, scanning back from the end.
        border = _BORDER.match(text, start, start + size + 1)
        end = start + size if border is None else border.end()
        yield text[start:end], border is not None
        start = end
    yield text[start:], True


def _well_formed(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates: neither has an encoding in UTF-8."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


# Caching alone would let two threads that ask at once load the same vocabulary twice.
_LOADING: Final = threading.Lock()


def _load(name: str) -> "Encoding":
    with _LOADING:
        return _encoding(name)


@cache
def _encoding(name: str) -> "Encoding":
    from tiktoken import Encoding  # noqa: PLC0415  a process that only reads needs none of it

    vocabulary = ENCODINGS[name]
    file = files("holdfast") / "vocabularies" / f"{name}.tiktoken"
    return Encoding(
        name,
        pat_str=vocabulary.pattern,
        mergeable_ranks=read_ranks(file, vocabulary.sha256),
        special_tokens={},
    )


def read_ranks(file: "Traversable", digest: str) -> dict[bytes, int]:
    """Read a vocabulary file: lines of a token in base64, a blank, and its rank.

    Raises:
        ConfigurationError: the file cannot be read, or its sha256 is not `digest`.
    """
    remedy = "install holdfast again, or in a checkout run `pip install -e .`, which fetches it."
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"The vocabulary {file.name} cannot be read: {error.strerror}; {remedy}"
        ) from error
    if sha256(data).hexdigest() != digest:
        raise ConfigurationError(
            f"The vocabulary {file.name} is damaged: its sha256 is not {digest}; {remedy}"
        )
    return {a2b_base64(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
