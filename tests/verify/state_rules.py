"""What is stored besides the messages: counters and expiries; and what calls raise."""

from collections.abc import Iterable, Iterator

from tests.verify.case import OVER, SLOT_MOVED, Case, Kind, Violation

_WRONG = frozenset(
    {"CorruptRecord", "UnknownKeys", "ConfigurationError", "Error", "ScriptsMissing"}
)


def untrue_counters(case: Case) -> Iterator[Violation]:
    """The counters are those of the records, at every moment."""
    for image in (*case.probes, *([case.image] if case.image else [])):
        meta = image.meta
        if meta is None:
            if image.log or image.pin:
                yield Violation(Kind.COUNTERS, case.session, "there are records and no counters")
            continue
        entries = image.entries
        said = (meta.messages, meta.tokens, meta.size, meta.pinned, meta.pinned_tokens)
        counted = (
            len(entries),
            sum(entry.tokens for entry in entries),
            sum(entry.size for entry in entries),
            len(image.pin),
            sum(entry.tokens for entry in image.pin),
        )
        if said != counted:
            yield Violation(
                Kind.COUNTERS,
                case.session,
                f"messages, tokens, bytes, pinned ones and their tokens are said to be {said}, and are "
                f"{counted}",
            )
        if entries and entries[-1].seq >= meta.next:
            yield Violation(
                Kind.COUNTERS,
                case.session,
                f"the next number is {meta.next}, and {entries[-1].seq} is taken",
            )
    for call in case.appends:
        if call.ok and call.result.torn:
            yield Violation(
                Kind.COUNTERS, case.session, "the store found that records had vanished", (call,)
            )


def missing_expiries(case: Case) -> Iterator[Violation]:
    """All keys of a session expire, at the one moment that the session says.

    A key that moves to another node takes along how long it lives, not until when: it may then live a
    little longer than the others, by as much as its move took.
    """
    moves = [fault.end - fault.begin for fault in case.faults if fault.kind == SLOT_MOVED]
    drift = max(moves, default=0) / 1e6
    for image in (*case.probes, *([case.image] if case.image else [])):
        at = image.expiries or {}
        wrong = {
            name: time
            for name, time in at.items()
            if time <= 0
            or (image.meta is not None and not 0 <= time - image.meta.expires_at <= drift)
        }
        if wrong:
            said = image.meta.expires_at if image.meta is not None else "nothing"
            yield Violation(
                Kind.NO_EXPIRY,
                case.session,
                f"the session says it expires at {said}, and its keys do at {wrong}",
            )


def immortal(keys: Iterable[str]) -> list[Violation]:
    """Every key expires, those too that belong to no session."""
    return [Violation(Kind.NO_EXPIRY, "", f"{key} never expires") for key in keys]


def unexpected_errors(case: Case) -> Iterator[Violation]:
    """Calls fail with the library's errors only, and with those that have a cause in the run."""
    for call in case.calls:
        strange = call.outcome.startswith("unexpected") or call.outcome in _WRONG
        strange = strange or (call.turn is None and call.outcome in OVER)
        if strange or (call.outcome == "AcknowledgedLost" and case.lossy is None):
            yield Violation(
                Kind.UNEXPECTED, case.session, f"a call ended with {call.outcome}", (call,)
            )
