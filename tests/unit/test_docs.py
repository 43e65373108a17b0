"""What the documents name is there: files, headings, targets of make."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.markdown import Claim, Document, MarkdownError, Span

ROOT = Path(__file__).parents[2]
FILES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
BASES = [Path(), Path("operator"), Path("operator/holdfast")]
"""What a path in a document may be relative to, besides the document's folder."""
MADE = {
    ".holdfast/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/mcp",
    "/openapi.json",
    "/v1/memories",
    "/run/holdfast/api.sock",
}
"""Paths that are there only when something runs."""
INSIDE = ("/opt/", "/etc/", "/run/", "/var/")
"""How paths within a container begin."""
SUFFIXES = {".json", ".lua", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.fixture(params=FILES, ids=name)
def file(request: pytest.FixtureRequest) -> Path:
    """Each document in turn."""
    return request.param


@pytest.fixture
def document(file: Path) -> Document:
    """The same, taken apart."""
    return Document.read(file)


def test_the_documents_are_found():
    assert {"README.md", "CONTRIBUTING.md", "docs/architecture.md"} < {name(file) for file in FILES}
    assert any(file.parent == ROOT / "docs/decisions" for file in FILES)


def test_every_link_leads_somewhere(file: Path, document: Document):
    for link in document.links():
        if re.match(r"https?://", link.text):
            continue
        path, _, anchor = link.text.partition("#")
        target = file.parent / path if path else file
        assert target.exists(), f"line {link.line}: {link.text}"
        assert ROOT in (target.resolve(), *target.resolve().parents), link
        if anchor:
            assert anchor in Document.read(target).anchors(), f"line {link.line}: {link.text}"


def test_every_target_of_make_that_is_named_exists(document: Document):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):", makefile, re.MULTILINE))
    for command in commands(document):
        words = shlex.split(command.text, comments=True)
        if words[:1] == ["make"]:
            named = {word for word in words[1:] if re.fullmatch(r"[a-z][\w-]*", word)}
            assert named <= targets, f"line {command.line}: {command.text}"


def test_every_file_that_is_named_exists(file: Path, document: Document):
    for span in paths(document):
        if span.text not in MADE and not span.text.startswith(INSIDE):
            for path in alternatives(span.text):
                assert is_there(path, file.parent), f"line {span.line}: {span.text}"


def commands(document: Document) -> Iterator[Span]:
    """Give the lines of the blocks for a shell, and whatever else is set as code on one line."""
    for block in document.blocks:
        if block.language == "sh":
            for number, line in enumerate(block.text.splitlines(), block.line + 1):
                yield Span(number, line)
    # What a shell cannot split is no command.
    yield from (span for span in document.code_spans() if not re.search("[\"'\\\\]", span.text))


def paths(document: Document) -> Iterator[Span]:
    """Give the words of all commands that are the path of a file or of a folder."""
    for command in commands(document):
        for word in shlex.split(command.text, comments=True):
            parts = Path(word)
            if re.fullmatch(r"[\w.{},/-]+", word) and (
                parts.suffix in SUFFIXES or ("/" in word and not is_api_name(word))
            ):
                yield Span(command.line, word)


def is_api_name(word: str) -> bool:
    """Tell whether it is the name of an API version, a label or an annotation."""
    return re.match(r"[a-z0-9-]+(\.[a-z0-9-]+)+/[A-Za-z]", word) is not None


def alternatives(path: str) -> list[str]:
    """Expand braces as a shell does."""
    parts = re.split(r"\{([^{}]*)\}", path)
    choices = [part.split(",") if at % 2 else [part] for at, part in enumerate(parts)]
    return ["".join(each) for each in itertools.product(*choices)]


def is_there(path: str, folder: Path) -> bool:
    found = [base / path for base in (folder, *(ROOT / base for base in BASES))]
    return any(each.is_dir() if path.endswith("/") else each.exists() for each in found)


# --- reading Markdown


def test_a_block_is_known_by_its_heading_and_its_place_under_it():
    document = Document("# A\n```sh\nmake\n```\n## B ##\ntext\n```\nx\n\ny\n```\n```yaml\n```\n")
    assert [
        (block.language, block.heading, block.index, block.line, block.text)
        for block in document.blocks
    ] == [("sh", "A", 0, 2, "make\n"), ("", "B", 0, 7, "x\n\ny\n"), ("yaml", "B", 1, 12, "")]


@pytest.mark.parametrize(
    "text", ["```sh\nmake\n", "~~~\nmake\n~~~\n", "- \n  ```\n  make\n  ```\n"]
)
def test_a_fence_of_another_kind_is_refused(text: str):
    with pytest.raises(MarkdownError, match="line "):
        Document(text)


def test_an_edited_block_and_a_removed_one_are_noticed():
    document = Document("# A\n```sh\nmake\n```\n")
    assert Claim("A", 0, "make\n").check(document) == "make\n"
    with pytest.raises(AssertionError, match="edited"):
        Claim("A", 0, "make demo\n").check(document)
    with pytest.raises(AssertionError, match="no block 1"):
        Claim("A", 1, "make\n").check(document)


def test_links_and_code_are_told_apart():
    document = Document("See [`a/`](a/b.md#c) and `x[0](y)`.\n```\n[no](link) `none`\n```\n")
    assert [span.text for span in document.links()] == ["a/b.md#c"]
    assert list(document.code_spans()) == [Span(1, "a/"), Span(1, "x[0](y)")]


def test_every_decision_is_in_the_index_once_under_its_title():
    folder = ROOT / "docs/decisions"
    titles = [
        path.read_text("utf-8").partition("\n")[0].removeprefix("# ") + f"]({path.name})"
        for path in folder.glob("0*.md")
    ]
    index = folder.joinpath("README.md").read_text("utf-8")
    listed = [line.removeprefix("- [") for line in index.splitlines() if line.startswith("- [")]
    assert sorted(listed) == sorted(titles)


def test_anchors_are_those_of_a_code_host():
    document = Document("# What's in `force`?\n## A_b-c d\n## A_b-c d\n")
    assert document.anchors() == {"whats-in-force", "a_b-c-d", "a_b-c-d-1"}


def test_paths_are_told_from_other_words():
    text = "`crds/ a.b/c.yaml x.io/v1 make` `/0?x=y` `{a,b}/c` `policy.py` `1/2`\n"
    assert [span.text for span in paths(Document(text))] == [
        "crds/",
        "a.b/c.yaml",
        "{a,b}/c",
        "policy.py",
        "1/2",
    ]
    assert alternatives("{a,b}/c/{d,e}") == ["a/c/d", "a/c/e", "b/c/d", "b/c/e"]
