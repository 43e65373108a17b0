"""What `holdfast dev` reads, with the place of every fault, and the objects it makes of it."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import ConfigurationError
from holdfast_cli.local.manifests import (
    Key,
    Manifests,
    find_files,
    immutable_faults,
    read_manifests,
    require_files,
    signature,
)
from holdfast_cli.local.objects import Objects
from holdfast_cli.local.server import ServerAddress
from holdfast_operator.services.ports import SystemClock
from tests.fixtures.cases import Case, case_name, invalid_cases, valid_cases

MEMORY = """\
    apiVersion: holdfast.dev/v1alpha1
    kind: MemoryResource
    metadata: {name: support}
    spec:
      backendRef: {name: shared}
      limits: {maxTokens: 12000}
      retention: {ttl: 24h}
"""
BACKEND = """\
    apiVersion: holdfast.dev/v1alpha1
    kind: MemoryBackend
    metadata: {name: shared, namespace: platform}
    spec:
      endpoints: ["redis.platform.svc:6379"]
"""
SUPPORT = Key("MemoryResource", "local", "support")
SHARED = Key("MemoryBackend", "local", "shared")
CLUSTER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def write(path: Path, *documents: str) -> Path:
    path.write_text("---\n".join(textwrap.dedent(document) for document in documents))
    return path


def read(*paths: Path) -> Manifests:
    return read_manifests(find_files(paths))


def faults(manifests: Manifests, folder: Path) -> list[str]:
    return [str(fault).removeprefix(f"{folder}/") for fault in manifests.faults]


def test_a_directory_is_read_with_all_its_documents(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", BACKEND, MEMORY)
    write(
        tmp_path / "b.yml",
        MEMORY.replace("support", "sales").replace(
            "{name: sales}", "{name: sales, namespace: crm}"
        ),
    )
    write(
        tmp_path / "c.json",
        '{"apiVersion": "holdfast.dev/v1alpha1", "kind": "MemoryBackend",'
        ' "metadata": {"name": "other"}, "spec": {"endpoints": ["a:1"]}}',
    )
    write(tmp_path / "notes.txt", "no: manifest")
    write(tmp_path / ".draft.yaml", "not: read")
    (tmp_path / "below").mkdir()
    write(tmp_path / "below" / "d.yaml", "not: read")

    found = read(tmp_path)

    assert found.faults == ()
    assert set(found.objects) == {
        SUPPORT,
        Key("MemoryResource", "crm", "sales"),
        Key("MemoryBackend", "platform", "shared"),
        Key("MemoryBackend", "local", "other"),
    }


def test_a_memory_without_namespace_is_in_local_and_what_a_cluster_says_is_left_out(
    tmp_path: Path,
) -> None:
    text = MEMORY.replace(
        "{name: support}", "{name: support, uid: mine, generation: 7, annotations: {a: b}}"
    )
    file = write(tmp_path / "a.yaml", text + "    status: {policyRevision: 99}\n")
    body = read(file).objects[SUPPORT].body
    assert body["metadata"] == {"name": "support", "namespace": "local", "annotations": {"a": "b"}}
    assert "status" not in body


def test_every_fault_of_every_file_is_listed_with_its_line(tmp_path: Path) -> None:
    write(
        tmp_path / "a.yaml",
        """\
        apiVersion: holdfast.dev/v1alpha1
        kind: MemoryResource
        metadata: {name: support}
        spec:
          backendRef: {name: shared}
          limits:
            maxTokens: 0
            maxToken: 12
          retention: {ttl: 24x}
        """,
        """\
        apiVersion: apps/v1
        kind: Deployment
        metadata: {name: x}
        """,
        "- a list\n",
        """\
        kind: MemoryResource
        metadata: {}
        """,
    )
    write(tmp_path / "b.yaml", "spec: {\n")
    write(tmp_path / "c.yaml", "a: 1\nb: 2\na: 3\n")

    found = read(tmp_path)

    assert found.objects == {}
    assert faults(found, tmp_path) == [
        "a.yaml:7: spec.limits.maxTokens: should be greater than or equal to 1 (FieldValueInvalid)",
        "a.yaml:8: spec.limits.maxToken: unknown field (FieldValueForbidden)",
        "a.yaml:9: spec.retention.ttl: should match '^[1-9][0-9]{0,6}(ms|s|m|h|d)$' (FieldValueInvalid)",
        'a.yaml:11: apiVersion: supported values: "holdfast.dev/v1alpha1" (FieldValueNotSupported)',
        (
            'a.yaml:12: kind: supported values: "MemoryBackend", "MemoryResource", "MemoryBinding", '
            '"MemoryErasure" (FieldValueNotSupported)'
        ),
        'a.yaml:15: document: must be of type object: "array" (FieldValueTypeInvalid)',
        "a.yaml:17: apiVersion: Required value (FieldValueRequired)",
        "a.yaml:18: metadata.name: Required value (FieldValueRequired)",
        (
            "b.yaml:2: document: the file is no YAML: expected the node content, but found '<stream end>' "
            "(FieldValueInvalid)"
        ),
        "c.yaml:3: a: duplicate field (FieldValueDuplicate)",
    ]


def test_broken_rules_are_listed_together(tmp_path: Path) -> None:
    text = (
        MEMORY + "      flushing: {strategy: TimeBased}\n      eviction: {priorityKeywords: [a]}\n"
    )
    assert faults(read(write(tmp_path / "a.yaml", text)), tmp_path) == [
        "a.yaml:8: spec.flushing.maxAge: strategy: TimeBased needs maxAge (FieldValueRequired)",
        (
            "a.yaml:9: spec.eviction.priorityKeywords: priorityKeywords is only for policy: Priority "
            "(FieldValueForbidden)"
        ),
    ]


def test_the_same_object_twice_is_a_fault_that_names_both_places(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", MEMORY)
    write(tmp_path / "b.yaml", BACKEND, MEMORY)
    assert faults(read(tmp_path), tmp_path) == [
        (
            f"b.yaml:9: metadata.name: local/support is declared already, at {tmp_path}/a.yaml:3 "
            "(FieldValueDuplicate)"
        )
    ]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", MEMORY)
    assert find_files([tmp_path, file, tmp_path / ".." / tmp_path.name]) == [file]


def test_kinds_that_are_left_out_are_told_apart_from_unknown_ones(tmp_path: Path) -> None:
    later = """\
    apiVersion: holdfast.dev/v1alpha1
    kind: MemoryBinding
    metadata: {name: support}
    spec:
      serviceAccountName: agent
      memories: [{name: support, memoryRef: {name: support}, access: ReadWrite}]
"""
    unknown = MEMORY.replace("MemoryResource", "MemoryThing")
    found = read(write(tmp_path / "a.yaml", later, unknown))
    assert [manifest.key.kind for manifest in found.later] == ["MemoryBinding"]
    assert [fault.path for fault in found.faults] == ["kind"]


@pytest.mark.parametrize("name", ["Upper", "a" * 64, "with.dot", ""])
def test_a_namespace_must_be_one(tmp_path: Path, name: str) -> None:
    text = MEMORY.replace("{name: support}", f'{{name: support, namespace: "{name}"}}')
    [fault] = read(write(tmp_path / "a.yaml", text)).faults
    assert (fault.path, fault.line) == ("metadata.namespace", 3)


def test_files_that_cannot_be_read_are_faults(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\n")
    [fault] = read(tmp_path).faults
    assert str(fault) == (
        f"{tmp_path}/a.yaml: document: the file cannot be read: it is not UTF-8 (FieldValueInvalid)"
    )


def test_a_path_must_lead_to_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        require_files([tmp_path / "nothing.yaml"])
    with pytest.raises(ConfigurationError, match="no manifest in it"):
        require_files([tmp_path])
    require_files([write(tmp_path / "a.yaml", MEMORY), tmp_path])


def test_what_is_immutable_is_a_fault_of_the_edit(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", MEMORY, BACKEND)
    known = {key: manifest.body for key, manifest in read(file).objects.items()}

    write(
        file, MEMORY + "      keyTemplate: 'user:{user_id}'\n", BACKEND + "      keyPrefix: acme\n"
    )
    found = immutable_faults(read(file), known)
    assert [(fault.line, fault.path) for fault in found] == [
        (8, "spec.keyTemplate"),
        (15, "spec.keyPrefix"),
    ]

    write(file, MEMORY.replace("12000", "9000"), BACKEND)
    assert immutable_faults(read(file), known) == ()


def test_a_signature_changes_with_every_edit(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", MEMORY)
    before = signature([file])
    assert signature([file]) == before
    write(file, MEMORY.replace("12000", "120000"))
    assert signature([file]) != before
    file.unlink()
    assert signature([file]) == {}


@pytest.mark.parametrize("case", valid_cases(), ids=case_name)
def test_what_the_api_server_takes_is_taken(case: Case) -> None:
    assert read(case.file).faults == ()


@pytest.mark.parametrize(
    "case", [case for case in invalid_cases() if len(case.texts) == 1], ids=case_name
)
def test_what_the_api_server_refuses_is_refused_with_the_same_words(case: Case) -> None:
    expected = case.expected
    found = [(fault.path, fault.reason, fault.message) for fault in read(case.file).faults]
    assert found == [(expected.path, expected.reason, expected.message)]


def objects(*stored: Mapping[str, Any]) -> Objects:
    return Objects(CLUSTER, ServerAddress("127.0.0.1", 6379), SystemClock(), stored)


def test_a_memory_brings_the_backend_it_names_and_takes_it_along(tmp_path: Path) -> None:
    known = objects()
    edits = known.apply(read(write(tmp_path / "a.yaml", MEMORY)).objects)
    assert set(edits.added) == {SUPPORT, SHARED}
    backend = known.bodies()[SHARED]
    assert backend["spec"]["endpoints"] == ["127.0.0.1:6379"]
    assert backend["spec"]["allowedNamespaces"] == {"from": "All"}
    assert [body["metadata"]["name"] for body in known.resources_on("local", "shared")] == [
        "support"
    ]

    assert known.apply({}).removed == [SUPPORT]
    assert not known.is_deleting(SHARED)
    known.drop(SUPPORT)
    assert known.apply({}).removed == [SHARED]


def test_a_declared_backend_keeps_what_holds_for_any_server(tmp_path: Path) -> None:
    declared = BACKEND + "      keyPrefix: acme\n      tls: {mode: Enabled}\n"
    known = objects()
    known.apply(read(write(tmp_path / "a.yaml", declared, MEMORY)).objects)
    spec = known.bodies()[Key("MemoryBackend", "platform", "shared")]["spec"]
    assert spec["keyPrefix"] == "acme"
    assert "tls" not in spec


def test_only_an_edit_of_the_spec_is_a_new_generation(tmp_path: Path) -> None:
    file, known = tmp_path / "a.yaml", objects()
    known.apply(read(write(file, MEMORY)).objects)
    first = known.bodies()[SUPPORT]["metadata"]

    annotated = MEMORY.replace("{name: support}", "{name: support, annotations: {a: b}}")
    edits = known.apply(read(write(file, annotated)).objects)
    assert not edits.edited
    assert known.bodies()[SUPPORT]["metadata"] == first | {"annotations": {"a": "b"}}

    edits = known.apply(read(write(file, MEMORY.replace("12000", "9000"))).objects)
    assert [key for key, _ in edits.edited] == [SUPPORT]
    assert known.bodies()[SUPPORT]["metadata"] == first | {"generation": 2}


@pytest.mark.asyncio
async def test_an_object_made_again_is_another_one_in_the_same_namespace(tmp_path: Path) -> None:
    manifests = read(write(tmp_path / "a.yaml", MEMORY)).objects
    known = objects()
    known.apply(manifests)
    first = known.bodies()[SUPPORT]["metadata"]["uid"]
    known.apply({})
    known.apply(manifests)  # too late: it is on its way out
    assert known.is_deleting(SUPPORT)
    known.drop(SUPPORT)
    known.apply(manifests)
    assert known.bodies()[SUPPORT]["metadata"]["uid"] != first

    later = objects(*known.bodies().values())
    assert later.bodies() == known.bodies()
    assert await later.namespace("local") == await known.namespace("local")


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("redis://a", "redis://a:6379/0?namespace=n", None),
        ("redis://a:7/3", "redis://a:7/3?namespace=n", None),
        ("redis://[::1]:7", "redis://[::1]:7/0?namespace=n", None),
        ("redis://:p%40@a:7", "redis://:p%40@a:7/0?namespace=n", "redis://:***@a:7/0?namespace=n"),
        ("redis://u:p@a:7", "redis://u:p@a:7/0?namespace=n", "redis://u:***@a:7/0?namespace=n"),
    ],
)
def test_an_address_leads_to_the_same_server(url: str, expected: str, shown: str | None) -> None:
    server = ServerAddress.of_url(url)
    assert server.url(namespace="n") == expected
    assert server.url(namespace="n", shown=True) == (shown or expected)
    assert server.url(namespace="n", prefix="acme") == f"{expected}&prefix=acme"
    assert "password" not in repr(server)


@pytest.mark.parametrize(
    "url", ["redis://", "redis://a/x", "unix:///tmp/a", "memory://", "redis://a?namespace=n", "a:1"]
)
def test_an_address_of_another_form_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        ServerAddress.of_url(url)


def test_a_backend_of_an_earlier_run_does_not_remember_its_server() -> None:
    status = {"observedGeneration": 1, "server": {"product": "valkey", "instance": "0" * 16}}
    metadata = {"name": "shared", "namespace": "local", "uid": "u", "generation": 1}
    body = {"kind": "MemoryBackend", "metadata": metadata, "spec": {}, "status": status}
    kept = objects(body).get(Key("MemoryBackend", "local", "shared"))
    assert kept is not None
    assert kept["status"] == {"observedGeneration": 1}
    assert "server" in body["status"]
