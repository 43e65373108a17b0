"""Figures in status are coarse: exact ones are metrics. Pure functions."""

from collections.abc import Iterable
from typing import Final

from holdfast.policy import Quantity
from holdfast.store.maintenance import Totals
from holdfast_operator.services.objects import mapping
from holdfast_operator.services.ports import Body
from holdfast_operator.status import NamespaceUsage, Usage

PAUSE: Final = 300.0
"""Seconds between two writes that are for figures alone."""
MOST_NAMESPACES: Final = 20

_MEBI: Final = 2**20


def moved(old: float | None, new: float | None) -> bool:
    """Whether a figure moved by more than a tenth."""
    if old is None or new is None:
        return old is not new
    return abs(new - old) * 10 > old


def size_moved(old: int | None, new: int) -> bool:
    """Whether a size moved by more than a tenth, and by more than `size` takes off or adds."""
    return moved(old, new) and (old is None or abs(new - old) >= _MEBI)


def usage_moved(old: Usage | None, new: Totals) -> bool:
    """Whether any figure of a memory moved by more than a tenth."""
    return old is None or any(
        moved(before, after)
        for before, after in zip(
            (old.sessions, old.messages, old.tokens, old.bytes), new, strict=True
        )
    )


def size(number: int) -> Quantity | None:
    """Return a size to about a mebibyte; None for 0, which stands for no limit."""
    if number <= 0:
        return None
    return Quantity(f"{round(number / _MEBI)}Mi" if number >= _MEBI else str(number))


def namespace_usage(resources: Iterable[Body]) -> tuple[NamespaceUsage, ...]:
    """Add up what the status of memories says, for the namespaces that take most, largest first."""
    sums: dict[str, tuple[int, int]] = {}
    for body in resources:
        usage = mapping(mapping(body.get("status")).get("usage"))
        namespace = str(mapping(body.get("metadata")).get("namespace"))
        sessions, taken = sums.get(namespace, (0, 0))
        sums[namespace] = (
            sessions + _number(usage.get("sessions")),
            taken + _number(usage.get("bytes")),
        )
    largest = sorted(sums.items(), key=lambda item: (-item[1][1], item[0]))[:MOST_NAMESPACES]
    return tuple(
        NamespaceUsage(namespace=name, sessions=sessions, bytes=taken)
        for name, (sessions, taken) in largest
    )


def sessions_of(resources: Iterable[Body]) -> int:
    """Add up the sessions that the status of memories shows."""
    return sum(
        _number(mapping(mapping(body.get("status")).get("usage")).get("sessions"))
        for body in resources
    )


def _number(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
