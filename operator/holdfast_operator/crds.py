"""The CustomResourceDefinitions, made from the models.

python -m holdfast_operator.crds write     writes `crds/*.yaml`, the chart's copies, and `docs/reasons.md`
python -m holdfast_operator.crds check     says which of them differ from the models, and fails
"""

import argparse
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from holdfast_operator.reasons import reasons_document
from holdfast_operator.resources import (
    MemoryBackend,
    MemoryBinding,
    MemoryErasure,
    MemoryResource,
    Resource,
)
from holdfast_operator.schema import Schema, object_schema, rule_schemas
from holdfast_operator.status import PENDING

GROUP: Final = "holdfast.dev"
VERSION: Final = "v1alpha1"
CHART: Final = Path("charts/holdfast/files/crds")
HEADER: Final = "# Written by `python -m holdfast_operator.crds write`; do not edit.\n"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`. A priority above 0 shows it with `-o wide` only."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0

    def schema(self) -> Schema:
        """Return the column as a CRD has it."""
        column: Schema = {"name": self.name, "type": self.type, "jsonPath": self.path}
        return {**column, "priority": self.priority} if self.priority else column


@dataclass(frozen=True, slots=True)
class Definition:
    """What a CRD says about a kind beside its schema."""

    model: type[Resource]
    short_name: str
    columns: tuple[Column, ...]

    @property
    def kind(self) -> str:
        """The kind, such as `MemoryResource`."""
        return self.model.__name__

    @property
    def plural(self) -> str:
        """The name in paths, such as `memoryresources`."""
        return f"{self.kind.lower()}s"


_READY: Final = ".status.conditions[?(@.type=='Ready')]"

DEFINITIONS: Final = (
    Definition(
        model=MemoryBackend,
        short_name="membackend",
        columns=(
            Column("Ready", f"{_READY}.status"),
            Column("Reason", f"{_READY}.reason"),
            Column("Mode", ".spec.mode"),
            Column("Product", ".status.server.product", priority=1),
            Column("Version", ".status.server.version"),
            Column("Sessions", ".status.sessions", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    ),
    Definition(
        model=MemoryResource,
        short_name="memres",
        columns=(
            Column("Ready", f"{_READY}.status"),
            Column("Reason", f"{_READY}.reason"),
            Column("Backend", ".spec.backendRef.name"),
            Column("Type", ".status.type"),
            Column("TTL", ".spec.retention.ttl"),
            Column("Sessions", ".status.usage.sessions", "integer"),
            Column("Tokens", ".status.usage.tokens", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    ),
    Definition(
        model=MemoryBinding,
        short_name="membind",
        columns=(
            Column("Ready", f"{_READY}.status"),
            Column("Reason", f"{_READY}.reason"),
            Column("ServiceAccount", ".spec.serviceAccountName"),
            Column("Secret", ".status.binding.name"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    ),
    Definition(
        model=MemoryErasure,
        short_name="memerase",
        columns=(
            Column("Ready", f"{_READY}.status"),
            Column("Reason", f"{_READY}.reason"),
            Column("Memory", ".spec.memoryRef.name"),
            Column("Dry run", ".spec.dryRun", "boolean"),
            Column("Sessions", ".status.receipt.sessions", "integer"),
            Column("Messages", ".status.receipt.messages", "integer"),
            Column("Completed", ".status.receipt.completedAt", "date"),
        ),
    ),
)


def custom_resource_definition(definition: Definition) -> Schema:
    """Return the CRD of a kind."""
    kind = definition.kind
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{definition.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": definition.plural,
                "singular": kind.lower(),
                "shortNames": [definition.short_name],
                "categories": ["holdfast"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [item.schema() for item in definition.columns],
                    "schema": {"openAPIV3Schema": _root(definition.model)},
                }
            ],
        },
    }


def _root(model: type[Resource]) -> Schema:
    """Return the schema of a whole object; of its metadata a CRD may only speak about the name."""
    fields = model.model_fields
    properties: dict[str, Schema] = {
        "apiVersion": {"type": "string", "description": "Version of the API."},
        "kind": {"type": "string", "description": "Kind of the object."},
        "metadata": {"type": "object"},
    }
    for name in ("spec", "status"):
        part: Any = fields[name].annotation
        properties[name] = {"description": fields[name].description, **object_schema(part)}
    # Written out: nothing may count as healthy before the operator has looked at it.
    properties["status"]["default"] = {
        "observedGeneration": 0,
        "conditions": [PENDING.model_dump(mode="json", exclude_none=True)],
    }
    root: Schema = {
        "type": "object",
        "description": model.__doc__,
        "required": ["spec"],
        "properties": properties,
    }
    if model.rules:
        # A rule can blame a field only if the schema names it.
        properties["metadata"]["properties"] = {"name": {"type": "string"}}
        root["x-kubernetes-validations"] = rule_schemas(model.rules)
    return root


class _Dumper(yaml.SafeDumper):
    """The safe dumper without anchors: a reader of a CRD wants to see every default in place."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def crd_text(definition: Definition) -> str:
    """Return the CRD of a kind as YAML."""
    document = custom_resource_definition(definition)
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100, allow_unicode=True)
    return HEADER + text


def generated_files(directory: Path, docs: Path, chart: Path) -> Mapping[Path, str]:
    """Return the files made from the models and their texts.

    Args:
        directory: the folder of the CRDs.
        docs: the folder of the documentation.
        chart: the folder of the chart's CRDs: a chart can use no file from outside.
    """
    crds = {
        folder / f"{GROUP}_{definition.plural}.yaml": crd_text(definition)
        for folder in (directory, chart)
        for definition in DEFINITIONS
    }
    return {**crds, docs / "reasons.md": reasons_document()}


def write(files: Mapping[Path, str]) -> None:
    """Write the files, and their folders when they are missing."""
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def differences(files: Mapping[Path, str]) -> list[str]:
    """Return a unified diff for each file that is missing or not as it should be."""
    found: list[str] = []
    for path, text in files.items():
        present = path.read_text(encoding="utf-8") if path.exists() else ""
        if present != text:
            lines = difflib.unified_diff(
                present.splitlines(),
                text.splitlines(),
                str(path),
                f"{path} as it should be",
                "",
                "",
            )
            found.append("\n".join(lines))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 when `check` finds a difference."""
    parser = argparse.ArgumentParser(prog="python -m holdfast_operator.crds")
    parser.add_argument("command", choices=("write", "check"))
    parser.add_argument("--directory", type=Path, default=Path("crds"), help="default: crds")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="default: docs")
    parser.add_argument("--chart", type=Path, default=CHART, help=f"default: {CHART}")
    options = parser.parse_args(arguments)
    files = generated_files(options.directory, options.docs, options.chart)
    if options.command == "write":
        write(files)
        return 0
    found = differences(files)
    for text in found:
        sys.stdout.write(f"{text}\n")
    if found:
        sys.stdout.write("run: python -m holdfast_operator.crds write\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
