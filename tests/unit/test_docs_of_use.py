"""What the pages about policies and the library show is what there is."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import holdfast
from holdfast.policy import load_policy
from holdfast.session import Session
from holdfast.store.addresses import read_address
from holdfast.turn import Turn
from holdfast_operator.resources import MemoryBackend, MemoryResource
from holdfast_operator.services import (
    access,
    credentials,
    instances,
    objects,
    servers,
    sweep_requests,
)
from tests.harness.markdown import Document

ROOT = Path(__file__).parents[2]
POLICIES = Document.read(ROOT / "docs/policies.md")
BACKENDS = Document.read(ROOT / "docs/backends.md")


def _shown() -> dict[str, Any]:
    [block] = POLICIES.blocks
    return yaml.safe_load(block.text)


def _rows(document: str, heading: str) -> list[str]:
    """The first cells of a table, known by its heading."""
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    _, _, rest = text.partition(f"| {heading} |")
    assert rest, f"{document} has no table {heading!r}"
    return [row.split("|")[1].strip() for row in rest.split("\n\n")[0].splitlines()[2:]]


def test_the_policy_that_is_shown_is_accepted_and_has_every_part():
    shown = _shown()
    name, policy = load_policy(shown)
    assert (name, policy.key_fields) == ("support", ("tenant", "user_id"))
    spec = MemoryResource.model_validate(shown).spec
    fields = {field.alias or name for name, field in type(spec).model_fields.items()}
    assert set(shown["spec"]) == fields - {"type"}, "`type` follows from `limits`"


def test_every_part_has_a_row():
    parts = {name.strip("`") for name in _rows("policies.md", "part")}
    assert parts == set(_shown()["spec"]) - {"backendRef", "description"}


def test_the_backends_that_are_shown_are_accepted_and_have_every_part():
    shown = [each for block in BACKENDS.blocks for each in yaml.safe_load_all(block.text)]
    specs = [
        MemoryBackend.model_validate(each).spec for each in shown if each["kind"] == "MemoryBackend"
    ]
    assert [spec.mode for spec in specs] == ["Standalone", "Sentinel", "Cluster"]
    fields = {field.alias or name for name, field in type(specs[0]).model_fields.items()}
    assert {name for each in shown for name in each.get("spec", {})} == fields - {"database"}
    [secret] = [each for each in shown if each["kind"] == "Secret"]
    assert secret["metadata"]["labels"] == dict([servers.OFFER])


def test_the_annotations_that_are_listed_are_those_that_are_heeded():
    listed = {re.split("[:`]", row)[1] for row in _rows("backends.md", "annotation")}
    assert listed == {
        access.ADOPT,
        credentials.ROTATE,
        instances.ACCEPT,
        objects.ABANDON,
        objects.PAUSED,
        sweep_requests.REQUEST,
    }


@pytest.mark.parametrize(
    ("heading", "owners"),
    [("of a session, and of a turn", (Session, Turn)), ("of a session", (Session,))],
)
def test_the_calls_that_are_listed_are_there(heading: str, owners: tuple[type, ...]):
    listed = {name for row in _rows("library.md", heading) for name in re.findall(r"`(\w+)\(", row)}
    assert listed
    for owner in owners:
        assert listed <= set(dir(owner))


def test_every_public_call_is_listed():
    text = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)\(", text))
    public = {name for name in dir(Session) if not name.startswith("_")}
    assert public <= listed


def test_the_arguments_of_connect_are_those_that_are_listed():
    listed = {
        name for row in _rows("library.md", "argument") for name in re.findall(r"`(\w+)`", row)
    }
    assert listed == set(inspect.signature(holdfast.connect).parameters) - {"url"}


def test_the_addresses_that_are_shown_can_be_read():
    for row in _rows("library.md", "address"):
        for address in re.findall(r"`([^`]+)`", row):
            if address.startswith(("redis", "unix")):
                read_address(address.replace(":port", ":6379"))
