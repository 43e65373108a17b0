"""What a pod says about its sidecar: the annotations of `holdfast.dev`, checked. Pure functions."""

import re
from dataclasses import dataclass
from typing import Final

from holdfast_webhook.pods import Pod

PREFIX: Final = "holdfast.dev/"
BINDING: Final = f"{PREFIX}binding"
MEMORY: Final = f"{PREFIX}memory"
MEMORIES: Final = f"{PREFIX}memories"
CONTAINERS: Final = f"{PREFIX}containers"
POSITION: Final = f"{PREFIX}position"
LISTEN: Final = f"{PREFIX}listen"
STATUS_PORT: Final = f"{PREFIX}status-port"
SUMMARIZER_KEY: Final = f"{PREFIX}summarizer-key"
INJECTED: Final = f"{PREFIX}injected"
ANNOTATIONS: Final = (
    *(BINDING, MEMORY, MEMORIES, CONTAINERS, POSITION, LISTEN, STATUS_PORT, SUMMARIZER_KEY),
    INJECTED,
)
"""Every annotation there is. Another one under our prefix is a slip of the pen: one that was meant to narrow
what the pod can reach would be lost without a word."""

HTTP_PORT: Final = 7070
_STATUS_PORT: Final = 7071
_ENTRY: Final = "api-key"
_OBJECT: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]{1,253}")
_LONGEST: Final = 63
_MOST: Final = 16
_POSITIONS: Final = ("first", "last")
_LISTEN: Final = ("all", "unix")


class Refused(Exception):
    """This pod can never work; the sentence says what to write."""


@dataclass(frozen=True, slots=True)
class SummarizerKey:
    """Where the key for the model that summarises is: a Secret of the pod's namespace, and its entry."""

    secret: str
    entry: str


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a pod wants.

    Attributes:
        binding: the MemoryBinding that the sidecar uses.
        named: the pod names it; else it is the one named like its ServiceAccount.
        memories: those of the binding that it serves; empty for all.
        containers: names of the containers that use it; None for those that can.
        first: the sidecar comes before the other init containers.
        unix: it listens on the socket alone.
        status_port: of its status listener.
        summarizer_key: the key for a model; None without.
    """

    binding: str
    named: bool = False
    memories: tuple[str, ...] = ()
    containers: tuple[str, ...] | None = None
    first: bool = False
    unix: bool = False
    status_port: int = _STATUS_PORT
    summarizer_key: SummarizerKey | None = None


def read_wishes(pod: Pod) -> Wishes:
    """Read what a pod wants.

    Raises:
        Refused: an annotation cannot be read, or there is none of that name.
    """
    found = pod.annotations
    for name in found:
        if name.startswith(PREFIX) and name not in ANNOTATIONS:
            known = ", ".join(each.removeprefix(PREFIX) for each in ANNOTATIONS[:-1])
            raise Refused(f"there is no annotation {name}: of {PREFIX}… there are {known}")
    return Wishes(
        binding=_binding(pod),
        named=BINDING in found,
        memories=_memories(found),
        containers=_names(found, CONTAINERS) if CONTAINERS in found else None,
        first=_choice(found, POSITION, _POSITIONS, "last") == "first",
        unix=_choice(found, LISTEN, _LISTEN, "all") == "unix",
        status_port=_port(found),
        summarizer_key=_summarizer_key(found),
    )


def _binding(pod: Pod) -> str:
    account = pod.spec.service_account_name or "default"
    name = pod.annotations.get(BINDING)
    if name is None:
        if len(account) > _LONGEST:
            raise Refused(
                f"no MemoryBinding can be named like the ServiceAccount {account}, which has more than "
                f"{_LONGEST} characters: name one with the annotation {BINDING}"
            )
        return account
    if len(name) > _LONGEST or not _OBJECT.fullmatch(name):
        raise Refused(
            f"the annotation {BINDING} must be the name of a MemoryBinding: {_said(name)}"
        )
    return name


def _memories(found: dict[str, str]) -> tuple[str, ...]:
    if MEMORY in found and MEMORIES in found:
        raise Refused(f"write one of the annotations {MEMORY} and {MEMORIES}, not both")
    if MEMORY in found:
        name = found[MEMORY]
        if len(name) > _LONGEST or not _LABEL.fullmatch(name):
            raise Refused(
                f"the annotation {MEMORY} must be the name of one memory of the binding: {_said(name)}"
            )
        return (name,)
    return _names(found, MEMORIES) if MEMORIES in found else ()


def _names(found: dict[str, str], annotation: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in found[annotation].split(","))
    usable = all(len(name) <= _LONGEST and _LABEL.fullmatch(name) for name in names)
    if not usable or len(names) > _MOST or len(set(names)) < len(names):
        raise Refused(
            f"the annotation {annotation} must be 1 to {_MOST} different names with commas between them: "
            f"{_said(found[annotation])}"
        )
    return names


def _choice(found: dict[str, str], annotation: str, choices: tuple[str, str], standard: str) -> str:
    value = found.get(annotation, standard)
    if value not in choices:
        raise Refused(f"the annotation {annotation} must be {' or '.join(choices)}: {_said(value)}")
    return value


def _port(found: dict[str, str]) -> int:
    text = found.get(STATUS_PORT, str(_STATUS_PORT))
    if not re.fullmatch(r"[1-9][0-9]{3,4}", text) or not 1024 <= int(text) <= 65535:
        raise Refused(
            f"the annotation {STATUS_PORT} must be a port from 1024 to 65535: {_said(text)}"
        )
    if int(text) == HTTP_PORT:
        raise Refused(f"the annotation {STATUS_PORT} cannot be {HTTP_PORT}, which is the API's own")
    return int(text)


def _summarizer_key(found: dict[str, str]) -> SummarizerKey | None:
    text = found.get(SUMMARIZER_KEY)
    if text is None:
        return None
    secret, slash, entry = text.partition("/")
    entry = entry if slash else _ENTRY
    if len(secret) > 253 or not _OBJECT.fullmatch(secret) or not _KEY.fullmatch(entry):
        raise Refused(
            f"the annotation {SUMMARIZER_KEY} must name a Secret, or a Secret and its entry with a slash "
            f"between them: {_said(text)}"
        )
    return SummarizerKey(secret, entry)


def _said(value: str) -> str:
    """Quote what was written, not without end."""
    return f"it says {value[:80]!r}"
