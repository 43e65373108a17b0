"""Rendered objects, found by kind and name."""

from collections.abc import Iterator, Sequence
from typing import Any

Object = dict[str, Any]


class Rendered:
    """What a rendering has in it."""

    def __init__(self, objects: Sequence[Object]) -> None:
        self.objects = objects

    def __iter__(self) -> Iterator[Object]:
        return iter(self.objects)

    def of(self, kind: str) -> dict[str, Object]:
        """Objects of a kind by name; in another namespace than the release's by `namespace/name`."""
        found: dict[str, Object] = {}
        for each in self.objects:
            if each["kind"] == kind:
                metadata = each["metadata"]
                where = metadata.get("namespace", "holdfast-system")
                name = metadata["name"]
                key = name if where == "holdfast-system" else f"{where}/{name}"
                assert key not in found, f"{kind} {key} is there twice"
                found[key] = each
        return found

    def names(self, kind: str) -> set[str]:
        """The names of the objects of a kind."""
        return set(self.of(kind))

    def one(self, kind: str, name: str) -> Object:
        """The object of that kind and name."""
        return self.of(kind)[name]

    def container(self, workload: str) -> Object:
        """The only container of a Deployment."""
        [container] = self.pod(workload)["containers"]
        return container

    def pod(self, workload: str) -> Object:
        """What the pods of a Deployment are."""
        return self.one("Deployment", workload)["spec"]["template"]["spec"]

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Every pod that there may be, with its name."""
        for each in self.objects:
            if each["kind"] == "Pod":
                yield each["metadata"]["name"], each["spec"]
            elif each["kind"] == "Deployment":
                yield each["metadata"]["name"], each["spec"]["template"]["spec"]
