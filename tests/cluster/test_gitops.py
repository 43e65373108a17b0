"""What GitOps tools ask of an API: applying again changes nothing, and the order does not matter."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fixtures.cases import ROOT, valid_cases
from tests.harness.control_plane import ControlPlane
from tests.harness.markdown import Document
from tests.harness.operator_process import OperatorProcess, grant_secrets
from tests.harness.servers import Product, Server
from tests.harness.space import Space, condition, erasure_manifest

pytestmark = [pytest.mark.cluster, pytest.mark.redis, pytest.mark.asyncio]

PASSWORD = "correct-horse-battery-staple"


@pytest.fixture
def space(
    control_plane: ControlPlane, operator: OperatorProcess, namespace: str, valkey_server: Server
) -> Space:
    return Space(control_plane, namespace, valkey_server)


def every_manifest() -> list[dict[str, Any]]:
    """Every valid fixture, every example and what pages show, each under a name of its own."""
    found: list[dict[str, Any]] = []
    for case in valid_cases():
        found += [named(document, case.name) for document in case.documents]
    for file in sorted((ROOT / "examples").rglob("*.yaml")):
        documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        found += [named(document, f"example-{file.stem}") for document in documents]
    for page in ("policies", "backends", "bindings", "erasure"):
        document = Document.read(ROOT / f"docs/{page}.md")
        blocks = [each.text for each in document.blocks if each.language == "yaml"]
        shown = [each for text in blocks for each in yaml.safe_load_all(text)]
        ours = [each for each in shown if each.get("apiVersion", "").startswith("holdfast.dev/")]
        assert ours, page
        found += [named(each, f"shown-{page}-{number}") for number, each in enumerate(ours)]
    return found


def named(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Under another name, in the namespace of the test."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "namespace"}
    return {**document, "metadata": {**metadata, "name": name}}


@pytest.mark.parametrize("side", [(), ("--server-side",)], ids=["client", "server"])
async def test_what_is_applied_again_shows_no_difference(
    space: Space, tmp_path: Path, side: tuple[str, ...]
):
    manifests = every_manifest()
    file = tmp_path / "all.yaml"
    file.write_text(yaml.safe_dump_all(manifests), encoding="utf-8")

    def apply() -> dict[str, str]:
        """Apply all and return every resourceVersion."""
        space.kubectl("apply", *side, "-f", str(file))
        items = json.loads(space.kubectl("get", "holdfast", "-o", "json"))["items"]
        return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}

    def differences() -> str:
        """Return what `kubectl diff` prints; it fails where there is one."""
        return space.kubectl("diff", *side, "-f", str(file))

    assert len(apply()) == len(manifests)
    assert differences() == ""
    for manifest in manifests:
        what = f"{manifest['kind'].lower()}/{manifest['metadata']['name']}"
        await space.until(what, observed, "the operator has seen it")
    assert differences() == ""
    specs = {name: body["spec"] for name, body in bodies(space).items()}
    generations = {name: body["metadata"]["generation"] for name, body in bodies(space).items()}
    apply()
    assert differences() == ""
    after = bodies(space)
    assert {name: body["spec"] for name, body in after.items()} == specs
    assert {name: body["metadata"]["generation"] for name, body in after.items()} == generations
    assert set(generations.values()) == {1}
    for body in after.values():
        managers = {entry["manager"] for entry in body["metadata"]["managedFields"]}
        owners = [
            entry for entry in body["metadata"]["managedFields"] if "f:spec" in entry["fieldsV1"]
        ]
        assert len(owners) == 1, managers  # the operator owns nothing of what people declare


def observed(body: dict[str, Any]) -> bool:
    return body["status"]["observedGeneration"] == body["metadata"]["generation"]


def bodies(space: Space) -> dict[str, dict[str, Any]]:
    items = json.loads(
        space.kubectl("get", "holdfast", "-o", "json", "--show-managed-fields=true")
    )["items"]
    return {item["metadata"]["name"]: item for item in items}


async def test_what_is_applied_in_the_wrong_order_converges_without_a_restart(
    space: Space, tmp_path: Path, operator: OperatorProcess, control_plane: ControlPlane
):
    platform = Space(control_plane, control_plane.namespace("platform"), space.server)
    reference = {"name": "shared", "namespace": platform.namespace}
    async with Server(Product.VALKEY, tmp_path, arguments=["--requirepass", PASSWORD]) as server:
        space.apply(json.dumps(erasure_manifest(session="s")))
        await space.ready("memerase/order", "MemoryNotFound")
        starts = len(re.findall("The operator starts", operator.log))
        space.resource(backendRef=reference)
        await space.ready("memres/support", "BackendNotFound")
        selector = "{matchLabels: {memory: allowed}}"
        platform.backend(
            port=server.port,
            more=f", authRef: {{name: login}}, allowedNamespaces: {{from: Selector, selector: {selector}}}",
        )
        await platform.ready("membackend/shared", "PermissionDenied")
        grant_secrets(control_plane, platform.namespace)
        await platform.ready("membackend/shared", "SecretMissing")
        platform.secret(labelled=True, password=PASSWORD)
        await platform.ready("membackend/shared")
        await space.ready("memres/support", "BackendNotAllowed")
        control_plane.kubectl("label", "namespace", space.namespace, "memory=allowed")
        resource = await space.ready("memres/support")
        order = await space.ready("memerase/order", "Erased")
        for body in (resource, order):
            assert condition(body, "Stalled")["status"] == ""
        assert len(re.findall("The operator starts", operator.log)) == starts
