"""The manifests that people wrote: found, read, and checked as an API server would."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

from pydantic import ConfigDict

from holdfast.errors import ConfigurationError, PolicyInvalid
from holdfast.policy import Cause, transition_fault
from holdfast.policy.documents import Document, parse_documents
from holdfast.policy.faults import Fault
from holdfast.policy.fields import Label, ObjectName
from holdfast.policy.rules import Part, Reading
from holdfast_cli.local.faults import validate
from holdfast_operator.resources import (
    MemoryBackend,
    MemoryBinding,
    MemoryErasure,
    MemoryResource,
    Resource,
)
from holdfast_operator.services.ports import Body

NAMESPACE: Final = "local"
"""The namespace of a manifest that names none."""
API_VERSION: Final = "holdfast.dev/v1alpha1"
BACKEND: Final = "MemoryBackend"
RESOURCE: Final = "MemoryResource"
ERASURE: Final = "MemoryErasure"

Signature = Mapping[Path, tuple[int, int, int]]
"""Files with what changes when their content does."""

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_REPLACED: Final = frozenset({"apiVersion", "kind", "metadata", "status"})
_MODELS: Final[Mapping[str, type[Resource]]] = {
    BACKEND: MemoryBackend,
    RESOURCE: MemoryResource,
    "MemoryBinding": MemoryBinding,
    ERASURE: MemoryErasure,
}
_CARRIED_OUT: Final = frozenset({BACKEND, RESOURCE, ERASURE})


class Key(NamedTuple):
    """Which object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        """Return `namespace/name`, and the kind unless it is a memory's."""
        name = f"{self.namespace}/{self.name}"
        return name if self.kind == RESOURCE else f"{self.kind} {name}"


class _Placed(Part):
    """The metadata that say which object it is."""

    model_config = ConfigDict(extra="ignore")

    name: ObjectName
    namespace: Label = NAMESPACE


class _Envelope(Part):
    """What every manifest has, whatever its kind."""

    model_config = ConfigDict(extra="ignore")

    api_version: Literal["holdfast.dev/v1alpha1"]
    kind: Literal["MemoryBackend", "MemoryResource", "MemoryBinding", "MemoryErasure"]
    metadata: _Placed


@dataclass(frozen=True, slots=True)
class Manifest:
    """One object as somebody wrote it.

    Attributes:
        key: which object.
        body: with its namespace, and without what only a cluster may say.
        file: where it stands.
        document: knows the lines.
    """

    key: Key
    body: Body
    file: str
    document: Document = field(repr=False)

    @property
    def line(self) -> int:
        """The line its name stands on."""
        return self.document.line_of(("metadata", "name"))

    def error(self, fault: Fault) -> PolicyInvalid:
        """Return a fault of this object with its place."""
        return fault.error(self.file, self.document.line_of(fault.steps))


@dataclass(frozen=True, slots=True)
class Manifests:
    """What all files say together.

    Attributes:
        objects: those that are carried out.
        later: those of kinds that local mode does not carry out.
        faults: all that is wrong, with file and line.
    """

    objects: Mapping[Key, Manifest]
    later: tuple[Manifest, ...]
    faults: tuple[PolicyInvalid, ...]


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the manifests' files: those named, and those in the named directories, each once.

    What is not there is left out.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        for file in _in_directory(path) if path.is_dir() else [path]:
            if file.is_file():
                found.setdefault(file.resolve(), file)
    return list(found.values())


def require_files(paths: Iterable[Path]) -> None:
    """Make sure that every path leads to a manifest.

    Raises:
        ConfigurationError: a path is not there, or a directory holds none.
    """
    for path in paths:
        if not path.exists():
            raise ConfigurationError(f"{path}: no such file or directory")
        if not find_files([path]):
            raise ConfigurationError(f"{path}: no manifest in it (*.yaml, *.yml, *.json)")


def signature(files: Iterable[Path]) -> Signature:
    """Return what changes when a file is edited, added or removed."""
    found: dict[Path, tuple[int, int, int]] = {}
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            continue
        found[file] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found


def read_manifests(files: Sequence[Path]) -> Manifests:
    """Read and check files; never raises: all that is wrong is in `faults`."""
    objects: dict[Key, Manifest] = {}
    later: list[Manifest] = []
    faults: list[PolicyInvalid] = []
    for file in files:
        for found in _read_file(file):
            if isinstance(found, PolicyInvalid):
                faults.append(found)
            elif found.key.kind not in _CARRIED_OUT:
                later.append(found)
            elif (first := objects.get(found.key)) is not None:
                message = f"{found.key} is declared already, at {first.file}:{first.line}"
                faults.append(found.error(Fault(("metadata", "name"), Cause.DUPLICATE, message)))
            else:
                objects[found.key] = found
    return Manifests(objects, tuple(later), tuple(faults))


def immutable_faults(manifests: Manifests, known: Mapping[Key, Body]) -> tuple[PolicyInvalid, ...]:
    """Return the edits of objects that are known already which no edit may make."""
    found: list[PolicyInvalid] = []
    for key, manifest in manifests.objects.items():
        if key in known:
            model = _MODELS[key.kind]
            old = model.read(known[key], reading=Reading.STORED)
            fault = transition_fault(model.from_body(manifest.body), old)
            if fault is not None:
                found.append(manifest.error(fault))
    return tuple(found)


def _in_directory(path: Path) -> list[Path]:
    return sorted(
        file
        for file in path.iterdir()
        if file.suffix in _SUFFIXES and not file.name.startswith(".")
    )


def _read_file(file: Path) -> Iterator[Manifest | PolicyInvalid]:
    name = os.fspath(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return  # removed since it was found
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        yield Fault((), Cause.INVALID, f"the file cannot be read: {why}").error(name)
        return
    try:
        documents = parse_documents(text, name)
    except PolicyInvalid as error:
        yield error
        return
    for document in documents:
        yield from _read_document(document, name)


def _read_document(document: Document, file: str) -> Iterator[Manifest | PolicyInvalid]:
    duplicate = document.duplicate()
    if duplicate is not None:
        fault, line = duplicate
        yield fault.error(file, line)
        return
    envelope = validate(_Envelope, document.value)
    if isinstance(envelope, list):
        yield from _errors(document, file, envelope)
        return
    fields = cast("Mapping[str, Any]", document.value)
    placed = envelope.metadata
    body = {
        "apiVersion": envelope.api_version,
        "kind": envelope.kind,
        "metadata": {
            **{
                name: fields["metadata"][name]
                for name in ("labels", "annotations")
                if fields["metadata"].get(name)
            },
            "name": placed.name,
            "namespace": placed.namespace,
        },
        **{name: value for name, value in fields.items() if name not in _REPLACED},
    }
    model = _MODELS.get(envelope.kind)
    if model is not None:
        checked = validate(model, body)
        if isinstance(checked, list):
            yield from _errors(document, file, checked)
            return
    yield Manifest(Key(envelope.kind, placed.namespace, placed.name), body, file, document)


def _errors(document: Document, file: str, faults: Iterable[Fault]) -> Iterator[PolicyInvalid]:
    placed = [(document.line_of(fault.steps), fault) for fault in faults]
    for line, fault in sorted(placed, key=lambda pair: pair[0]):
        yield fault.error(file, line)
