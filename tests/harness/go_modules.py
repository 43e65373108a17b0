"""Programs built from the Go modules beside this file: by one process at a time, always the same build."""

import contextlib
import fcntl
import platform
import re
import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path

_ALONE = {"GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
"""Keeps the caller's flags and workspace out of a build, and an old Go from fetching a new one by itself."""


class BuildFailed(Exception):
    """Go could not build a program; the text is the end of what Go said."""


class GoModule:
    """A folder with a `go.mod`, which pins everything that its programs are built from.

    Args:
        name: of the folder.
    """

    def __init__(self, name: str) -> None:
        self._folder = Path(__file__).parent / name

    def pinned(self, pattern: str) -> str:
        """Return the group of a regular expression that is found in `go.mod`."""
        found = re.search(pattern, (self._folder / "go.mod").read_text(encoding="utf-8"))
        if found is None:
            raise AssertionError(f"tests/harness/{self._folder.name}/go.mod has no {pattern}")
        return found[1]

    def run(self, *arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run `go` in the folder, for the platform of this machine."""
        system, machine = build_platform()
        return subprocess.run(
            ["go", *arguments],
            cwd=self._folder,
            env={**environ, **_ALONE, "GOOS": system, "GOARCH": machine},
            capture_output=True,
            text=True,
            check=False,
        )

    def build(
        self, package: str, program: Path, *, stamps: Mapping[str, str], environ: Mapping[str, str]
    ) -> None:
        """Build a program under a temporary name, then rename it: nobody ever sees half a file.

        Args:
            package: its path of import.
            program: where it is put.
            stamps: variables of packages that get a value.
            environ: of the build.

        Raises:
            BuildFailed: Go could not build it.
        """
        # The name does not depend on the process: what a killed build left behind is overwritten.
        unfinished = program.with_name(f".{program.name}.unfinished")
        linker = " ".join(["-s -w", *(f"-X {name}={value}" for name, value in stamps.items())])
        fixed = ("-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", linker)
        done = self.run("build", *fixed, "-o", str(unfinished), package, environ=environ)
        if done.returncode != 0:
            raise BuildFailed("\n".join(done.stderr.splitlines()[-20:]))
        unfinished.replace(program)


def build_platform() -> tuple[str, str]:
    """Return what Go calls this machine's system and processor: GOOS and GOARCH."""
    machine = platform.machine().lower()
    return platform.system().lower(), {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


@contextlib.contextmanager
def building_in(folder: Path) -> Generator[None]:
    """Make a folder of the cache, and have it for oneself: others wait until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # closing the file gives it back
        yield
