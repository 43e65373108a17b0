"""Which handler a request is for: by the raw path, so that `%2F` in an id never divides a segment."""

from collections.abc import Iterable, Mapping
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from holdfast_sidecar.answers import Refusal

_ANY: Final = b"{}"


class Routed(Protocol):
    """What can be routed to."""

    @property
    def method(self) -> str:
        """HTTP's."""
        ...

    @property
    def path(self) -> str:
        """Segments, those in braces being parameters."""
        ...


R = TypeVar("R", bound=Routed)


class Match(NamedTuple, Generic[R]):
    """A route, and the raw segments that its parameters stand for, in order."""

    route: R
    segments: tuple[bytes, ...]


class _Node(Generic[R]):
    __slots__ = ("children", "routes")

    def __init__(self) -> None:
        self.children: dict[bytes, _Node[R]] = {}
        self.routes: dict[str, R] = {}


class Router(Generic[R]):
    """Finds routes.

    Args:
        routes: all there are.
    """

    def __init__(self, routes: Iterable[R]) -> None:
        self._root: _Node[R] = _Node()
        for route in routes:
            node = self._root
            for part in route.path.split("/")[1:]:
                name = _ANY if part.startswith("{") else part.encode()
                node = node.children.setdefault(name, _Node())
            node.routes[route.method] = route

    def find(self, method: str, raw_path: bytes) -> Match[R]:
        """Return the route of a request.

        Raises:
            Refusal: there is nothing of that path, or it has no such method.
        """
        node = self._root
        segments: list[bytes] = []
        for part in raw_path.split(b"/")[1:]:
            children = node.children
            found = children.get(part)
            if found is None:
                found = children.get(_ANY)
                if found is None:
                    raise _nothing()
                segments.append(part)
            node = found
        if not node.routes:
            raise _nothing()
        route = node.routes.get(method)
        if route is None:
            raise _no_method(node.routes)
        return Match(route, tuple(segments))


def _nothing() -> Refusal:
    return Refusal(
        "RouteNotFound", "there is nothing of this path: /openapi.json says what there is"
    )


def _no_method(routes: Mapping[str, object]) -> Refusal:
    allowed = ", ".join(sorted(routes))
    return Refusal(
        "MethodNotAllowed",
        f"this path has {allowed}",
        headers=((b"allow", allowed.encode()),),
    )
