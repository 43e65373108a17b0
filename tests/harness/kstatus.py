"""The verdict of kstatus on an object, by its published rules for kinds it does not know.

What Flux, `helm --wait`, kpt and many others go by.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """What becomes of an object."""

    CURRENT = "Current"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    TERMINATING = "Terminating"


def verdict(body: Mapping[str, Any]) -> Verdict:
    """Judge an object by deletion, observed generation, and then its conditions in their order."""
    metadata, status = body["metadata"], body.get("status", {})
    if metadata.get("deletionTimestamp"):
        return Verdict.TERMINATING
    observed = status.get("observedGeneration")
    if observed is not None and observed != metadata.get("generation"):
        return Verdict.IN_PROGRESS
    conditions = status.get("conditions", [])
    for found in conditions:
        if (found["type"], found["status"]) == ("Reconciling", "True"):
            return Verdict.IN_PROGRESS
        if (found["type"], found["status"]) == ("Stalled", "True"):
            return Verdict.FAILED
    ready = [found["status"] for found in conditions if found["type"] == "Ready"]
    return Verdict.CURRENT if ready in ([], ["True"]) else Verdict.IN_PROGRESS
