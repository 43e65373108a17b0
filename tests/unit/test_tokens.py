"""Token counters: equal to tiktoken's own, and neither slow nor fatal on any text."""
# ruff: noqa: RUF001  the corpus is in many scripts

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import regex
import tiktoken
import tiktoken.load
from hypothesis import given
from hypothesis import strategies as st
from tiktoken_ext import openai_public

from holdfast import tokens
from holdfast.errors import ConfigurationError
from holdfast.tokens import (
    APPROXIMATE,
    ENCODINGS,
    MAX_PIECE,
    Count,
    count_texts,
    counter,
    estimating,
    split,
)

REPOSITORY = Path(__file__).parents[2]
VOCABULARIES = REPOSITORY / "operator" / "holdfast" / "vocabularies"
DEADLINE = 240  # seconds; the work takes about ten

EXACT = pytest.mark.parametrize("name", sorted(ENCODINGS))

CORPUS = (
    "",
    "Hello, world!",
    "I'm sure they'll say we've done what it's worth; he'd DON'T CARE, WE'RE O'Neill's, 'tis.",
    "Where is order 1234567? It cost 1,299.95 EUR on 2031-02-28T09:30:00Z (²/₃ of Ⅷ, ½, ١٢٣٤).",
    "camelCase PascalCase SCREAMING_SNAKE kebab-case HTTPServer2Go iPhoneXR ALLCAPSthenlower",
    "Der Fußgängerüberweg liegt größtenteils außerhalb; naïve café, Ångström, smørrebrød, żółć.",
    "cafe\u0301 A\u030angstro\u0308m \u0301AAA \u0301aaa \u0301\u0301 x\u0301X\u0301",
    "Ναι, η μνήμη κρατά. Память держится. Пам'ять тримається. Հիշողություն. მეხსიერება.",
    "הזיכרון נשמר, תודה! الذاكرة محفوظة، شكرًا. حافظه می\u200cماند.",
    "स्मृति बनी रहती है। স্মৃতি থাকে। நினைவகம் நிலைக்கும். ความจำยังคงอยู่ ຄວາມຈຳ មេម៉ូរី",
    "记忆会保留下来，谢谢。她说：“明天见！”記憶は残ります。ありがとう！기억은 남습니다. カタカナー",
    "İstanbul ſtrange ǅungla ʰaspirated ªº ﬁne ℵ₀ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀭 𐍈",
    "👍 👍🏽 👩\u200d👩\u200d👧\u200d👦 🇳🇴 ❤\ufe0f 1\ufe0f⃣ 🎉🎉🎉 (╯°□°)╯︵ ┻━┻",
    "<|endoftext|><|im_start|>system<|endofprompt|> <|fim_prefix|>",
    "def f(x: int) -> str:\n\treturn f'{x!r}'  # it's\n\n\n    async with a as b:\r\n        pass\r\n",
    "SELECT * FROM \"t\" WHERE a<>'b' AND c||'%' LIKE d; --\n/* a/b */ //x\n///\n",
    '{"id":"call_9f3","arguments":"{\\"city\\":\\"Oslo\\",\\"days\\":[1,2,3]}","ok":true,"n":null}',
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n\n# Title\n\n* one\n  * two\n\n```sh\nls -la ~/x\n```\n---\n***",
    "https://example.org/a/b?c=d&e=%20f#g user@example.org 127.0.0.1:6379 [::1] a\\b\\c",
    "MTIzNDU2Nzg5MA== deadBEEF00ff 550e8400-e29b-41d4-a716-446655440000 0x1F 1e-9 +1-2*3/4^5",
    "aaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!!!!!!!!!!!!!! =====================> ...... ______ \x00\x07\x1b[0m",
    "zero\u200bwidth\u200djoin\u2060er \ufeffbom nb\u00a0sp",
    "\u3000ideographic\u3000 \u2028line\u2029par \x85nel",
    " ",
    "  ",
    "\n",
    "\r\n\r\n",
    " \n \n ",
    "x \n\n  y\t\tz   ",
    "tail\n   ",
    "tail  \n",
    "   lead",
    "a\n\n\n\n\n\nb\r\rc\x0b\x0cd\x1c\x1ee",
    "      \t   \u3000  end",
)


class Reference:
    """An encoding as tiktoken's registry builds it, reading our files with its own parser."""

    def __init__(self, name):
        def read(url, expected_hash):
            assert expected_hash == ENCODINGS[name].sha256
            return (VOCABULARIES / url.rsplit("/", 1)[1]).read_bytes()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiktoken.load, "read_file_cached", read)
            self.encoding = tiktoken.Encoding(**openai_public.ENCODING_CONSTRUCTORS[name]())

    def count(self, text):
        return len(self.encoding.encode(text, disallowed_special=()))


@pytest.fixture(scope="module")
def references():
    return {name: Reference(name) for name in ENCODINGS}


def python(code, *arguments, **environment):
    """Run a script of its own, so that what panics or hangs takes nothing else along."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "operator"), **environment},
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )


# What is counted


@EXACT
@pytest.mark.parametrize("text", CORPUS, ids=range(len(CORPUS)))
def test_counts_what_tiktoken_counts(references, name, text):
    assert counter(name).count(text) == Count(references[name].count(text), True)


@EXACT
def test_counts_any_two_texts_of_the_corpus_joined(references, name):
    count = counter(name).count
    for first in CORPUS:
        for second in CORPUS:
            text = first + second
            assert count(text).tokens == references[name].count(text), text


TRICKY = st.text(
    st.sampled_from(
        " \t\r\n\u3000\x0b\x85\u00a0aAzZ\u01c5\u02b0\u4e2d\u0301\u0e3117\u00b2^/'_."
        "sStTlLmMdDvVrReE\u017f<|>\U0001f600\u200d"
    )
)


@EXACT
@given(text=st.one_of(st.text(st.characters(exclude_categories=())), TRICKY))
def test_counts_any_text_as_tiktoken_does(references, name, text):
    assert counter(name).count(text) == Count(references[name].count(text), True)


@EXACT
@given(text=TRICKY)
def test_splits_any_text_as_tiktoken_does(references, name, text):
    """Equal pieces, where different ones may happen to have as many tokens."""
    theirs = references[name].encoding._pat_str
    assert regex.findall(ENCODINGS[name].pattern, text) == regex.findall(theirs, text)


@EXACT
def test_a_control_token_in_a_text_is_text(name):
    assert counter(name).count("<|endoftext|>") == Count(7, True)


@EXACT
@pytest.mark.parametrize(
    ("text", "same_as"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udc00", "\ufffd"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\ud83d\ude00", "\U0001f600"),
        ("\ufeffx\ud800", "\ufeffx\ufffd"),
    ],
)
def test_lone_surrogates_count_as_replacement_characters(references, name, text, same_as):
    padding = "word " * (MAX_PIECE // 5)
    expected = references[name].count
    assert counter(name).count(text).tokens == expected(same_as)
    assert counter(name).count(padding + text).tokens == expected(padding + same_as)
    assert counter(APPROXIMATE).count(text) == counter(APPROXIMATE).count(same_as)


@EXACT
def test_a_cut_never_parts_a_surrogate_pair(name):
    count = counter(name).count
    assert count("x" + "\ud83d\ude00" * MAX_PIECE) == count("x" + "\U0001f600" * MAX_PIECE)


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("中文", 2), ("😀", 1)]
)
def test_approximate_is_a_quarter_of_the_bytes_rounded_up(text, count):
    assert counter(APPROXIMATE).count(text) == Count(count, False)


@pytest.mark.parametrize("name", [*sorted(ENCODINGS), APPROXIMATE])
def test_texts_add_up(name):
    texts = ["Where is order 1234?", "", "get_order", '{"id":1234}']
    parts = [counter(name).count(text) for text in texts]
    expected = Count(sum(part.tokens for part in parts), name != APPROXIMATE)
    assert count_texts(counter(name), iter(texts)) == expected


def test_a_sum_is_exact_only_when_every_part_is():
    class Listed:
        name = "listed"

        def count(self, text):
            return Count(len(text), text != "b")

    assert count_texts(Listed(), ["aa", "b", "cc"]) == Count(5, False)
    assert count_texts(Listed(), ["aa", "cc"]) == Count(4, True)
    assert count_texts(Listed(), []) == Count(0, True)


@pytest.mark.parametrize("name", [*sorted(ENCODINGS), APPROXIMATE])
def test_an_estimate_has_the_same_tokens_and_is_never_exact(name):
    estimate = estimating(counter(name))
    assert estimate.name == name
    assert estimate.count("two words") == (counter(name).count("two words").tokens, False)


# Long texts


def assert_harmless(pieces, count):
    """Whatever lies between two forced cuts has as many tokens as its pieces together."""
    run = []
    for piece, harmless in [*pieces, ("", False)]:
        run.append(piece)
        if not harmless:
            assert sum(map(count, run)) == count("".join(run)), run
            run = []


@EXACT
@given(text=st.one_of(st.text(max_size=300), TRICKY), size=st.integers(1, 60))
def test_pieces_are_the_text_and_harmless_cuts_change_nothing(references, name, text, size):
    pieces = list(split(text, size))
    assert "".join(piece for piece, _ in pieces) == text
    assert all(len(piece) <= size for piece, _ in pieces)
    assert all(len(piece) == size for piece, harmless in pieces if not harmless)
    assert_harmless(pieces, references[name].count)


@EXACT
@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 400])
def test_harmless_cuts_in_the_corpus(references, name, size):
    text = "".join(first + second for first in CORPUS for second in reversed(CORPUS))
    pieces = list(split(text, size))
    assert "".join(piece for piece, _ in pieces) == text
    assert_harmless(pieces, references[name].count)


def test_pieces_are_as_long_as_they_can_be():
    assert list(split("one two three", 7)) == [("one two", True), (" three", True)]
    assert list(split("one two three", 6)) == [("one", True), (" two", True), (" three", True)]
    assert list(split("one        two", 6)) == [("one", True), ("      ", False), ("  two", True)]
    assert list(split("one", 3)) == [("one", True)]
    assert list(split("", 3)) == [("", True)]


def test_text_with_words_is_never_cut_by_force():
    text = (" ".join(CORPUS) + " ") * 20
    assert all(harmless for _, harmless in split(text, 100))


@EXACT
@pytest.mark.parametrize(
    "unit", ["Ein Satz, wie er im Buche steht. ", "记忆会保留下来，谢谢。", '{"k":[1,2]},']
)
def test_a_long_text_counts_exactly(references, name, unit):
    text = unit * (2 * MAX_PIECE // len(unit))
    assert len(text) > MAX_PIECE
    assert counter(name).count(text) == Count(references[name].count(text), True)


@EXACT
def test_a_text_of_exactly_one_piece_is_not_cut(references, name):
    text = "^" * MAX_PIECE
    assert counter(name).count(text) == Count(references[name].count(text), True)
    assert counter(name).count(text + "^").exact is False


HOSTILE = """
import json, sys
from holdfast.tokens import counter
count = counter(sys.argv[1]).count
for unit in json.loads(sys.argv[2]):
    print(json.dumps(count(unit * (2**20 // len(unit.encode())))))
"""


@EXACT
def test_a_mebibyte_without_a_place_to_cut(name):
    """Four of them, the most that there is in a message: `tests/integration/test_hostile.py`."""
    longest_token = {"a": 8, " ": 128, "\t": 16, "\u3000": 16, "^": 8}
    if name == "cl100k_base":
        longest_token |= {"\u3000": 2, "^": 4}
    done = python(HOSTILE, name, json.dumps(list(longest_token)))
    assert (done.returncode, done.stderr) == (0, "")
    counts = [Count(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(counts) == len(longest_token)
    for (unit, length), count in zip(longest_token.items(), counts, strict=True):
        characters = 2**20 // len(unit.encode())
        fewest = -(-characters // length)
        assert fewest <= count.tokens <= fewest + characters // MAX_PIECE
        assert count.exact is False


@EXACT
@pytest.mark.slow
@pytest.mark.parametrize(
    "first", ["", *(pytest.param(one, marks=pytest.mark.thorough) for one in ("\u0301", "'s"))]
)
def test_one_piece_never_makes_the_tokenizer_panic(name, first):
    units = [*" \t\r\n\u3000\x85aA\u01c5\u02b0\u4e2d\u0301\u0e311\u00b2^/'_\U0001f600\u200d\x00"]
    units += ["'s", " \n", "\r\n", "A\u0301", "aA", "a1", " x", "\u0301A"]
    count = counter(name).count
    for unit in units:
        for last in ("", "x"):
            text = first + unit * (MAX_PIECE // len(unit))
            text = text[: MAX_PIECE - len(last)] + last
            assert count(text).exact is True


# Where the encodings come from


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ConfigurationError) as caught:
        counter("p50k_base")
    assert str(caught.value) == (
        "There is no tokenizer 'p50k_base'; there are o200k_base, cl100k_base, approximate."
    )


@pytest.mark.parametrize("name", [*sorted(ENCODINGS), APPROXIMATE])
def test_a_counter_knows_its_name(name):
    assert counter(name).name == name


def test_a_damaged_vocabulary_is_refused(tmp_path):
    file = tmp_path / "cl100k_base.tiktoken"
    file.write_bytes((VOCABULARIES / file.name).read_bytes()[:-1])
    with pytest.raises(ConfigurationError, match=r"cl100k_base\.tiktoken is damaged.*pip install"):
        tokens.read_ranks(file, ENCODINGS["cl100k_base"].sha256)


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"o200k_base\.tiktoken cannot be read.*pip inst"):
        tokens.read_ranks(tmp_path / "o200k_base.tiktoken", ENCODINGS["o200k_base"].sha256)


def test_the_build_fetches_what_the_counters_expect():
    hook = (REPOSITORY / "hatch_build.py").read_text(encoding="utf-8")
    for name, vocabulary in ENCODINGS.items():
        assert f"{name}.tiktoken" in hook
        assert vocabulary.sha256 in hook


def test_two_threads_load_an_encoding_once(monkeypatch):
    loads = []
    read_ranks = tokens.read_ranks

    def counted(file, digest):
        loads.append(file.name)
        return read_ranks(file, digest)

    monkeypatch.setattr(tokens, "read_ranks", counted)
    tokens._encoding.cache_clear()
    together = threading.Barrier(4)
    counts = []

    def work():
        together.wait(DEADLINE)
        counts.append(counter("cl100k_base").count("two words"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert counts == [Count(2, True)] * 4
    assert loads == ["cl100k_base.tiktoken"]


FIRST_USE = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from holdfast.tokens import counter
counters = [counter(name) for name in ("o200k_base", "cl100k_base", "approximate")]
counters[2].count("text")
assert "tiktoken" not in sys.modules
print([each.count("two words").tokens for each in counters])
"""


def test_tiktoken_is_imported_at_the_first_exact_count_and_needs_no_network(tmp_path):
    done = python(FIRST_USE, TIKTOKEN_CACHE_DIR=str(tmp_path))
    assert (done.stdout, done.stderr) == ("[2, 2, 3]\n", "")
    assert list(tmp_path.iterdir()) == []
