"""What the services tell whoever counts: what happened, never to which session or person.

Names are those of resources, as `(namespace, name)`. Calls are cheap and never raise. What can be read
off the objects themselves (conditions, usage in status, rollouts) is not told: who counts reads it there.
"""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from holdfast.store.maintenance import ServerInfo, Totals


class Named(NamedTuple):
    """A resource. As text it is `namespace/name`, as people are told."""

    namespace: str
    name: str

    def __str__(self) -> str:
        """Return both, with a slash in between."""
        return f"{self.namespace}/{self.name}"


class Step(StrEnum):
    """What is done with an object."""

    RECONCILE = "reconcile"
    FINALIZE = "finalize"


class Fault(StrEnum):
    """Why a look at an object came to nothing; what the object's conditions say is no fault."""

    NONE = "none"
    CONFLICT = "Conflict"  # the object changed meanwhile
    API_SERVER = "APIServer"  # it did not answer, or refused
    UNEXPECTED = "Unexpected"  # a bug


class Observer(Protocol):
    """Counts for metrics."""

    def looked(self, kind: str, step: Step, seconds: float, fault: Fault, /) -> None:
        """A look at an object ended, the write of its status included."""
        ...

    def status_written(self, kind: str, /) -> None:
        """The status of an object was written to the API server."""
        ...

    def server_answered(self, backend: Named, seconds: float, info: ServerInfo, /) -> None:
        """The server of a backend said what it is, in so many seconds."""
        ...

    def server_failed(self, backend: Named, /) -> None:
        """The server of a backend could not be asked."""
        ...

    def measured(self, memory: Named, totals: Totals, /) -> None:
        """A memory was measured."""
        ...

    def fenced(self, memory: Named, /) -> None:
        """A write was refused: a leader with a higher epoch was here."""
        ...

    def repaired(self, memory: Named, keys: int, /) -> None:
        """The sweep gave so many keys of a memory the expiry they should have had."""
        ...

    def orphans(self, backend: Named, count: int, /) -> None:
        """There are so many key namespaces on a backend whose memory is gone."""
        ...

    def survey_failed(self, backend: Named, /) -> None:
        """A step of the look at all keys of a backend failed."""
        ...

    def acl_repaired(self, backend: Named, users: int, /) -> None:
        """So many users on a backend were not as their bindings say, and are again."""
        ...

    def rotated(self, binding: Named, at: datetime | None, /) -> None:
        """The password of a binding is from then; None: the binding is gone."""
        ...


class Unobserved:
    """An observer that counts nothing."""

    def looked(self, kind: str, step: Step, seconds: float, fault: Fault, /) -> None:
        """Nothing."""

    def status_written(self, kind: str, /) -> None:
        """Nothing."""

    def server_answered(self, backend: Named, seconds: float, info: ServerInfo, /) -> None:
        """Nothing."""

    def server_failed(self, backend: Named, /) -> None:
        """Nothing."""

    def measured(self, memory: Named, totals: Totals, /) -> None:
        """Nothing."""

    def fenced(self, memory: Named, /) -> None:
        """Nothing."""

    def repaired(self, memory: Named, keys: int, /) -> None:
        """Nothing."""

    def orphans(self, backend: Named, count: int, /) -> None:
        """Nothing."""

    def survey_failed(self, backend: Named, /) -> None:
        """Nothing."""

    def acl_repaired(self, backend: Named, users: int, /) -> None:
        """Nothing."""

    def rotated(self, binding: Named, at: datetime | None, /) -> None:
        """Nothing."""
