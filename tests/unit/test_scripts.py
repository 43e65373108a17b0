"""The Lua scripts as files: their contracts, how they are assembled, and what a release pins."""

import hashlib
import re
import struct
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

READS = {"check", "entries", "holdings", "page", "scan", "tail"}
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


def test_the_look_of_a_sweep_knows_the_counters_that_sessions_have() -> None:
    """It reads them without lib/state, and took every session for broken when they had become longer."""
    forms = re.search(r"LAYOUT, K, S = 1, '(<d+)', '(<B+H+)(d+)'", source("lib/state"))
    assert forms
    counters, head, times = forms.groups()
    slow = struct.calcsize(head + times)
    expiry = struct.calcsize(head + times[:-2])  # the last but one of the times
    text = source("check")
    for name in ("check", "holdings"):
        assert f"#s ~= {slow} or #k ~= {struct.calcsize(counters)}" in source(name)
    assert f"struct.unpack('<d', s, {expiry + 1})" in text


def test_what_ends_a_rollout_early_knows_the_counters_that_sessions_have() -> None:
    """It reads them before lib/state is there; with other lengths it would pass every session on."""
    forms = re.search(r"LAYOUT, K, S = (\d), '(<d+)', '(<B+H+)(d+)'", source("lib/state"))
    rules = re.search(r"local TTL, .*BURIED = (.*)", source("lib/state"))
    assert forms
    assert rules
    assert rules[1] == "1, 2, 3, 4, 5, 6"
    layout, counters, head, times = forms.groups()
    epoch, created, revision, expiry, touched = (
        struct.calcsize(head + times[:number]) + 1 for number in range(len(times))
    )
    assert (created - epoch, revision - created, expiry - revision, touched - expiry) == (8,) * 4
    text = source("lib/plain")
    assert f"#k == {struct.calcsize(counters)} and #s == {struct.calcsize(head + times)}" in text
    assert f"layout == {layout} " in text
    assert f"numbers('<dddd', s, {created})" in text
    assert f"string.char({layout}, rule) .. string.sub(s, 3, {revision - 1})" in text
    assert f"string.sub(s, {touched})" in text
    assert _uses("roll_out")[0] == "plain"


def _uses(name: str) -> list[str]:
    found = USES.search(source(name))
    return found[1].split(", ") if found else []


def _libraries(name: str) -> list[str]:
    return [f"lib/{piece}" for piece in _uses(name)]


def _last_line(name: str) -> str:
    return [line for line in source(name).splitlines() if line and not COMMENT.match(line)][-1]
