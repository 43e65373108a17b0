"""`holdfast-sidecar`: the library behind HTTP, for the containers of one pod."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from holdfast.errors import HoldfastError
from holdfast_sidecar.options import options

_EXTRA = frozenset({"uvicorn", "uvloop", "httptools", "prometheus_client"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    # The first process of a container gets no signal that nobody handles, and loading takes a moment.
    signal.signal(signal.SIGTERM, _end)
    # pydantic looks through all packages for plugins: a tenth of a second, for nothing.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        found = options(arguments, os.environ)
        from holdfast_sidecar.serving import run  # noqa: PLC0415 - loads the extra

        sys.exit(run(found))
    except HoldfastError as error:
        sys.exit(f"holdfast-sidecar: {error}")
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.exit("holdfast-sidecar: the sidecar is an extra: pip install 'holdfast[sidecar]'")


def _end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's
    """End before anything was begun."""
    sys.exit(0)


if __name__ == "__main__":
    main()
