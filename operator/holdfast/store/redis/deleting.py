"""Ending a memory: its sessions become tombstones, or are left to the expiry they have."""

from collections.abc import Callable, Mapping, Sequence

from holdfast.store.maintenance import Lasting, Step
from holdfast.store.redis.carrier import Command
from holdfast.store.redis.index import CHUNK, Index
from holdfast.store.redis.layout import SessionKeys, session_keys
from holdfast.store.redis.replies import milliseconds
from holdfast.store.redis.runner import Runner, evalsha
from holdfast.store.redis.script import script
from holdfast.store.redis.sweeping import ABANDONED
from holdfast.store.redis.visiting import Visit, answered
from holdfast.values import MemoryAddress

REMEMBERED = 86_400_000
"""Milliseconds for which marker, epoch and revision outlive a memory."""
_TOMBSTONE = 60_000
"""Life of a tombstone in milliseconds: above the age at which a writer asks for the policy again."""
_LONGEST = 3650 * 86_400_000
"""Milliseconds: the longest life that a policy can give."""
_RETAINED = 3_600_000
"""Milliseconds that a retained policy lives at least."""


def burial(revision: int) -> Callable[[SessionKeys], Command]:
    """Return what makes the command that replaces a session by a tombstone.

    Args:
        revision: sessions of this one and older ones are to go.
    """

    def command(keys: SessionKeys) -> Command:
        return evalsha(script("bury"), keys, [revision, _TOMBSTONE])

    return command


async def settle_buried(visit: Visit, index: Index) -> Step:
    """Drop what a walk of burials left of the index."""
    dropped = await index.forget(visit.entries("DONE", "SAME"), idle=0)
    dropped += await index.forget(visit.entries("GONE"), idle=ABANDONED)
    return visit.step(changed=len(visit.entries("DONE")), dropped=dropped)


async def bury_found(
    runner: Runner,
    found: Sequence[tuple[MemoryAddress, str]],
    revisions: Mapping[MemoryAddress, int],
    *,
    prefix: str,
) -> int:
    """Bury sessions of several memories and return how many there were. One round trip for every 100.

    Args:
        runner: runs scripts.
        found: memory and session.
        revisions: for each memory, as of `burial`.
        prefix: first part of every key.
    """
    commands = [
        burial(revisions[memory])(session_keys(memory, session, prefix))
        for memory, session in found
    ]
    buried = 0
    for first in range(0, len(commands), CHUNK):
        replies = await runner.each(commands[first : first + CHUNK])
        buried += sum(answered(reply, list)[0] == "DONE" for reply in replies)
    return buried


def longest_lasting(visit: Visit) -> Lasting:
    """Return how long the sessions live that a walk of `holdings` met."""
    found = Lasting()
    for _, ends, touched in visit.replies("OK"):
        found = found.joined(Lasting(ends, ends - touched))
    return found


async def retained_until(runner: Runner, lasting: Lasting) -> tuple[int, int]:
    """Return when a released memory's policy ends, and its marker: milliseconds. One round trip.

    Args:
        runner: asks for the server's time.
        lasting: how long the memory's sessions live.
    """
    [clock] = await runner.read([(b"TIME",)])
    now = milliseconds(clock)
    # A tenant may have written any time there; more than a policy can say is none.
    policy = max(now + _RETAINED, min(lasting.ends, now + _LONGEST))
    idle = max(REMEMBERED, min(lasting.idle, _LONGEST))
    # Until the policy ends a writer may renew a session once more.
    return policy, policy + idle + _TOMBSTONE
