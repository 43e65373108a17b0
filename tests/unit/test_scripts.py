"""The Lua scripts as files: their contracts, how they are assembled, and what a release pins."""

import hashlib
import re
from pathlib import Path

import pytest

from holdfast.store.redis import script as assembling
from holdfast.store.redis.digests import digests
from holdfast.store.redis.script import all_scripts, script

FOLDER = Path(assembling.__file__).parent / "scripts"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.lua"))
PIECES = sorted(path.stem for path in (FOLDER / "lib").glob("*.lua"))
HEADER = re.compile(r"#!lua( flags=(allow-oom|no-writes))?")
COMMENT = re.compile(r"^\s*--", re.MULTILINE)
THEN = re.compile(r"^-- then: (\w+)$", re.MULTILINE)
USES = re.compile(r"^-- uses: (.+)$", re.MULTILINE)
RUN = "run `python -m holdfast.store.redis.digests > operator/holdfast/store/redis/scripts/DIGESTS`"

READS = {"check", "page", "tail"}
"""Scripts that a read-only user may run."""
LETS_GO = {
    *("pop", "clear", "touch", "release", "renew"),
    *("begin_deletion", "bury", "end_deletion", "forget", "retain", "roll_out"),
    *("expire", "note_walk"),
    *("flusher", "splice", "trim", "erase", "unlist"),
}
"""Scripts that must work on a full server: they give memory back, or hold nobody up who waits."""


def source(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text("ascii")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_opens_with_its_contract(name: str) -> None:
    first, second, *rest = source(name).splitlines()
    assert HEADER.fullmatch(first)
    assert second.startswith(f"-- {name}: ")
    comments = "\n".join(line for line in rest if line.startswith("--"))
    for part in ("-- KEYS  ", "-- ARGV  ", "-- Returns "):
        assert part in comments
    code = next(at for at, line in enumerate(rest) if line and not line.startswith("--"))
    assert comments.index("-- Returns ") < len("\n".join(rest[:code]))


@pytest.mark.parametrize("name", [*SCRIPTS, *(f"lib/{piece}" for piece in PIECES)])
def test_a_file_is_plain_text_of_a_readable_width(name: str) -> None:
    text = source(name)
    assert text.endswith("\n")
    assert "\t" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    assert max(map(len, text.splitlines())) <= 150


@pytest.mark.parametrize("piece", PIECES)
def test_a_piece_says_what_it_is_and_is_used(piece: str) -> None:
    assert source(f"lib/{piece}").startswith(f"-- lib/{piece}: ")
    users = [name for name in SCRIPTS if piece in _uses(name)]
    assert users


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_assembled_from_what_it_names(name: str) -> None:
    made = script(name)
    text = made.body.decode("ascii")
    assert made.name == name
    assert made.sha == hashlib.sha1(made.body).hexdigest().encode()
    assert text.splitlines()[0] == source(name).splitlines()[0]
    assert not COMMENT.search(text)
    ends = [_last_line(f"lib/{piece}") for piece in _uses(name)]
    assert [line for line in ends if line not in text] == []
    goes_on = THEN.search(source(name))
    assert text.endswith(_last_line(goes_on[1] if goes_on else name) + "\n")
    assert _last_line(name) in text


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_touches_no_key_that_it_does_not_declare(name: str) -> None:
    (declared,) = re.findall(r"^-- KEYS  (.+?)(?:   .*)?$", source(name), re.MULTILINE)
    places = re.findall(r"KEYS\[(\d+)\]", "".join(map(source, [name, *_libraries(name)])))
    keys = len(declared.split())
    # `renew` takes the piece that serves waiters for the life of the lease alone.
    assert max(map(int, places), default=0) <= (6 if name == "renew" else keys)


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_full_server_lets_a_script_do(name: str) -> None:
    flags = HEADER.fullmatch(source(name).splitlines()[0])
    assert flags is not None
    expected = {True: "no-writes" if name in READS else "allow-oom", False: None}
    assert flags[2] == expected[name in READS | LETS_GO]


def test_all_scripts_are_found_by_name() -> None:
    assert [one.name for one in all_scripts()] == SCRIPTS
    assert len({one.sha for one in all_scripts()}) == len(SCRIPTS)


def test_the_digests_of_a_release_are_pinned() -> None:
    pinned = (FOLDER / "DIGESTS").read_text("ascii")
    assert pinned == digests(), f"a script has changed: {RUN}"


def _uses(name: str) -> list[str]:
    found = USES.search(source(name))
    return found[1].split(", ") if found else []


def _libraries(name: str) -> list[str]:
    return [f"lib/{piece}" for piece in _uses(name)]


def _last_line(name: str) -> str:
    return [line for line in source(name).splitlines() if line and not COMMENT.match(line)][-1]
