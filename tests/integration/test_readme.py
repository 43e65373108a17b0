"""The README's commands do what it says, on an installation as a stranger has it.

The commands for Kubernetes are run by `tests/e2e/test_install.py`. The demo has a test
of its own and `make test` is what runs this one, so of these two it is only seen that they set up
everything and run what the README says.
"""

import ast
import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import pytest
import redis
import yaml

import holdfast
import tests.e2e.test_install as on_kubernetes
from holdfast.values import Health
from tests.harness.installation import ROOT, Installation
from tests.harness.markdown import Claim, Document, claims, claims_of
from tests.harness.parts import missing
from tests.harness.servers import Server
from tests.harness.waiting import until

DEMO = Claim("Two commands", 0, "make demo\n")
TEST = Claim("Two commands", 1, "make test\n")
INSTALL = Claim("A few lines on your own Redis", 0, "pip install .\n")
TEN_LINES = Claim(
    "A few lines on your own Redis",
    1,
    """\
import asyncio

import holdfast

POLICY = {"limits": {"maxTokens": 4000}, "retention": {"ttl": "24h"}}


async def main():
    async with holdfast.connect("redis://localhost:6379", policy=POLICY) as client:
        session = client.memory("support").session("user:42")
        async with session.turn() as turn:  # one agent at a time; others wait in line
            await turn.append({"role": "user", "content": "Where is my order?"}, id="request-1")
            history = await turn.read(max_tokens=3000)  # whole groups, ready for a model
            await turn.append(
                {"role": "assistant", "content": f"I read {len(history)} of our messages."}
            )
        print(await session.read(), await session.token_count())


asyncio.run(main())
""",
)
DEV = Claim(
    "A tour on a laptop, in five minutes",
    0,
    "pip install '.[cli]'\nholdfast dev -f examples/support\n",
)
EXPORT = Claim(
    "A tour on a laptop, in five minutes",
    1,
    "export HOLDFAST_URL='redis://127.0.0.1:PORT/0?namespace=local'\n",
)
QUESTIONS = Claim(
    "A tour on a laptop, in five minutes",
    2,
    """\
import asyncio

import holdfast


async def main():
    async with holdfast.connect() as client:
        session = client.memory("support").session("tour")
        for question in range(30):
            await session.append(
                {"role": "user", "content": f"Question {question}: " + "please " * 40}
            )
        print(await session.health())


asyncio.run(main())
""",
)


@pytest.fixture(scope="module")
def readme() -> Document:
    """The README."""
    return Document.read(ROOT / "README.md")


@pytest.fixture(scope="module")
def library(readme: Document, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An environment with the library alone."""
    installation = Installation(tmp_path_factory.mktemp("library"))
    installation.install(INSTALL.check(readme))
    return installation


def test_every_block_is_run_by_one_test_and_says_what_it_said(readme: Document):
    claimed = claims_of(sys.modules[__name__]) + claims_of(on_kubernetes)
    assert sorted((claim.heading, claim.index) for claim in claimed) == sorted(
        (block.heading, block.index) for block in readme.blocks
    )
    for claim in claimed:
        claim.check(readme)


# --- two commands


def _steps(target: str, directory: Path) -> list[str]:
    """Return what make would run for a target, where nothing is set up."""
    if shutil.which("make") is None:
        missing("make", "apt-get install make")
    return subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target, f"VENV={directory / 'venv'}"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def _sets_up(steps: list[str]) -> bool:
    """Tell whether an environment is made first, with all packages, then with the project."""
    order = re.search(
        r"-m venv .*pip install .*-r requirements/.*pip install .*--editable", "".join(steps)
    )
    return order is not None


@claims(DEMO)
def test_make_demo_sets_up_and_runs_the_main_job(readme: Document, tmp_path: Path):
    steps = _steps(DEMO.check(readme).split()[1], tmp_path)
    assert _sets_up(steps)
    assert re.fullmatch(r"\S+/python examples/support/demo\.py", steps[-1])
    assert (ROOT / "examples/support/demo.py").is_file()


@claims(TEST)
def test_make_test_sets_up_and_passes_every_test(readme: Document, tmp_path: Path):
    command = TEST.check(readme).strip()
    steps = _steps(command.split()[1], tmp_path)
    assert _sets_up(steps)
    called = (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
    assert command in called
    others = [line.split()[1] for line in called if line.startswith("make ") and line != command]
    runs = _runs([*steps, *(step for target in others for step in _steps(target, tmp_path))])
    for file in sorted(ROOT.glob("tests/*/test_*.py")):
        name = str(file.relative_to(ROOT))
        assert sum(run.has(name) for run in runs) == 1, f"{name} is run once, in one of the parts"


@dataclass(frozen=True)
class Run:
    """What a call of pytest was told to run, and what to leave out."""

    given: list[str]
    left_out: list[str]

    def has(self, name: str) -> bool:
        """Tell whether it runs a file."""
        if any(fnmatch(name, pattern) for pattern in self.left_out):
            return False
        return any(name == path or name.startswith(f"{path}/") for path in self.given)


def _runs(steps: list[str]) -> list[Run]:
    runs: list[Run] = []
    for step in "\n".join(steps).replace("\\\n", " ").split("\n"):
        if " -m pytest " in step:
            *_, words = step.partition(" -m pytest ")
            words = shlex.split(words)
            assert not {"-k", "-m", "--deselect"} & set(words), "no choice of tests"
            options = [at for at, word in enumerate(words) if word.startswith("--ignore")]
            left_out = [words[at + 1] for at in options]
            given = [word for word in words if word.startswith("tests/")]
            runs.append(Run([word for word in given if word not in left_out], left_out))
    return runs


# --- ten lines


@pytest.fixture
def own_server(valkey_server: Server) -> Iterator[Server]:
    """A server without conversations of the support desk."""

    def forget() -> None:
        with redis.Redis(port=valkey_server.port) as client:
            for key in client.scan_iter("mem:{local/support*"):
                client.delete(key)

    forget()
    yield valkey_server
    forget()


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(1200)
@claims(INSTALL, TEN_LINES)
def test_ten_lines_on_a_server_of_ones_own(
    readme: Document, library: Installation, own_server: Server, tmp_path: Path
):
    there = "localhost:6379"
    text = TEN_LINES.check(readme)
    assert text.count(there) == 1
    program = tmp_path / "ten_lines.py"
    program.write_text(text.replace(there, f"127.0.0.1:{own_server.port}"), encoding="utf-8")

    messages, tokens = _printed(library.shell("python ten_lines.py", cwd=tmp_path))
    question = {"role": "user", "content": "Where is my order?"}
    answers = [{"role": "assistant", "content": f"I read {n} of our messages."} for n in (1, 2)]
    assert messages == [question, answers[0]]
    assert tokens > 0

    # A second run is a retry of its first append, which has an id, and of nothing else.
    messages, more = _printed(library.shell("python ten_lines.py", cwd=tmp_path))
    assert messages == [question, *answers]
    assert more > tokens


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_library_alone_says_what_its_programs_lack(library: Installation):
    for program, extra in (("holdfast", "cli"), ("holdfast-operator", "operator")):
        with pytest.raises(AssertionError, match=re.escape(f"pip install 'holdfast[{extra}]'")):
            library.shell(program, cwd=ROOT)


def test_a_store_in_the_process_needs_no_server(readme: Document):
    assert any(span.text == 'holdfast.connect("memory://")' for span in readme.code_spans())

    async def length() -> int:
        policy = ROOT / "examples/support/memory.yaml"
        async with holdfast.connect("memory://", policy=policy) as client:
            session = client.memory("support").session("user:42")
            await session.append({"role": "user", "content": "hi"})
            return await session.length()

    assert asyncio.run(length()) == 1


def _printed(line: str) -> tuple[list[object], int]:
    messages, _, tokens = line.rpartition(" ")
    return ast.literal_eval(messages), int(tokens)


# --- the tour


@dataclass(frozen=True)
class LocalMode:
    """A running `holdfast dev` and the manifest somebody edits meanwhile."""

    process: subprocess.Popen[bytes]
    log: Path
    manifest: Path

    def lines(self) -> list[str]:
        """Return the lines that are complete."""
        return self.log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()

    def says(self, text: str) -> str:
        """Wait for a line with this text and return it."""

        def found() -> str | None:
            assert self.process.poll() is None, self.lines()
            return next((line for line in self.lines() if text in line), None)

        asyncio.run(until(lambda: found() is not None, f"{text!r} in {self.log}"))
        line = found()
        assert line is not None
        return line

    def to_paste(self) -> list[str]:
        """Return the line for a shell and the one for Python."""
        export = self.says("export ")
        self.says("import ")
        lines = self.lines()
        first = lines.index(export)
        return lines[first : first + 2]

    def edit(self, old: str, new: str) -> None:
        text = self.manifest.read_text(encoding="utf-8")
        assert text.count(old) == 1, text
        self.manifest.write_text(text.replace(old, new), encoding="utf-8")


@contextlib.contextmanager
def _local_mode(installation: Installation, command: str, home: Path) -> Generator[LocalMode]:
    log = home.parent / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"],
            cwd=home,
            env=installation.environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield LocalMode(process, log, home / "examples/support/memory.yaml")
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        assert process.wait(timeout=60) == 0, log.read_text(encoding="utf-8")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.redis
@pytest.mark.slow
@pytest.mark.timeout(1200)
@claims(DEV, EXPORT, QUESTIONS)
def test_the_tour_on_a_laptop(readme: Document, valkey_server: Server, tmp_path: Path):
    del valkey_server  # it is missing where `holdfast dev` has no server either
    installation = Installation(tmp_path / "installation")
    install, dev = DEV.check(readme).splitlines()
    installation.install(install)
    home = tmp_path / "home"
    shutil.copytree(ROOT / "examples", home / "examples", ignore=shutil.ignore_patterns("*.pyc"))
    program = home / "questions.py"
    program.write_text(QUESTIONS.check(readme), encoding="utf-8")
    with _local_mode(installation, dev, home) as running:
        assert "True" in running.says("local/support")
        export, python_line = running.to_paste()
        form = re.escape(EXPORT.check(readme).strip()).replace("PORT", r"\d+")
        assert re.fullmatch(form, export)
        _paste(installation, export, python_line, home)
        answer = installation.shell(f"{export}\npython {program.name}", cwd=home)
        health = {name: int(value) for name, value in re.findall(r"(\w+)=(\d+)", answer)}
        assert health["tokens"] <= _limit(running) == 1200
        assert health["dropped"] > 0
        assert health["messages"] + health["dropped"] == 30
        url = export.partition("=")[2].strip("'")
        _tour_of_edits(running, url, health)
    assert (home / ".holdfast/valkey").is_dir()


def _paste(installation: Installation, export: str, python_line: str, home: Path) -> None:
    """Paste both lines, and what the second one proposes."""
    proposed = python_line.rpartition("# ")[2]
    session = f"{python_line}\nprint((\n{proposed}\n).length, 'stored')\n"
    answer = installation.shell(f"{export}\npython -m asyncio <<'END'\n{session}END\n", cwd=home)
    assert "1 stored" in answer


def _tour_of_edits(running: LocalMode, url: str, before: dict[str, int]) -> None:
    running.edit("maxTokens: 1200", "maxTokens: 600")
    assert "in force" in running.says("revision 2")
    after = _follows(url, lambda health: health.revision == 2)
    assert after.tokens <= 600
    assert after.messages + after.dropped == 30

    mistake = "maxTokens: -5"
    running.edit("maxTokens: 600", mistake)
    refusal = running.says("spec.limits.maxTokens: should be")
    number = 1 + running.manifest.read_text(encoding="utf-8").splitlines().index(f"    {mistake}")
    reason = r".+ \(FieldValueInvalid\)"
    place = rf"examples/support/memory\.yaml:{number}: spec\.limits\.maxTokens: {reason}"
    assert re.fullmatch(rf"[\d:]+  {place}", refusal)
    running.says("nothing was changed")
    assert _follows(url, lambda _: True).revision == 2

    running.edit(mistake, "maxTokens: 600")
    running.says("can be used again")
    running.edit("ttl: 24h", "ttl: 48h")
    assert "in force" in running.says("revision 3")
    longer = _follows(url, lambda health: health.revision == 3)
    assert longer.expires_at is not None
    assert longer.expires_at >= before["expires_at"] + 24 * 3600 * 1000


def _limit(running: LocalMode) -> int:
    manifest = yaml.safe_load(running.manifest.read_text(encoding="utf-8"))
    return manifest["spec"]["limits"]["maxTokens"]


def _follows(url: str, followed: Callable[[Health], bool]) -> Health:
    """Wait until the tour's session, which nobody writes to, has followed, and return its state."""

    async def state() -> Health:
        async with holdfast.connect(url) as client:
            session = client.memory("support").session("tour")

            async def there() -> bool:
                return followed(await session.health())

            await until(there, "the session follows")
            return await session.health()

    return asyncio.run(state())
