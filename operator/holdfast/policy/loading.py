"""Reading a policy from where people keep it: a manifest or its bare spec, a file or a mapping."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast

from pydantic import ValidationError

from holdfast.errors import ConfigurationError
from holdfast.policy.faults import Cause, Fault, Step, first_fault, json_type
from holdfast.policy.manifest import Manifest, ResourceSpec
from holdfast.policy.model import Policy
from holdfast.policy.rules import Part, Reading

PolicySource: TypeAlias = Policy | Mapping[str, Any] | str | Path
"""What a policy can be given as: itself, a mapping in the manifest's form, or a file's path."""

if TYPE_CHECKING:
    from holdfast.policy.documents import Document

P = TypeVar("P", bound=Part)

_ENVELOPE: Final = frozenset({"apiVersion", "kind", "metadata", "spec"})


class _FaultFound(Exception):
    """Carries a fault to where the file and its lines are known."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


def load_policy(source: PolicySource) -> tuple[str | None, Policy]:
    """Read a policy.

    Args:
        source: a `Policy`; a mapping that is a MemoryResource manifest or its bare spec; or the
            path of a YAML file with either. A file may hold further documents of other kinds.

    Returns:
        The manifest's `metadata.name`, None when there is none, and the policy.

    Raises:
        PolicyInvalid: the first fault, with file and line when it came from a file.
        ConfigurationError: the file cannot be read.
    """
    if isinstance(source, Policy):
        return None, source
    if isinstance(source, str | Path):
        return _load_file(Path(source))
    try:
        return _read(source)
    except _FaultFound as found:
        raise found.fault.error() from None


def _load_file(path: Path) -> tuple[str | None, Policy]:
    from holdfast.policy.documents import parse_documents  # noqa: PLC0415 - it loads the parser

    file = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the policy file {file} cannot be read: {error.strerror or type(error).__name__}"
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the policy file {file} is not UTF-8") from None
    document = _choose(parse_documents(text, file), file)
    duplicate = document.duplicate()
    if duplicate is not None:
        fault, line = duplicate
        raise fault.error(file, line)
    try:
        return _read(document.value)
    except _FaultFound as found:
        raise found.fault.error(file, _line(document, found.fault.steps)) from None


def _choose(documents: "list[Document]", file: str) -> "Document":
    """Return the one MemoryResource among the documents, or else the only document."""
    resources = [
        document
        for document in documents
        if isinstance(document.value, dict)
        and cast("dict[str, Any]", document.value).get("kind") == "MemoryResource"
    ]
    match resources or documents:
        case [document]:
            return document
        case _:
            message = f"a file must hold exactly one MemoryResource; this has {len(resources)}"
            raise Fault((), Cause.INVALID, message).error(file)


def _line(document: "Document", steps: tuple[Step, ...]) -> int:
    """Return the line of a field; a bare spec has no `spec` around it."""
    value: object = document.value
    bare = isinstance(value, dict) and not _ENVELOPE & cast("dict[str, Any]", value).keys()
    return document.line_of(steps[1:] if bare and steps[:1] == ("spec",) else steps)


def _read(document: object) -> tuple[str | None, Policy]:
    """Read a manifest, or a bare spec: the latter has none of the manifest's four fields."""
    if not isinstance(document, Mapping):
        message = f'must be of type object: "{json_type(document)}"'
        raise _FaultFound(Fault((), Cause.TYPE_INVALID, message))
    fields = cast("Mapping[str, Any]", document)
    if not _ENVELOPE & fields.keys():
        return None, _read_spec(fields)
    manifest = _validate(Manifest, fields)
    return manifest.metadata.name, manifest.spec.policy


def _read_spec(spec: Mapping[str, Any]) -> Policy:
    """Read a spec without a manifest around it: the backend may be left out."""
    if "backendRef" in spec:
        return _validate(ResourceSpec, spec, "spec").policy
    return _validate(Policy, spec, "spec")


def _validate(model: type[P], value: object, *prefix: Step) -> P:
    try:
        return model.model_validate(value, context=Reading.MANIFEST, by_alias=True, by_name=False)
    except ValidationError as error:
        raise _FaultFound(first_fault(error, prefix)) from None
