"""When a binding's password changes, and which ones its user has meanwhile. Pure functions.

The Secret is the only truth. Besides the password it notes, in annotations, the hashes of that one
and of the one before, and until when the latter is taken. So what the user must have follows from the
Secret and the time alone, and whoever was interrupted at any point goes on from what it finds:

- a new hash was put on the servers and the Secret was not written: the Secret still says what it
  said, the new hash goes, and the rotation, which is still due, begins again;
- the Secret was written: both hashes follow from it until grace ends, also on a server that lost them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from holdfast.store.access import password_hash
from holdfast_operator.services.conditions import moment, timestamp

NOTES: Final = "holdfast.dev/"
HASH: Final = f"{NOTES}password-sha256"
MADE: Final = f"{NOTES}password-made-at"
FORMER: Final = f"{NOTES}former-password-sha256"
UNTIL: Final = f"{NOTES}former-password-until"
REQUEST: Final = f"{NOTES}rotate-handled"

MOST_OF_REQUEST: Final = 256
"""Characters of a request's value that are told apart."""

_PASSWORD: Final = re.compile(r"[-_A-Za-z0-9]{43}")
"""32 random bytes as `secrets.token_urlsafe` writes them."""
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Password:
    """The password of a binding's user, and the one before.

    Attributes:
        text: itself.
        made: when; the interval counts from here.
        request: value of the annotation that asked for it; empty without one.
        former: hash of the one before; empty without one.
        until: when the one before is no longer taken.
    """

    text: str = field(repr=False)
    made: datetime
    request: str = ""
    former: str = field(default="", repr=False)
    until: datetime | None = None

    def hashes(self, now: datetime) -> tuple[str, ...]:
        """Return the hashes that the user has at a time; that of the password is the first."""
        own = password_hash(self.text)
        return (own, self.former) if self.in_grace(now) and self.former != own else (own,)

    def in_grace(self, now: datetime) -> bool:
        """Whether the one before is still taken."""
        return bool(self.former) and self.until is not None and now < self.until

    def notes(self) -> dict[str, str]:
        """Return the annotations of the Secret, each with a value: one that is absent stays as it was."""
        return {
            HASH: password_hash(self.text),
            MADE: timestamp(self.made),
            REQUEST: self.request,
            FORMER: self.former,
            UNTIL: timestamp(self.until) if self.until is not None else "",
        }


def read_password(
    data: Mapping[str, bytes], notes: Mapping[str, str], now: datetime
) -> Password | None:
    """Read what a Secret says; None where the password is not the one that was put there.

    Args:
        data: its entries.
        notes: its annotations; whoever may edit the Secret may have edited them.
        now: the time; nothing is made later.
    """
    raw = data.get("password", b"")
    text = raw.decode("ascii", "replace")
    if not _PASSWORD.fullmatch(text) or password_hash(text) != notes.get(HASH):
        return None
    former, until = notes.get(FORMER, ""), notes.get(UNTIL)
    known = bool(_SHA256.fullmatch(former))
    return Password(
        text=text,
        made=min(moment(notes.get(MADE)), now),
        request=notes.get(REQUEST, "")[:MOST_OF_REQUEST],
        former=former if known else "",
        until=moment(until) if known else None,
    )


def noted_hash(notes: Mapping[str, str]) -> str:
    """Return the hash that a Secret notes of its password; empty where it notes none."""
    noted = notes.get(HASH, "")
    return noted if _SHA256.fullmatch(noted) else ""


@dataclass(frozen=True, slots=True)
class Rules:
    """When a password changes.

    Attributes:
        interval: its greatest age.
        grace: how long the one before is taken.
        request: what the annotation of the binding says; empty without one.
    """

    interval: timedelta
    grace: timedelta
    request: str = ""


def next_password(
    current: Password | None,
    rules: Rules,
    *,
    now: datetime,
    lost: str = "",
    make: Callable[[], str],
) -> Password:
    """Return the password there should be: the current one, unless it is due.

    Args:
        current: the one in the Secret; None where there is none that was put there.
        rules: when it changes.
        now: the time.
        lost: hash of one that somebody overwrote in the Secret: it is taken for the time of grace.
        make: gives a new one.
    """
    if current is None:
        until = now + rules.grace if lost else None
        return Password(make(), now, rules.request, former=lost, until=until)
    asked = bool(rules.request) and rules.request != current.request
    if not asked and now < current.made + rules.interval:
        return current
    # In a grace that is still running the oldest password gives way: who asks does not wait.
    return Password(
        make(),
        now,
        rules.request or current.request,
        former=password_hash(current.text),
        until=now + rules.grace,
    )
