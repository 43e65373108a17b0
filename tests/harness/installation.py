"""The project as somebody has it who installed it: from a wheel, into an environment of its own."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]

_OURS = re.compile(r"(?:PYTHON|COVERAGE|MAKE|MFLAGS|HOLDFAST|VIRTUAL_ENV)")
"""Variables that tell a program about this run of the tests."""


class Installation:
    """A new virtual environment, whose programs are first on the path.

    Nothing of this source tree is in it but what a wheel of it brings. `uv` puts the packages there,
    which reads the same wheels as pip in a twentieth of the time; where it finds none, because only
    pip was told where to look, pip does it.

    Args:
        directory: an empty one, or one to be made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._wheel: Path | None = None
        self._venv = directory / "venv"
        command: list[str | Path] = [sys.executable, "-m", "venv", "--without-pip", self._venv]
        _run(command, cwd=ROOT, environ=_environ())

    @property
    def environ(self) -> dict[str, str]:
        """The variables of a shell in which the environment is active."""
        environ = _environ()
        path = self._venv / "bin"
        return environ | {"PATH": f"{path}{os.pathsep}{environ.get('PATH', os.defpath)}"}

    def install(self, command: str) -> None:
        """Carry out a `pip install` of the checkout, with or without extras, from its wheel.

        Args:
            command: `pip install .` or `pip install '.[extra]'`.
        """
        *start, requirement = shlex.split(command)
        assert start == ["pip", "install"], command
        assert re.fullmatch(r"\.(\[\w+\])?", requirement), command
        address = f"holdfast{requirement[1:]} @ {self._built_wheel().as_uri()}"
        python = self._venv / "bin/python"
        with_uv = ["uv", "pip", "install", "--quiet", "--python", python, address]
        with_pip = ["pip", "--python", python, "install", "--quiet", address]
        try:
            _run([sys.executable, "-m", *with_uv], cwd=self._directory, environ=_environ())
        except AssertionError:
            _run([sys.executable, "-m", *with_pip], cwd=self._directory, environ=_environ())

    def shell(self, text: str, *, cwd: Path, variables: Mapping[str, str] | None = None) -> str:
        """Run commands as a shell does and return what they print.

        Args:
            text: the commands; the first that fails is the last.
            cwd: where.
            variables: more of them for the environment.

        Raises:
            AssertionError: one failed; says what was printed.
        """
        return _run(
            ["sh", "-ec", text], cwd=cwd, environ=self.environ | dict(variables or {}), timeout=120
        )

    def _built_wheel(self) -> Path:
        if self._wheel is None:
            to = self._directory / "wheel"
            # With the tools that the tests run with, as the tree itself was installed.
            command = [sys.executable, "-m", "hatchling", "build", "--target=wheel"]
            _run([*command, f"--directory={to}"], cwd=ROOT, environ=_environ())
            (self._wheel,) = to.glob("*.whl")
        return self._wheel


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not _OURS.match(name)}


def _run(
    command: list[str | Path], *, cwd: Path, environ: Mapping[str, str], timeout: float = 600
) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )
    return done.stdout
