"""What Kopf remembers of an object to tell edits apart: nothing."""

from collections.abc import Iterable

import kopf


class NoDiffBase(kopf.DiffBaseStorage):
    """Tells Kopf of every object that it is as it was.

    Kopf asks for what changed since it last called a handler of changes, and keeps that in an annotation: a
    write for every object and every edit, that makes the status written meanwhile a conflict. No handler of
    ours asks. What an object says is looked at whenever it changes, and a deletion is told by its timestamp.
    """

    def build(
        self, *, body: kopf.Body, extra_fields: Iterable[object] | None = None
    ) -> kopf.BodyEssence:
        """Return nothing: there is nothing to compare."""
        del body, extra_fields
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        """Return the same nothing. None would mean that the object is new."""
        del body
        return kopf.BodyEssence()

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Keep nothing."""
