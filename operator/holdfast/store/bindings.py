"""Bindings as a workload finds them: folders of files under `SERVICE_BINDING_ROOT` (servicebinding.io).

The kubelet renews the files while the program runs: it writes a new folder and then turns the link
`..data` to it. So what may change is read again where it is used: the login with every new connection,
the authority's certificate likewise, the memories when one is asked for that is not there.

An error names files, never what is in them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from holdfast.errors import ConfigurationError, MemoryNotFound
from holdfast.keys import key_prefix, memory_address
from holdfast.store.addresses import Address, Login, Mode, Tls, read_nodes
from holdfast.values import Durability, MemoryAddress

ROOT: Final = "SERVICE_BINDING_ROOT"
TYPE: Final = "holdfast"

_MODES: Final = {"standalone": Mode.STANDALONE, "sentinel": Mode.SENTINEL, "cluster": Mode.CLUSTER}
_LOOKS: Final = 5  # a folder that was just replaced is looked for again


class _Entry(msgspec.Struct, forbid_unknown_fields=False):
    """A memory, as the file `memories` has it."""

    name: str
    prefix: str
    access: str
    fields: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class BoundMemory:
    """A memory that a binding lets use.

    Attributes:
        name: what the program calls it.
        address: whose it is.
        read_only: nothing may be changed.
        fields: of its key template, fixed.
    """

    name: str
    address: MemoryAddress
    read_only: bool
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Binding:
    """What one folder says.

    Attributes:
        folder: its name.
        address: of the servers, with a login that is read with every connection.
        prefix: first part of every key.
        memories: by what the program calls them.
        durability: how many replicas are to confirm what is written; None: none is asked.
    """

    folder: str
    address: Address
    prefix: str
    memories: Mapping[str, BoundMemory]
    durability: Durability | None
    reread: "Callable[[], Binding]" = field(repr=False, compare=False)

    def memory(self, name: str | None) -> BoundMemory:
        """Return a memory by its name, or the only one.

        Raises:
            MemoryNotFound: there is none of that name, or not exactly one; names those there are.
        """
        if name is None and len(self.memories) == 1:
            return next(iter(self.memories.values()))
        found = self.memories.get(name) if name is not None else None
        if found is None:
            there = ", ".join(map(repr, sorted(self.memories))) or "none"
            what = f"no memory {name!r}" if name is not None else "more than one memory: name it"
            raise MemoryNotFound(f"the binding {self.folder!r} has {what}; there are {there}")
        return found


def find_binding(root: str) -> Binding:
    """Find the one binding of ours under a directory.

    Args:
        root: of the bindings, each a folder.

    Raises:
        ConfigurationError: there is none, there are several, or the one cannot be used.
    """
    try:
        folders = sorted(path for path in Path(root).iterdir() if path.is_dir())
    except OSError:
        raise ConfigurationError(f"{ROOT} names no directory that can be read") from None
    folders = [path for path in folders if not path.name.startswith("..")]
    ours = [path for path in folders if _Files(path).get("type") == TYPE]
    if len(ours) != 1:
        looked = ", ".join(repr(path.name) for path in folders) or "no folder"
        found = "several bindings" if ours else "no binding"
        raise ConfigurationError(
            f"{found} of the type {TYPE!r} under {ROOT}, which has {looked}: give exactly one"
        )
    return _read(ours[0])


class _Files:
    """The entries of a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, name: str) -> str | None:
        """Return an entry without its last line break; None where there is no such file."""
        return self.read(name)[0]

    def read(self, *names: str) -> list[str | None]:
        """Return entries that belong together: all of them from before an update or after it.

        Raises:
            OSError: a file is there and cannot be read.
        """
        for _ in range(_LOOKS):
            data = self._data()
            found = [_text(data / name) for name in names]
            if self._data() == data:
                return found
        raise FileNotFoundError(self.path.name)

    def _data(self) -> Path:
        """Return where the files are now: a kubelet's link leads there."""
        link = self.path / "..data"
        return self.path / link.readlink() if link.is_symlink() else self.path


def _text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").removesuffix("\n")
    except FileNotFoundError:
        return None


def _read(path: Path) -> Binding:
    files = _Files(path)
    try:
        prefix, memories = _memories(files)
        address, durability = _address(files), _durability(files)
    except (OSError, UnicodeDecodeError):
        raise _unusable(path, "a file of it cannot be read") from None
    return Binding(path.name, address, prefix, memories, durability, reread=lambda: _read(path))


def _memories(files: _Files) -> tuple[str, dict[str, BoundMemory]]:
    try:
        entries = msgspec.json.decode(files.get("memories") or "", type=list[_Entry])
    except msgspec.DecodeError:
        raise _unusable(files.path, "the file 'memories' is no list of memories") from None
    found: dict[str, BoundMemory] = {}
    prefixes: set[str] = set()
    for entry in entries:
        prefix, _, place = entry.prefix.partition(":{")
        namespace, _, resource = place.partition("/")
        prefixes.add(key_prefix(prefix))
        address = memory_address(namespace, resource)
        read_only = entry.access != "ReadWrite"
        found[entry.name] = BoundMemory(entry.name, address, read_only, entry.fields)
    if len(prefixes) != 1:
        raise _unusable(files.path, "the file 'memories' names none, or of several key prefixes")
    return prefixes.pop(), found


def _address(files: _Files) -> Address:
    mode = _MODES.get((files.get("mode") or "standalone").lower())
    database = files.get("database") or "0"
    if mode is None or not (database.isascii() and database.isdigit()):
        raise _unusable(files.path, "the file 'mode' or 'database' says what cannot be")
    primary = files.get("master-name") or ""
    if mode is Mode.SENTINEL and not primary:
        raise _unusable(files.path, "the file 'master-name' is missing")
    return Address(
        mode=mode,
        nodes=read_nodes(_endpoints(files), 26379 if mode is Mode.SENTINEL else 6379),
        login=_login(files, "username", "password"),
        database=int(database),
        tls=_tls(files),
        primary=primary,
        sentinel_login=_login(files, "sentinel-username", "sentinel-password"),
    )


def _durability(files: _Files) -> Durability | None:
    replicas, wait = files.read("replicas", "wait")
    if not replicas:
        return None
    if not (replicas.isascii() and replicas.isdigit()):
        raise _unusable(files.path, "the file 'replicas' is no number")
    return Durability(int(replicas), wait or Durability().timeout)


def _endpoints(files: _Files) -> str:
    endpoints, host, port = files.read("endpoints", "host", "port")
    if endpoints:
        return endpoints
    if not host:
        raise _unusable(files.path, "the files 'endpoints' and 'host' are missing")
    return f"{host}:{port}" if port else host


def _login(files: _Files, username: str, password: str) -> Login:
    def source() -> tuple[str | None, str | None]:
        name, secret = files.read(username, password)
        return name or None, secret or None

    return Login(*source(), source=source)


def _tls(files: _Files) -> Tls | None:
    """TLS is on where there is an authority to trust, or where the address says so."""
    authority = files.path / "ca.crt"
    ca = str(authority) if authority.exists() else None
    uri = files.get("uri") or ""
    if ca is None and not uri.startswith("rediss"):
        return None
    return Tls(ca=ca, server_name=files.get("server-name") or None)


def _unusable(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"the binding {path.name!r} cannot be used: {why}")
