"""The synchronous library is the asynchronous one: its names, its parameters, and the generator's rules."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import sync
from holdfast.sync import generate, reading
from holdfast.sync.reading import GenerationError

PAIRS = [
    (getattr(holdfast, name), getattr(sync, name))
    for name in ("MessageLog", "Session", "Turn", "Memory", "Client")
]
RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__"}
FACADES = {*(facade.__name__ for _, facade in PAIRS), "Signal"}


def members(of: type) -> dict[str, Any]:
    return {
        name: getattr(of, name)
        for name in dir(of)
        if not name.startswith("_") or name in {*RENAMED, *RENAMED.values()}
    }


def said(annotation: object) -> str:
    """An annotation without the modules of its names."""
    name = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"(?:\w+\.)+(?=\w)", "", name).replace("AsyncIterator", "Iterator")


def parameters(function: Any) -> list[tuple[object, ...]]:
    return [
        (each.name, each.kind, each.default, said(each.annotation))
        for each in inspect.signature(function).parameters.values()
    ]


@pytest.mark.parametrize(("original", "facade"), PAIRS, ids=lambda one: one.__name__)
def test_a_class_has_exactly_the_names_of_its_original(original: type, facade: type) -> None:
    wanted = {RENAMED.get(name, name) for name in members(original)}
    attributes = {name for name, value in members(facade).items() if isinstance(value, property)}
    plain = {name for name, value in members(original).items() if isinstance(value, property)}
    expected = {
        path.partition(".")[2]
        for path, words in generate.ATTRIBUTES.items()
        if path.startswith(f"{facade.__name__}.") and words is not None
    }
    assert members(facade).keys() == wanted | expected
    assert attributes == plain | expected


@pytest.mark.parametrize(("original", "facade"), PAIRS, ids=lambda one: one.__name__)
def test_every_method_has_the_parameters_of_its_original(original: type, facade: type) -> None:
    blocking = members(facade)
    methods = {name: call for name, call in members(original).items() if inspect.isfunction(call)}
    assert methods
    for name, call in methods.items():
        mine = blocking[RENAMED.get(name, name)]
        assert not inspect.iscoroutinefunction(mine)
        assert parameters(mine) == parameters(call), name
        returns = (said(inspect.signature(each).return_annotation) for each in (mine, call))
        assert len(set(returns)) == 1, name
        assert inspect.getdoc(mine), name


def test_connecting_takes_the_same() -> None:
    assert parameters(sync.connect) == parameters(holdfast.connect)
    assert sync.connect.__annotations__["return"] is sync.Client


def test_the_public_names() -> None:
    assert sync.__all__ == sorted(sync.__all__)
    assert {*FACADES, "connect"} == set(sync.__all__)
    with pytest.raises(AttributeError, match=r"module 'holdfast\.sync' has no attribute 'conect'"):
        getattr(sync, "conect")  # noqa: B009 - a type checker would see it


# --- the generator


def test_what_is_in_the_tree_is_what_the_generator_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert generate.main(["check"]) == 0, capsys.readouterr().out


def test_a_difference_is_shown_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "facade.py"
    monkeypatch.setattr(generate, "FACADE", copy)
    assert generate.main(["check"]) == 1
    assert "run: python -m holdfast.sync.generate write" in capsys.readouterr().out
    assert generate.main(["write"]) == 0
    copy.write_text(copy.read_text().replace("def pop(self)", "def pull(self)"))
    assert generate.main(["check"]) == 1
    out = capsys.readouterr().out
    assert "-    def pull(self) -> Any | None:" in out
    assert "+    def pop(self) -> Any | None:" in out


MODULES: Mapping[str, str] = {
    "log": '''
import datetime
from collections.abc import AsyncGenerator as Stream, AsyncIterator, Sequence
from typing import Any
from holdfast.base import Base
from holdfast.values import LONG, Lines, Page

class MessageLog(Base):
    """Messages."""

{log}
''',
    "base": '''
class Base:
    """What is inherited."""

    async def inherited(self) -> None:
        """Do it."""
''',
    "turn": '''
from holdfast.log import MessageLog

class Turn(MessageLog):
    """A turn; `async with session.turn()`."""
''',
    "session": '''
from holdfast.log import MessageLog

class Session(MessageLog):
    """A session."""
''',
    "client": '''
from holdfast.session import Session

class Memory:
    """A memory.

    Args:
        number: how many.
    """

    def __init__(self, number: int) -> None:
        {memory}

class Client:
    """A client."""
''',
    "connecting": '''
from holdfast.client import Client

def connect() -> Client:
    """Connect; `async with holdfast.connect()`; `await client.call()`."""
''',
}


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the facade of a small library that has the given methods."""

    def make(log: str = "", memory: str = "self._number = number") -> str:
        (tmp_path / "holdfast").mkdir()
        indented = "".join(f"    {line}\n" for line in log.splitlines())
        for name, text in MODULES.items():
            filled = text.replace("{log}", indented).replace("{memory}", memory)
            (tmp_path / "holdfast" / f"{name}.py").write_text(filled)
        monkeypatch.setattr(reading, "ROOT", tmp_path)
        monkeypatch.setattr(generate, "WORDS", {})
        return generate.facade_text()

    return make


def test_what_is_inherited_is_written_out(library: Any) -> None:
    text = library()
    assert text.count("def inherited(self) -> None:") == 1
    assert "self._portal.run(self._log.inherited)" in text
    assert '"""A turn; `with session.turn()`."""' in text
    assert '"""A memory."""' in text
    compile(text, "facade.py", "exec")


def test_an_iterator_gives_its_items_one_by_one(library: Any) -> None:
    text = library("async def export(self, *, limit: int = 3) -> AsyncIterator[Page]:\n    yield")
    assert "def export(self, *, limit: int = 3) -> Iterator[Page]:" in text
    assert "return self._portal.iterate(self._log.export, limit=limit)" in text
    assert "from collections.abc import Iterator\n" in text


def test_lines_are_fed_into_the_loop(library: Any) -> None:
    text = library("async def import_(self, lines: Lines, *, at: int = 0) -> int: ...")
    assert "def import_(self, lines: Lines, *, at: int = 0) -> int:" in text
    assert "self._portal.run(self._log.import_, feed(lines), at=at)" in text
    assert "from holdfast.sync.portal import Portal, feed\n" in text


def test_every_kind_of_parameter_is_passed_on(library: Any) -> None:
    text = library(
        "async def all(self, a: int, /, b: str = '', *c: Any, d: Page, e: bool = True, **f: int\n"
        ") -> int: ..."
    )
    assert (
        "def all(self, a: int, /, b: str = '', *c: Any, d: Page, e: bool = True, **f: int) -> int:\n"
        in text
    )
    assert "self._portal.run(self._log.all, a, b, *c, d=d, e=e, **f)" in text


def test_modules_and_many_names_are_imported(library: Any) -> None:
    text = library(
        "async def a(self, at: datetime.datetime, page: 'Page', long: LONG) -> Sequence[Page]:\n"
        "    ..."
    )
    assert "import datetime\nfrom collections.abc import Sequence\n" in text
    assert "from holdfast.values import LONG, Page\n" in text
    assert "page: Page, long: LONG" in text


def test_long_lines_are_broken_as_the_formatter_does(library: Any) -> None:
    names = ", ".join(f"{letter * 12}: int" for letter in "abcd")
    more = ", ".join(f"{letter * 12}: int" for letter in "abcdef")
    text = library(
        f"async def x(self, {names}, *, e: int) -> int: ...\nasync def y(self, {more}) -> int: ..."
    )
    assert f"def x(\n        self, {names}, *, e: int\n    ) -> int:" in text
    assert "def y(\n        self,\n        aaaaaaaaaaaa: int,\n" in text


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ("async def a(self, x) -> int: ...", "a: of which type is x?"),
        ("async def a(self): ...", "a does not say what it returns"),
        ("@staticmethod\nasync def a(x: int) -> int: ...", "no rule for the decorators of a"),
        ("async def a(self, x: Turn) -> int: ...", "where does Turn come from?"),
        ("async def a(self, x: MessageLog) -> int: ...", "no rule for the parameter x"),
        ("async def a(self, x: AsyncIterator[int]) -> int: ...", "no rule for the parameter x"),
        ("async def a(self) -> dict[str, AsyncIterator[int]]: ...", "no rule for AsyncIterator"),
        ("async def a(self) -> Stream[int]: ...", "calls AsyncGenerator Stream"),
        ("async def a(self) -> Nowhere: ...", "where does Nowhere come from?"),
        ('async def a(self) -> int:\n    """Await it."""', "asynchronous words are left"),
    ],
)
def test_what_has_no_rule_is_refused(library: Any, log: str, says: str) -> None:
    with pytest.raises(GenerationError, match=re.escape(says)):
        library(log)


@pytest.mark.parametrize(
    ("memory", "says"),
    [
        ("self.number = number", "Memory.number is new: describe it in ATTRIBUTES"),
        ("self.number = number + 1", "Memory.number: of which type?"),
    ],
)
def test_an_attribute_is_shown_only_if_somebody_said_so(
    library: Any, memory: str, says: str
) -> None:
    with pytest.raises(GenerationError, match=re.escape(says)):
        library(memory=memory)


def test_words_that_are_gone_are_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "WORDS", {"connect": (("no such words", ""),)})
    with pytest.raises(GenerationError, match="no longer says 'no such words'"):
        generate.facade_text()


def test_what_the_library_has_not_cannot_be_generated() -> None:
    source = reading.Source("holdfast.turn")
    with pytest.raises(GenerationError, match="has no function nothing"):
        source.function("nothing")
    with pytest.raises(GenerationError, match="has no class Nothing"):
        source.class_docstring("Nothing")
