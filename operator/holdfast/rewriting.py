"""The methods of a session and of a turn that put something else in place of what they hold."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from holdfast.formats import JSON
from holdfast.place import Place
from holdfast.telemetry import Call
from holdfast.values import AppendResult, Privacy


class Rewriting(ABC):
    """Replace."""

    _place: Place

    async def replace(
        self,
        messages: Sequence[JSON],
        *,
        id: str | None = None,
        role: str | None = None,
        pin: bool = False,
        share: str | None = None,
        privacy: Privacy | None = None,
    ) -> AppendResult:
        """Remove all messages and store others in their place, as one change.

        Nobody ever reads the session without either. Ids stay known, numbers go on, and the turn of
        anybody else ends, as with `clear`. Whatever refuses the new messages leaves the old ones.

        Args:
            messages: at most 1,000 and 8 MiB of JSON; none at all leave the session empty.
            id: makes a retry harmless; see `append_many`.
            role: of all of them, instead of the one each names.
            pin: never evict them.
            share: name of a share of the policy's `tokenAllocation.userDefined` that they count in.
            privacy: what may not be stored of any of them, beside what the policy says.

        Raises:
            What `append` raises.
        """
        with self._place.naming(Call.REPLACE), self._place.forgetting():
            return await self._append(
                messages, id, role, None, share, privacy, pin=pin, replace=True
            )

    @abstractmethod
    async def _append(  # noqa: PLR0917 - the options of both appends, passed on as they came
        self,
        messages: Sequence[JSON],
        id: str | None,
        role: str | None,
        group: int | None,
        share: str | None,
        privacy: Privacy | None,
        *,
        pin: bool,
        replace: bool = False,
    ) -> AppendResult:
        """Store messages, after what is there or instead of it."""
