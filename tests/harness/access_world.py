"""Users of a server that exists only in memory, for services that keep them."""

from collections.abc import Sequence

from holdfast.errors import AccessDenied, StoreUnavailable
from holdfast.store.access import AccessUser, Grant
from holdfast.store.addresses import Login


class FakeAccess:
    """Users by their names; see `holdfast.store.access.Access`.

    Attributes:
        held: the users that there are.
        refused: we may not manage users.
        away: no node can be reached.
        open: whoever gives no password is let in.
        findings: what a probe finds.
        revoked: names in the order of their removal.
    """

    def __init__(self) -> None:
        self.held: dict[str, AccessUser] = {}
        self.refused = False
        self.away = False
        self.open = False
        self.findings: tuple[str, ...] = ()
        self.revoked: list[str] = []

    async def manageable(self) -> bool:
        self._reach()
        return not self.refused

    async def unlocked(self) -> bool:
        self._reach()
        return self.open

    async def put(self, user: AccessUser) -> bool:
        self._manage()
        changed = self.held.get(user.name) != user
        self.held[user.name] = user
        return changed

    async def revoke(self, name: str) -> None:
        self._manage()
        if self.held.pop(name, None) is not None:
            self.revoked.append(name)

    async def users(self, start: str) -> frozenset[str]:
        self._manage()
        return frozenset(name for name in self.held if name.startswith(start))

    async def probe(self, login: Login, grants: Sequence[Grant]) -> tuple[str, ...]:
        self._reach()
        assert login.username
        assert grants
        return self.findings

    def required(self, grants: Sequence[Grant]) -> str:
        return f"-@all {len(grants)}"

    def _reach(self) -> None:
        if self.away:
            raise StoreUnavailable("no connection to the server")

    def _manage(self) -> None:
        self._reach()
        if self.refused:
            raise AccessDenied("the credentials may not manage users")
