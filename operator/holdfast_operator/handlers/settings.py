"""How Kopf is set up, and why."""

import logging
from collections.abc import Iterator
from typing import Final

import kopf

from holdfast_operator.handlers.essence import NoDiffBase

PREFIX: Final = "holdfast.dev"
FINALIZER: Final = f"{PREFIX}/finalizer"
DELETION_GOES_ON: Final = "the deletion goes on"
"""What an attempt of a deletion says that made progress."""


class Backoffs:
    """Seconds between attempts of a request, without end.

    Kopf gives a request up when its backoffs end, and with it the watch or the operator: an API server
    that is away for ten minutes would be the end of everything.
    """

    def __iter__(self) -> Iterator[float]:
        """Yield 1, 1, 2, 3, 5, 8 and 10 for ever."""
        yield from (1.0, 1.0, 2.0, 3.0, 5.0, 8.0)
        while True:
            yield 10.0


def operator_settings() -> kopf.OperatorSettings:
    """Return the settings of the operator."""
    settings = kopf.OperatorSettings()
    # Names of our own: Kopf's default finalizer is shared by every operator that is made with it.
    settings.persistence.finalizer = FINALIZER
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=PREFIX, v1=False)
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.networking.error_backoffs = Backoffs()
    # Belt and braces against watches that fall silent.
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = 100
    # No lists of CRDs and namespaces: the definitions are there before Kopf starts.
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.level = logging.WARNING
    settings.posting.default_backoffs = (1.0, 5.0)
    settings.posting.reporting_component = "holdfast-operator"
    settings.posting.reporting_instance = "holdfast-operator"
    settings.posting.event_name_prefix = "holdfast-"
    settings.process.ultimate_exiting_timeout = 20
    settings.execution.default_backoff = 15
    # The time a daemon gets to end by itself before the object's next event is waited for.
    settings.background.instant_exit_timeout = 0.1
    return settings


def quiet_progress(record: logging.LogRecord) -> bool:
    """Drop the record of each attempt of a deletion that made progress: Kopf logs them as errors."""
    return DELETION_GOES_ON not in record.getMessage()
