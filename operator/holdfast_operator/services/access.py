"""Who may use a backend. Pure functions."""

from collections.abc import Mapping
from typing import Final

from holdfast_operator.backend import (
    BackendSpec,
    LabelRequirement,
    NamespaceSelector,
    NamespacesFrom,
    SelectorOperator,
)
from holdfast_operator.services.ports import Namespace

NAME_LABEL: Final = "kubernetes.io/metadata.name"
"""The label that is always the namespace's name and cannot be forged."""
ADOPT: Final = "holdfast.dev/adopt"


def allows(spec: BackendSpec, home: str, namespace: Namespace) -> bool:
    """Whether a backend may be used from a namespace.

    Args:
        spec: of the backend.
        home: the backend's own namespace.
        namespace: that of the memory.
    """
    allowed = spec.allowed_namespaces
    match allowed.from_:
        case NamespacesFrom.ALL:
            return True
        case NamespacesFrom.SAME:
            return namespace.name == home
        case NamespacesFrom.SELECTOR:
            assert allowed.selector is not None, "a rule of the schema"
            return matches(allowed.selector, {**namespace.labels, NAME_LABEL: namespace.name})


def matches(selector: NamespaceSelector, labels: Mapping[str, str]) -> bool:
    """Whether labels meet every condition of a selector; an empty one is met by all."""
    wanted = selector.match_labels.items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        _meets(requirement, labels) for requirement in selector.match_expressions
    )


def _meets(requirement: LabelRequirement, labels: Mapping[str, str]) -> bool:
    key, values = requirement.key, requirement.values
    match requirement.operator:
        case SelectorOperator.IN:
            return labels.get(key) in values
        case SelectorOperator.NOT_IN:
            return labels.get(key) not in values
        case SelectorOperator.EXISTS:
            return key in labels
        case SelectorOperator.DOES_NOT_EXIST:
            return key not in labels


def hands_over(annotations: Mapping[str, str], memory: str) -> bool:
    """Whether a backend's owner gave the keys of a memory to whoever declares it now.

    Args:
        annotations: of the backend: nobody else's may say so.
        memory: `namespace/name`.
    """
    names = {name.strip() for name in annotations.get(ADOPT, "").split(",")}
    return "*" in names or memory in names
