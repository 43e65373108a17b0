"""What `holdfast dev` keeps between runs: who it is, and the objects with their status."""

import fcntl
import hashlib
import io
import json
import os
import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from holdfast.errors import ConfigurationError
from holdfast_operator.services.ports import Body

_EMBEDDED: Final = "embedded"


@dataclass(frozen=True, slots=True)
class Saved:
    """What was saved for one server.

    Attributes:
        port: where the embedded server listened: the line people pasted should stay good.
        objects: with their status.
    """

    port: int | None = None
    objects: tuple[Body, ...] = ()


class Directory:
    """The folder of one project, `.holdfast`, or nothing at all for a run that leaves nothing.

    Args:
        path: made if absent; None keeps everything in this process.

    Attributes:
        cluster: what tells this folder's objects from those of any other, and of any cluster.
        killed: the run before was not stopped in order, and its server may still be ending.
    """

    def __init__(self, path: Path | None, *, cluster: str, killed: bool = False) -> None:
        self._path = path
        self.cluster = cluster
        self.killed = killed

    @property
    def data(self) -> Path | None:
        """Where the embedded server keeps its data."""
        return self._path / "valkey" if self._path is not None else None

    @property
    def sentence(self) -> str:
        """Where the data are, as the end of a sentence."""
        return f"kept in {self._path}" if self._path is not None else "nothing is kept"

    def load(self, place: str | None) -> Saved:
        """Return what was saved for a server.

        Args:
            place: of the server; None is the embedded one.

        Raises:
            ConfigurationError: the file was changed by somebody.
        """
        file = self._file(place)
        if file is None or not file.exists():
            return Saved()
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            return Saved(found["port"], tuple(found["objects"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigurationError(
                f"{file} cannot be read: remove it. The sessions stay; `holdfast dev` no longer knows "
                "which manifests it had"
            ) from None

    def save(self, place: str | None, port: int | None, objects: Iterable[Body]) -> None:
        """Save the objects, at once or not at all."""
        file = self._file(place)
        if file is None:
            return
        text = json.dumps({"port": port, "objects": list(objects)}, indent=1)
        fresh = file.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(file)

    def _file(self, place: str | None) -> Path | None:
        if self._path is None:
            return None
        name = _EMBEDDED if place is None else hashlib.sha256(place.encode()).hexdigest()[:12]
        return self._path / f"objects-{name}.json"


@contextmanager
def opened(path: Path | None) -> Generator[Directory]:
    """Take the folder for this process.

    Raises:
        ConfigurationError: another process has it, or it cannot be made.
    """
    if path is None:
        yield Directory(None, cluster=str(uuid.uuid4()))
        return
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = io.FileIO(os.open(path / "dev.lock", os.O_RDWR | os.O_CREAT, 0o600), "r+")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be used: {error.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"{path} is in use by another `holdfast dev` (process {_pid(lock) or 'starting'}): stop "
                "it, or give another --directory"
            ) from None
        killed = bool(_pid(lock))
        _write(lock, str(os.getpid()))
        try:
            yield Directory(path, cluster=_cluster(path), killed=killed)
        finally:
            _write(lock, "")


def _cluster(path: Path) -> str:
    """Return the folder's own id, made with the folder."""
    ignore, file = path / ".gitignore", path / "cluster"
    if not ignore.exists():
        ignore.write_text(
            "*\n", encoding="utf-8"
        )  # people's conversations are not for a repository
    try:
        return str(uuid.UUID(file.read_text(encoding="utf-8").strip()))
    except (OSError, ValueError):
        made = str(uuid.uuid4())
        fresh = file.with_suffix(".new")
        fresh.write_text(f"{made}\n", encoding="utf-8")
        fresh.replace(file)
        return made


def _pid(lock: io.FileIO) -> str:
    lock.seek(0)
    return cast("bytes", lock.read(32)).decode(errors="replace").strip()


def _write(lock: io.FileIO, text: str) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(text.encode())
