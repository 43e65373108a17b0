"""The two images that ours is built on in tests, as trees of files.

`make_full` makes Debian with Python and a shell, by debootstrap; `make_small` takes out of it what Python
needs and nothing else: no shell, no pip, no package manager, and no compiled files of the standard
library, as in the official images of Python. dpkg's entries of what is in it are kept in
`var/lib/dpkg/status.d`, where scanners look in images that have no dpkg.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

SUITE = "bookworm"
_PACKAGES = ("ca-certificates", "netbase", "python3", "python3-venv")
_ROOTS = ("base-files", "ca-certificates", "libstdc++6", "netbase", "python3")
# What packages depend on for their installation alone.
_INSTALLERS = frozenset({"awk", "debconf", "dpkg", "libpam0g"})
# Made when packages are installed, so in no package's list.
_MADE = ("etc/group", "etc/ld.so.cache", "etc/nsswitch.conf", "etc/passwd", "etc/ssl/certs")
_MERGED = ("bin", "lib", "lib64", "sbin")


class BaseUnavailable(Exception):
    """debootstrap failed; the message ends with its last lines."""


def make_full(tree: Path, environ: Mapping[str, str]) -> None:
    """Make Debian with Python in an empty folder, or one to be made.

    The archive is `HOLDFAST_DEBIAN_MIRROR`, if that is set, else debootstrap's own default.
    """
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}"]
    mirror = environ.get("HOLDFAST_DEBIAN_MIRROR")
    command += [SUITE, str(tree), *([mirror] if mirror else [])]
    done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise BaseUnavailable(f"debootstrap failed:\n{lines}")
    for rest in ("var/cache/apt/archives", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(tree / rest)
        (tree / rest).mkdir()


def make_small(full: Path, tree: Path) -> None:
    """Copy what Python needs out of what `make_full` made."""
    for name in _MERGED:
        (tree / "usr" / name).mkdir(parents=True)
        (tree / name).symlink_to(f"usr/{name}")
    entries = _entries(full)
    for name in sorted(_needed(entries)):
        for path in _files_of(full, name):
            _copy(full, tree, path)
        entry = tree / "var/lib/dpkg/status.d" / name
        entry.parent.mkdir(parents=True, exist_ok=True)
        entry.write_text(f"{entries[name]}\n", encoding="utf-8")
    for made in _MADE:
        for path in (Path(made), *_below(full, made)):
            _copy(full, tree, path)


def _entries(full: Path) -> dict[str, str]:
    text = (full / "var/lib/dpkg/status").read_text(encoding="utf-8")
    entries = [entry for entry in text.split("\n\n") if entry.strip()]
    return {_field(entry, "Package"): entry for entry in entries}


def _field(entry: str, name: str) -> str:
    found = re.search(rf"(?m)^{name}: (.*)$", entry)
    return found[1] if found else ""


def _needed(entries: Mapping[str, str]) -> set[str]:
    found: set[str] = set()
    waiting = list(_ROOTS)
    while waiting:
        name = waiting.pop()
        if name in found or name in _INSTALLERS or name not in entries:
            continue
        found.add(name)
        for field in ("Depends", "Pre-Depends"):
            # The first alternative is what debootstrap installs.
            first = (each.partition("|")[0] for each in _field(entries[name], field).split(","))
            waiting += [words[0].partition(":")[0] for each in first if (words := each.split())]
    return found


def _files_of(full: Path, package: str) -> Iterator[Path]:
    [names] = [
        *(full / "var/lib/dpkg/info").glob(f"{package}.list"),
        *(full / "var/lib/dpkg/info").glob(f"{package}:*.list"),
    ]
    for line in names.read_text(encoding="utf-8").splitlines():
        path = Path(line.lstrip("/"))
        documentation = path.is_relative_to("usr/share/man") or path.is_relative_to("usr/share/doc")
        if line != "/." and not (documentation and path.name != "copyright"):
            yield path


def _below(full: Path, folder: str) -> Iterator[Path]:
    return (path.relative_to(full) for path in sorted((full / folder).rglob("*")))


def _copy(full: Path, tree: Path, path: Path) -> None:
    source, target = full / path, tree / path
    if not os.path.lexists(source) or (os.path.lexists(target) and not source.is_dir()):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir() and not source.is_symlink():
        target.mkdir(exist_ok=True)
        shutil.copystat(source, target)
    elif not os.path.lexists(target):
        shutil.copy2(source, target, follow_symlinks=False)
