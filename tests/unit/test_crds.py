import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from annotated_types import MaxLen
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from holdfast.errors import PolicyInvalid
from holdfast.policy import Part, Quantity, transition_fault
from holdfast.policy.rules import Unique
from holdfast_operator import crds
from holdfast_operator.reasons import REASONS, reasons_document
from holdfast_operator.resources import (
    ConditionStatus,
    ConditionType,
    CredentialsReason,
    MemoryResource,
    NotInForceReason,
    PolicyReason,
    ReadyReason,
    RiskReason,
)
from holdfast_operator.schema import SchemaError, object_schema
from tests.fixtures.cases import ROOT, Case, Expected, case_name, invalid_cases, valid_cases

KINDS = {definition.kind: definition.model for definition in crds.DEFINITIONS}
# YAML alone can say a key twice; a mapping has lost that.
MAPPINGS = [case for case in invalid_cases() if case.name != "duplicate-field"]

Schema = dict[str, Any]


def answer(case: Case) -> Expected | None:
    """Return what the models say to the documents of a fixture."""
    try:
        objects = [KINDS[case.kind].from_body(document) for document in case.documents]
    except PolicyInvalid as error:
        return Expected(error.path, error.reason, error.message)
    if len(objects) == 1:
        return None
    old, new = objects
    fault = transition_fault(new, old)
    return None if fault is None else Expected(fault.path, fault.cause.value, fault.message)


def walk(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every schema inside a schema, itself first."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    if "items" in schema:
        yield from walk(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from walk(schema["additionalProperties"], f"{path}{{}}")


def root_schema(definition: crds.Definition) -> Schema:
    document = crds.custom_resource_definition(definition)
    return document["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def every_schema() -> list[tuple[str, Schema]]:
    return [
        (f"{definition.kind}{path}", schema)
        for definition in crds.DEFINITIONS
        for path, schema in walk(root_schema(definition))
    ]


def properties() -> list[tuple[str, Schema]]:
    """Every field of a spec or status, without what the API server itself fills in."""
    return [
        (path, schema)
        for path, schema in every_schema()
        if re.search(r"\.(spec|status)\.", path) and not path.endswith(("[]", "{}"))
    ]


# --- bodies


@pytest.mark.parametrize("case", MAPPINGS, ids=case_name)
def test_a_fault_is_named_as_the_api_server_names_it(case: Case) -> None:
    assert answer(case) == case.expected


@pytest.mark.parametrize("case", valid_cases(), ids=case_name)
def test_a_valid_manifest_is_a_body(case: Case) -> None:
    assert answer(case) is None


def test_a_change_of_anything_else_is_allowed() -> None:
    by_name = {case.name: case for case in valid_cases()}
    old = MemoryResource.from_body(by_name["minimal"].documents[0])
    body = by_name["minimal"].documents[0]
    body["spec"]["limits"] = {"maxMessages": 5}
    assert transition_fault(MemoryResource.from_body(body), old) is None


def body_of_an_api_server() -> dict[str, Any]:
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryResource",
        "metadata": {
            "name": "support",
            "namespace": "team-a",
            "uid": "0a1b",
            "generation": 3,
            "resourceVersion": "77",
            "creationTimestamp": None,
            "labels": None,
            "annotations": {"holdfast.dev/paused": "true"},
            "managedFields": [{"manager": "kubectl"}],
            "finalizers": ["holdfast.dev/sessions"],
        },
        "spec": {"backendRef": {"name": "shared"}, "retention": {"ttl": "24h"}},
        "status": {
            "observedGeneration": 2,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "ReasonOfALaterVersion",
                    "message": "",
                    "lastTransitionTime": "2031-05-06T07:08:09Z",
                    "severity": "unknown here",
                }
            ],
            "effective": {"maxTokens": 2000, "maxMessageSize": "256Ki", "ttl": "24h"},
            "usage": {"sessions": 5},
            "laterField": {"a": 1},
        },
    }


def test_a_body_of_the_api_server_is_read() -> None:
    resource = MemoryResource.from_body(body_of_an_api_server())
    assert (resource.metadata.namespace, resource.metadata.uid) == ("team-a", "0a1b")
    assert resource.metadata.annotations == {"holdfast.dev/paused": "true"}
    assert resource.metadata.labels == {}
    assert resource.spec.policy.max_tokens == 2000
    ready = resource.status.condition(ConditionType.READY)
    assert ready is not None
    assert (ready.status, ready.reason) == (ConditionStatus.TRUE, "ReasonOfALaterVersion")
    assert resource.status.condition(ConditionType.CONFLICT) is None
    assert resource.status.usage is not None
    assert resource.status.usage.sessions == 5


def test_an_object_nobody_looked_at_is_pending() -> None:
    for status in ({}, None):
        resource = MemoryResource.from_body({**body_of_an_api_server(), "status": status})
        ready = resource.status.condition(ConditionType.READY)
        assert ready is not None
        assert (ready.status, ready.reason) == ("Unknown", "Pending")


def test_a_body_of_another_kind_is_refused() -> None:
    with pytest.raises(PolicyInvalid) as raised:
        MemoryResource.from_body({**body_of_an_api_server(), "kind": "MemoryBackend"})
    assert (raised.value.path, raised.value.reason) == ("kind", "FieldValueNotSupported")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_any_value_in_a_field_is_read_or_refused(value: Any) -> None:
    body = body_of_an_api_server()
    for field in ("limits", "keyTemplate", "retention", "failureMode", "flushing"):
        changed = {**body, "spec": {**body["spec"], field: value}}
        try:
            path = MemoryResource.from_body(changed).metadata.name
        except PolicyInvalid as error:
            path = error.path
        assert path == "support" or path.startswith(f"spec.{field}")


# --- the generated schemas


def test_what_is_committed_is_what_the_models_say() -> None:
    files = crds.generated_files(ROOT / "crds", ROOT / "docs", ROOT / crds.CHART)
    assert len(files) == 2 * len(crds.DEFINITIONS) + 1
    assert "\n".join(crds.differences(files)) == ""


def test_writing_twice_gives_the_same_files(tmp_path: Path) -> None:
    folders = ("--directory", "--docs", "--chart")
    where = [part for name in folders for part in (name, str(tmp_path / name))]
    assert crds.main(["check", *where]) == 1
    assert crds.main(["write", *where]) == 0
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert crds.main(["write", *where]) == 0
    assert first == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert crds.main(["check", *where]) == 0


def test_a_difference_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--directory", str(tmp_path), "--docs", str(tmp_path), "--chart", str(tmp_path)]
    crds.main(["write", *where])
    path = tmp_path / "holdfast.dev_memorybackends.yaml"
    path.write_text(path.read_text().replace("maximum: 1023", "maximum: 15"))
    assert crds.main(["check", *where]) == 1
    shown = capsys.readouterr().out
    assert "-                maximum: 15" in shown
    assert "+                maximum: 1023" in shown


def test_the_files_are_plain_yaml() -> None:
    for definition in crds.DEFINITIONS:
        text = crds.crd_text(definition)
        assert yaml.safe_load(text) == crds.custom_resource_definition(definition)
        assert not re.search(r"[&*]id\d", text)


@pytest.mark.parametrize(("path", "schema"), properties(), ids=lambda item: str(item)[:60])
def test_a_description_ends_with_unit_bounds_and_default(path: str, schema: Schema) -> None:
    text = schema["description"]
    assert re.search(r"; (required|default: that of each field|no default|default .+)\.$", text)
    if "enum" in schema:
        assert f"One of {', '.join(schema['enum'])};" in text
    if "minimum" in schema:
        assert re.search(rf"; {schema['minimum']} (or more|to {schema.get('maximum')});", text)
    if isinstance(schema.get("default"), int | str) and "default" in schema:
        shown = schema["default"]
        assert f"default {shown if isinstance(shown, str) else json.dumps(shown)}." in text


def test_everything_is_bounded() -> None:
    for path, schema in every_schema():
        if "metadata" in path or (path.endswith((".apiVersion", ".kind")) and path.count(".") == 1):
            continue
        if schema.get("type") == "string":
            assert {"enum", "maxLength"} & schema.keys(), path
        if schema.get("type") == "array":
            assert "maxItems" in schema, path
            assert schema["x-kubernetes-list-type"] in {"atomic", "set", "map"}, path
        if "additionalProperties" in schema:
            assert "maxProperties" in schema, path


def test_the_default_of_an_object_is_that_of_its_fields() -> None:
    found = 0
    for path, schema in every_schema():
        if isinstance(schema.get("default"), Mapping) and not path.endswith(".status"):
            expected = {
                name: inner["default"]
                for name, inner in schema["properties"].items()
                if "default" in inner
            }
            assert schema["default"] == expected != {}, path
            found += 1
    assert found >= 10


def test_no_item_of_a_keyed_list_has_a_default() -> None:
    for path, schema in every_schema():
        if schema.get("x-kubernetes-list-type") == "map":
            for name, inner in schema["items"]["properties"].items():
                assert "default" not in inner, f"{path}[].{name}"


def test_references_and_selectors_are_replaced_as_a_whole() -> None:
    for path, schema in every_schema():
        if path.endswith(("Ref", ".selector")):
            assert schema["x-kubernetes-map-type"] == "atomic", path


def test_every_rule_blames_an_existing_field_with_a_fixed_message() -> None:
    for path, schema in every_schema():
        for rule in schema.get("x-kubernetes-validations", []):
            assert rule["message"]
            assert "messageExpression" not in rule
            assert rule["reason"].startswith("FieldValue")
            inner = schema
            for name in rule.get("fieldPath", "").split(".")[1:]:
                inner = inner["properties"][name]
            assert inner, path


def _all_parts(part: type[Part]) -> Iterator[type[Part]]:
    yield part
    for child in part.__subclasses__():
        yield from _all_parts(child)


def test_every_rule_of_the_models_is_emitted_and_has_a_fixture() -> None:
    emitted = {
        rule["message"]
        for _, schema in every_schema()
        for rule in schema.get("x-kubernetes-validations", [])
    }
    attached: set[str] = {
        rule.message
        for part in _all_parts(Part)
        if part.__module__.startswith("holdfast")
        for rule in (*part.rules, *part.transitions)
    }
    assert attached <= emitted
    tried = {case.expected.message for case in invalid_cases()}
    bounds = {message for message in emitted if message.startswith("must be between")}
    assert emitted - tried <= bounds


def test_a_type_without_bounds_makes_no_schema() -> None:
    class Unbounded(Part):
        names: Annotated[tuple[str, ...], Unique()] = Field(default=(), description="Names.")

    class Undescribed(Part):
        ttl: Quantity

    class Ambiguous(Part):
        value: int | str = Field(description="One or the other.")

    class Strange(Part):
        value: Annotated[complex, MaxLen(3)] = Field(description="No JSON.")

    for model, message in (
        (Unbounded, "without an upper bound"),
        (Undescribed, "ttl has no description"),
        (Ambiguous, "a union of several types"),
        (Strange, "no schema for"),
    ):
        with pytest.raises(SchemaError, match=message):
            object_schema(model)


def test_the_columns_are_the_promised_ones() -> None:
    columns = {
        definition.kind: [column.name for column in definition.columns]
        for definition in crds.DEFINITIONS
    }
    assert columns["MemoryResource"] == [
        "Ready",
        "Reason",
        "Backend",
        "Type",
        "TTL",
        "Sessions",
        "Tokens",
        "Age",
    ]
    assert columns["MemoryBackend"][:2] == ["Ready", "Reason"]
    assert columns["MemoryErasure"][:3] == ["Ready", "Reason", "Memory"]
    assert columns["MemoryBinding"] == ["Ready", "Reason", "ServiceAccount", "Secret", "Age"]


# --- reasons


def test_reasons_are_a_closed_list() -> None:
    assert set(ReadyReason) == {
        "Pending",
        "Available",
        "InvalidSpec",
        "NotSupportedYet",
        "BackendNotFound",
        "BackendNotAllowed",
        "BackendNotVisible",
        "BackendNotReady",
        "BackendUnreachable",
        "AuthenticationFailed",
        "PermissionDenied",
        "TLSFailed",
        "SecretMissing",
        "SecretInvalid",
        "SecretNotOffered",
        "ServerTooOld",
        "ServerFull",
        "ServerReplaced",
        "KeysOwnedByOther",
        "WrongKeyType",
        "LayoutTooNew",
        "DeletionBlocked",
        "Deleting",
        "InUse",
        "MemoryNotFound",
        "MemoryNotReady",
        "SeveralBackends",
        "IsolationNotAcknowledged",
        "Erasing",
        "Erased",
        "Counted",
        "TooManyResources",
        "Fenced",
    }
    assert set(PolicyReason) == {
        "Applied",
        "RollingOut",
        "Unsatisfied",
        "ClampedByBackend",
        "WaitingForBackend",
    }
    assert set(CredentialsReason) == {
        "Issued",
        "Rotating",
        "Provided",
        "Shared",
        "AccessDiffers",
        "SecretNameTaken",
        "NoPermission",
        "FieldsNotPrefix",
    }
    assert set(RiskReason) == {
        "ServerSilent",
        "MemoryPressure",
        "EvictionEnabled",
        "PersistenceOff",
        "SurveyFailed",
        "DefaultUserOpen",
        "ReplicasNotRequired",
        "ReplicasMissing",
    }
    assert set(NotInForceReason) == {"FieldsNotInForce", "ReadsDoNotRefresh"}
    assert set(REASONS) == set(ConditionType)


def test_every_reason_is_explained() -> None:
    document = reasons_document()
    for condition, reasons in REASONS.items():
        assert f"\n## {condition}\n" in document
        for reason in reasons:
            assert re.fullmatch(r"[A-Z][A-Za-z]+", reason)
            assert re.fullmatch(r"[A-Z].+\.", reason.meaning)
            assert re.fullmatch(r"[A-Z].+\.", reason.advice)
            assert f"| `{reason}` | {reason.meaning} | {reason.advice} |" in document
