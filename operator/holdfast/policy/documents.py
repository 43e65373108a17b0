"""YAML documents that remember on which line each field stands."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import yaml

from holdfast.errors import PolicyInvalid
from holdfast.policy.faults import Cause, Fault, Step

_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """The safe loader, except that dates stay text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name for it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


@dataclass(frozen=True, slots=True)
class Document:
    """One document: its value, and the tree that knows the lines."""

    value: object
    root: yaml.Node

    def line_of(self, steps: tuple[Step, ...]) -> int:
        """Return the 1-based line of a field, or of the nearest field around it that is there."""
        line, node = self.root.start_mark.line, self.root
        for step in steps:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line + 1

    def duplicate(self) -> tuple[Fault, int] | None:
        """Return the first key that a mapping has twice, with its 1-based line."""
        return next(_duplicates(self.root, (), set()), None)


def parse_documents(text: str, file: str) -> list[Document]:
    """Parse YAML as `kubectl` does: dates stay text. Empty documents are left out.

    Raises:
        PolicyInvalid: the text is no YAML.
    """
    documents: list[Document] = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            assert node is not None, "check_node said so"
            value: object = cast("Any", loader).construct_document(node)
            if value is not None:
                documents.append(Document(value, node))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else None
        raise _no_yaml(error.problem or "it cannot be parsed", file, line) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _no_yaml(f"{type(error).__name__}", file, None) from None
    except RecursionError:
        raise _no_yaml("it is nested too deeply", file, None) from None
    return documents


def _no_yaml(problem: str, file: str, line: int | None) -> PolicyInvalid:
    fault = Fault((), Cause.INVALID, f"the file is no YAML: {problem}")
    return fault.error(file, line)


def _pairs(node: yaml.Node) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from node.value


def _child(node: yaml.Node, step: Step) -> tuple[int, yaml.Node] | None:
    """Return the line a child stands on, and the child."""
    if isinstance(step, int):
        if isinstance(node, yaml.SequenceNode) and step < len(node.value):
            item = node.value[step]
            return item.start_mark.line, item
        return None
    for key, value in _pairs(node):
        if key.value == step:
            return key.start_mark.line, value
    return None


def _duplicates(
    node: yaml.Node, steps: tuple[Step, ...], visited: set[int]
) -> Iterator[tuple[Fault, int]]:
    if id(node) in visited:  # an alias, perhaps of a node around it
        return
    visited.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, (*steps, index), visited)
    seen = set[str]()
    for key, value in _pairs(node):
        below = (*steps, str(key.value))
        if key.tag != _MERGE and str(key.value) in seen:
            yield Fault(below, Cause.DUPLICATE, "duplicate field"), key.start_mark.line + 1
        seen.add(str(key.value))
        yield from _duplicates(value, below, visited)
