"""How far replicas follow their primaries, as these say."""

import asyncio
import re
from typing import Final

from holdfast.store.maintenance import History, Replication
from holdfast.store.redis.carrier import Carrier, Reply
from holdfast.store.redis.runner import Runner

_NAME: Final = re.compile(rb"^master_replid:(\w{1,64})\r?$", re.MULTILINE)
_WRITTEN: Final = re.compile(rb"^master_repl_offset:(\d{1,19})\r?$", re.MULTILINE)
_CONFIRMED: Final = re.compile(rb"^slave\d+:.*\bstate=online,offset=(\d{1,19})", re.MULTILINE)


async def ask_replication(carrier: Carrier, patience: float) -> Replication:
    """Ask every primary; see `Maintenance.replication`.

    Args:
        carrier: knows the servers.
        patience: seconds a question is repeated while a server cannot answer.
    """
    primaries = await carrier.primaries()
    runners = [Runner(one, patience=patience) for one in primaries]
    answers = await asyncio.gather(*(one.ask([(b"INFO", b"replication")]) for one in runners))
    return dict(found for [reply] in answers if (found := _history(reply)) is not None)


def _history(reply: Reply) -> tuple[str, History] | None:
    """Read what a primary says; None where it does not."""
    if not isinstance(reply, bytes):
        return None
    name, written = _NAME.search(reply), _WRITTEN.search(reply)
    if name is None or written is None:
        return None
    confirmed = min(map(int, _CONFIRMED.findall(reply)), default=None)
    return name[1].decode(), History(int(written[1]), confirmed)
