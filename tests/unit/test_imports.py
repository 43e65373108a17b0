"""What is loaded when: importing the library stays cheap, and each store loads only what it needs."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import holdfast

SOURCE = Path(__file__).parents[2] / "operator"
HEAVY = ("aiohttp", "pydantic", "redis", "hiredis", "tiktoken", "yaml", "re2")
OBSERVING = ("prometheus_client", "opentelemetry")
"""What observers need. Of the second, redis-py loads what is installed."""


def loaded(program: str, among: Sequence[str] = HEAVY) -> set[str]:
    """Run a program in a new interpreter and return which of these modules it loaded."""
    asks = f"import sys; print(*(name for name in {tuple(among)} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{program}\n{asks}"],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


APPEND = """
import asyncio, holdfast
spec = {"model": {"tokenizer": "approximate"}, "retention": {"ttl": "1h"}}

async def main():
    async with holdfast.connect("memory://", policy=spec) as client:
        session = client.memory().session("a")
        await session.append({"role": "user", "content": "hi"})
        async with session.turn() as turn:
            assert await turn.read() == [{"role": "user", "content": "hi"}]

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("program", "modules"),
    [
        ("import holdfast", set[str]()),
        ("from holdfast import HoldfastError, SessionBusy, Page, Record", set[str]()),
        ("import holdfast.keys, holdfast.planning, holdfast.values, holdfast.store", set[str]()),
        ("import holdfast; holdfast.connect('memory://')", {"pydantic"}),
        (APPEND, {"pydantic"}),
        (
            "import holdfast; holdfast.connect('redis://127.0.0.1:1')",
            {"pydantic", "redis", "hiredis"},
        ),
        ("import holdfast; holdfast.connect('http://127.0.0.1:1')", {"pydantic", "aiohttp"}),
    ],
    ids=[
        *("the package", "names", "values", "connecting", "in this process", "to a server"),
        "to a sidecar",
    ],
)
def test_what_is_loaded(program: str, modules: set[str]) -> None:
    assert loaded(program) == modules


@pytest.mark.parametrize(
    ("program", "modules"),
    [
        (APPEND, set[str]()),
        ("import holdfast.metrics, holdfast.tracing", set[str]()),
        ("import holdfast.metrics as it; it.PrometheusObserver()", {"prometheus_client"}),
        ("import holdfast.tracing as it; it.OpenTelemetryObserver()", {"opentelemetry"}),
    ],
    ids=["nobody asks", "the modules", "metrics", "spans"],
)
def test_observers_load_what_they_need_and_nothing_else_does(
    program: str, modules: set[str]
) -> None:
    assert loaded(program, OBSERVING) == modules


def test_every_public_name_is_there() -> None:
    assert holdfast.__all__ == sorted(holdfast.__all__)
    for name in holdfast.__all__:
        assert getattr(holdfast, name) is not None


def test_a_name_is_found_once_and_kept() -> None:
    connect = holdfast.connect
    assert vars(holdfast)["connect"] is connect
    assert holdfast.Client.__module__ == "holdfast.client"


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="module 'holdfast' has no attribute 'conect'"):
        getattr(holdfast, "conect")  # noqa: B009 - a type checker would see it


def test_a_star_gives_the_public_names() -> None:
    names: dict[str, object] = {}
    exec("from holdfast import *", names)
    assert set(holdfast.__all__) <= names.keys()


HELP = """
import runpy, sys
sys.argv = [{name!r}, "--help"]
try:
    runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
except SystemExit as ended:
    assert ended.code in (0, None), ended.code
print(*(name for name in sys.modules if "." not in name))
"""
PROGRAMS = ("holdfast_operator", "holdfast_cli", "holdfast_sidecar", "holdfast_webhook")
OF_THE_EXTRAS = {
    *HEAVY,
    "prometheus_client",
    "kopf",
    "kubernetes",
    "cryptography",
    "uvicorn",
    "uvloop",
}


@pytest.mark.parametrize("module", PROGRAMS)
def test_help_is_said_before_anything_is_loaded(module: str):
    done = subprocess.run(
        [sys.executable, "-c", HELP.format(name=module, module=module)],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *said, modules = done.stdout.splitlines()
    assert any("usage" in line.lower() for line in said)
    assert not OF_THE_EXTRAS & set(modules.split())


def test_no_module_is_too_long_to_be_kept_in_mind():
    lengths = {path: len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert len(lengths) > 100
    long = [path for path, lines in lengths.items() if lines > 450]
    # What a program writes is read where it is written from.
    assert [path.relative_to(SOURCE).as_posix() for path in long] == ["holdfast/sync/facade.py"]
