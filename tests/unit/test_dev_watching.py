"""Reading manifests while somebody writes them: a file that is missing for a moment deletes nothing."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from holdfast_cli.local.watching import Watch


def contents(files: Sequence[Path]) -> dict[str, str]:
    return {file.name: file.read_text() for file in files if file.exists()}


class Reader:
    """Reads files, and lets somebody edit one in the middle of the first time."""

    def __init__(self, edited: Path, *steps: str) -> None:
        self._edited = edited
        self._steps = list(steps)

    def __call__(self, files: Sequence[Path]) -> dict[str, str]:
        if self._steps:
            self._edited.write_text(self._steps.pop(0))
        found = contents(files)
        while self._steps:
            self._edited.write_text(self._steps.pop(0))
        return found


def test_what_is_read_at_the_start_is_all_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a")
    (tmp_path / "b.yaml").write_text("b")
    read = Reader(tmp_path / "b.yaml", "", "b, edited")
    assert Watch([tmp_path]).first(read) == {"a.yaml": "a", "b.yaml": "b, edited"}


@pytest.mark.asyncio
async def test_an_edit_in_the_middle_of_the_reading_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a")
    (tmp_path / "b.yaml").write_text("b")
    watch = Watch([tmp_path])
    watch.first(contents)
    (tmp_path / "a.yaml").write_text("a, edited")
    changes = watch.changes(Reader(tmp_path / "b.yaml", "", "b, edited"))
    async with asyncio.timeout(60):
        found = await anext(changes)
    await changes.aclose()
    assert found == {"a.yaml": "a, edited", "b.yaml": "b, edited"}
