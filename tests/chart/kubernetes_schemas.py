"""The API of Kubernetes versions whose servers are not here, as schemas that know every field.

They are made from what each version publishes of itself; the package that has them is for tests only.
"""

import json
import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Final

import jsonschema
from referencing import Registry, Resource

_DIALECT: Final = jsonschema.Draft202012Validator


def faults(found: dict[str, Any], version: str) -> list[str]:
    """Say what an API server of that version would not know of an object, or would not have in it.

    Args:
        found: the object.
        version: such as `1.30`.

    Returns:
        A sentence for each fault; none for an object that is as it should be. Rules in CEL, and what a server
        checks by program, are not looked at.
    """
    version_of_object = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", found["apiVersion"])
    name = f"{found['kind'].lower()}-{version_of_object}.json"
    validator = _validator(version, name)
    if validator is None:
        return [f"there is no {found['kind']} of {found['apiVersion']}"]
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)]


def _folder(version: str) -> Traversable:
    package = resources.files("kubernetes_validate")
    return package / "kubernetes-json-schema" / f"v{version}.0-local-strict"


@cache
def _definitions(version: str) -> Registry[Any]:
    text = (_folder(version) / "_definitions.json").read_text(encoding="utf-8")
    return Resource.from_contents(json.loads(text)) @ Registry()


@cache
def _validator(version: str, name: str) -> Any:
    file = _folder(version) / name
    if not file.is_file():
        return None
    schema = json.loads(file.read_text(encoding="utf-8"))
    return _DIALECT(schema, registry=_definitions(version))
