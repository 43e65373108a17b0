"""Keeping the webhook's certificate: the leader's task, over the service that decides."""

import logging
from datetime import timedelta
from typing import Final

from holdfast_operator.services.certificates import (
    CertificateService,
    CertificateStore,
    CertificateTaken,
    service_hosts,
)
from holdfast_operator.services.ports import (
    Clock,
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    SystemClock,
)
from holdfast_operator.webhook import Webhook

_log: Final = logging.getLogger("holdfast.operator")

_AGAIN: Final = 5.0
"""Seconds after which what failed is tried again."""
_LEAST: Final = 0.1
_SOON: Final = 1.0
"""Seconds between looks at what the leader is about to register."""
_MANY: Final = 5
"""Conflicts in a row that are no coincidence."""


class Renewal:
    """Looks after the certificate as long as this process leads.

    Args:
        store: where it is kept.
        webhook: whose it is.
        namespace: of the operator.
        interval: seconds between looks at rest.
        clock: tells the time, and waits.
    """

    def __init__(
        self,
        store: CertificateStore,
        webhook: Webhook,
        namespace: str,
        *,
        interval: float,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._interval = interval
        self._fault = ""
        self._conflicts = 0
        self._service = CertificateService(
            store,
            self._clock,
            service_hosts(webhook.service, namespace),
            timedelta(seconds=webhook.lifetime),
        )

    async def keep(self) -> None:
        """Look until cancelled. What goes wrong is said once, and tried again."""
        while True:
            await self._clock.sleep(await self._look())

    async def until_trusted(self) -> None:
        """Return when API servers trust what the webhook serves, whoever saw to it.

        Where this may not be known, or the Secret is somebody else's, nothing is waited for: `keep` says what
        is wrong.
        """
        while not await self._is_trusted():
            await self._clock.sleep(_SOON)

    async def _is_trusted(self) -> bool:
        try:
            return await self._service.is_trusted()
        except (ClusterForbidden, CertificateTaken):
            return True
        except ClusterError:
            return False

    async def _look(self) -> float:
        """Look once; return how many seconds to wait."""
        try:
            rest = await self._service.reconcile()
        except ClusterConflict as error:
            # Somebody else changed it: decide again. For ever is another matter: the API server refuses it.
            self._conflicts += 1
            if self._conflicts < _MANY:
                return _LEAST
            self._say(str(error))
            return min(_AGAIN, self._interval)
        except ClusterError as error:
            self._say(str(error))
            return min(_AGAIN, self._interval)
        except Exception:  # noqa: BLE001 - as the comment says
            # A bug here must not take the memories with it.
            _log.exception("unexpected: the webhook's certificate is looked at again later")
            return self._interval
        if self._fault:
            _log.info("The webhook's certificate can be kept again.")
        self._fault, self._conflicts = "", 0
        return min(max(rest.total_seconds(), _LEAST), self._interval)

    def _say(self, fault: str) -> None:
        if fault != self._fault:
            _log.warning("The webhook's certificate cannot be kept: %s", fault)
            self._fault = fault
