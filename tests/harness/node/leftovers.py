"""What a node leaves on this machine when it could not end in order, and how it is removed.

Namespaces end with their processes, and those with the process that started them. What can stay is a
directory and cgroups, both called `holdfast-node-<8 hex digits>`; a lock in the directory tells those
of a run that goes on.
"""

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import IO

PREFIX = "holdfast-node-"
_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{8}}")
_CGROUPS = Path("/sys/fs/cgroup")


def new_directory() -> tuple[Path, IO[str]]:
    """Make the directory of a new node, and hold its lock until the file that is returned is closed."""
    directory = Path(tempfile.gettempdir()) / f"{PREFIX}{secrets.token_hex(4)}"
    directory.mkdir(mode=0o755)
    lock = (directory / "lock").open("w", encoding="utf-8")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return directory, lock


def sweep() -> list[str]:
    """Remove what former runs left that were killed; return the names of their nodes."""
    gone: list[str] = []
    for directory in sorted(Path(tempfile.gettempdir()).glob(f"{PREFIX}*")):
        if not _NAME.fullmatch(directory.name):
            continue
        with (directory / "lock").open("a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # of a run that goes on
            remove(directory)
            gone.append(directory.name)
    return gone


def remove(directory: Path) -> None:
    """Remove a node's cgroups and its directory. Its namespaces have ended, or are about to."""
    for folder in cgroups(directory.name):
        _remove_cgroup(folder)
    _remove_directory(directory)


def cgroups(name: str) -> list[Path]:
    """The cgroups of a node: one in each hierarchy, or the only one."""
    places = [_CGROUPS / name, *_CGROUPS.glob(f"*/{name}")]
    return [place for place in places if place.is_dir()]


def _remove_cgroup(folder: Path, *, deadline: float = 30) -> None:
    end = time.monotonic() + deadline
    while folder.exists():
        for parent, children, _ in os.walk(folder, topdown=False):
            for child in children:
                with contextlib.suppress(OSError):
                    (Path(parent) / child).rmdir()
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > end:
                raise
            _kill(folder)
            time.sleep(0.05)


def _kill(folder: Path) -> None:
    """End what still is in a cgroup of a node, by its id."""
    for file in folder.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            for pid in file.read_text(encoding="ascii").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def _remove_directory(directory: Path, *, deadline: float = 30) -> None:
    """Remove it, the lock last: who holds it may still write while it is ended."""
    end = time.monotonic() + deadline
    while True:
        for entry in directory.iterdir():
            if entry.name != "lock":
                _remove_entry(entry)
        try:
            (directory / "lock").unlink(missing_ok=True)
            directory.rmdir()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return


def _remove_entry(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)
