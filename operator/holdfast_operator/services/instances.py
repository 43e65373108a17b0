"""Whether the data on a backend's servers are still those that were there."""

import hashlib
from collections.abc import Mapping
from typing import Final

from holdfast.store.maintenance import Maintenance
from holdfast_operator.reasons import ReadyReason
from holdfast_operator.services.outcome import Obstacle

ACCEPT: Final = "holdfast.dev/accept-server"


async def recognise(
    hands: Maintenance, backend: str, known: str | None, annotations: Mapping[str, str]
) -> str:
    """Return the name of the data on a backend's servers; the first to come gives them one.

    Several backends, of one cluster or of many, may share a server and a key prefix, and so the name.

    Args:
        hands: in the servers.
        backend: uid of the MemoryBackend.
        known: the name they had; None where nobody looked before.
        annotations: of the backend: its owner may accept other data there.

    Raises:
        Obstacle: they have another name, or none any more.
        HoldfastError: of the server.
    """
    if known is None:
        return await hands.mark(backend, _name(backend, ""))
    found = await hands.instance()
    if found == known:
        return known
    # Where the data are gone the message must name what will be there: the same at every look.
    named = found or _name(backend, known)
    if annotations.get(ACCEPT) != named:
        what = (
            "The server that answers holds other data than before"
            if found
            else "The server came back empty, or another one answers: what was kept there is gone"
        )
        raise Obstacle(
            ReadyReason.SERVER_REPLACED,
            f"{what}. Nothing is written until somebody looked. If it was a mistake, bring the data back; "
            f'to go on with what is there, annotate this MemoryBackend with {ACCEPT}: "{named}".',
        )
    got = await hands.mark(backend, named)
    # Another backend on this server may have been quicker: what was accepted is not what is there.
    return got if got == named else await recognise(hands, backend, known, annotations)


def _name(backend: str, before: str) -> str:
    return hashlib.sha256(f"{backend}/{before}".encode()).hexdigest()[:16]
