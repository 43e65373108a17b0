"""Waiting for the CustomResourceDefinitions, and refusing ones that are too old."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Final

from holdfast_operator.crds import DEFINITIONS, GROUP, VERSION, custom_resource_definition
from holdfast_operator.services.objects import mapping, mappings
from holdfast_operator.services.ports import (
    Body,
    ClusterError,
    ClusterForbidden,
    ClusterUnavailable,
)
from holdfast_operator.storage.kubernetes import Kubernetes

_log: Final = logging.getLogger("holdfast.operator")

PATIENCE: Final = 60.0
_PAUSE: Final = 0.5
_PATH: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class DefinitionsUnusable(ClusterError):
    """The definitions are not there, or older than this operator needs; the message is for people."""


async def wait_for_definitions(
    kubernetes: Kubernetes,
    *,
    patience: float = PATIENCE,
    clock: Callable[[], float],
) -> None:
    """Return once every definition is established and knows every field this version needs.

    Args:
        kubernetes: the API server.
        patience: seconds.
        clock: monotonic seconds.

    Raises:
        DefinitionsUnusable: they are not there in time, or they are older; says which, and what to do.
    """
    deadline = clock() + patience
    said = ""
    while True:
        fault = await _fault(kubernetes)
        if fault is None:
            return
        if clock() >= deadline:
            raise DefinitionsUnusable(fault)
        if fault != said:
            _log.info("%s Waiting for at most %d s.", fault, patience)
            said = fault
        await asyncio.sleep(_PAUSE)


async def _fault(kubernetes: Kubernetes) -> str | None:
    """Return what is missing yet; raise what waiting does not mend."""
    for definition in DEFINITIONS:
        name = f"{definition.plural}.{GROUP}"
        try:
            found = await kubernetes.get(f"{_PATH}/{name}")
        except ClusterForbidden:
            return (
                f"The operator may not read the CustomResourceDefinition {name}: apply the operator's "
                "ClusterRoles."
            )
        except ClusterUnavailable as error:
            return f"The API server cannot be asked: {error}."
        if found is None or not _established(found):
            return (
                f"The CustomResourceDefinition {name} is not established: apply the folder crds/."
            )
        wanted = _schema(custom_resource_definition(definition))
        missing = next(missing_fields(wanted, _schema(found)), None)
        if missing is not None:
            raise DefinitionsUnusable(
                f"The CustomResourceDefinition {name} is older than this operator: it does not know "
                f"{missing.removeprefix('.')}. Apply the folder crds/ of the operator's own version."
            )
    return None


def missing_fields(wanted: Body, found: Body, path: str = "") -> Iterator[str]:
    """Name the fields of one schema that another one does not know."""
    have = mapping(found.get("properties"))
    for name, schema in mapping(wanted.get("properties")).items():
        if name not in have:
            yield f"{path}.{name}"
        else:
            yield from missing_fields(mapping(schema), mapping(have[name]), f"{path}.{name}")
    if "items" in wanted:
        yield from missing_fields(
            mapping(wanted["items"]), mapping(found.get("items")), f"{path}[]"
        )


def _established(definition: Body) -> bool:
    return any(
        condition.get("type") == "Established" and condition.get("status") == "True"
        for condition in mappings(mapping(definition.get("status")).get("conditions"))
    )


def _schema(definition: Body) -> Body:
    for version in mappings(mapping(definition.get("spec")).get("versions")):
        if version.get("name") == VERSION:
            return mapping(mapping(version.get("schema")).get("openAPIV3Schema"))
    return {}
