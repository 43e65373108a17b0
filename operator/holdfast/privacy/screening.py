"""What one call's messages become before they are counted, stored or sent."""

from typing import Any, Final, NamedTuple, cast

from holdfast.formats import JSON, Facts
from holdfast.privacy.fields import replace_field
from holdfast.privacy.patterns import PATIENCE, Search
from holdfast.privacy.structure import ARGUMENTS, Members, goes_on, is_fixed
from holdfast.privacy.stubs import stub, stub_part
from holdfast.privacy.texts import TextRedactor

_SEPARATORS: Final = str.maketrans("", "", "-_ ")


class Screened(NamedTuple):
    """What became of one message.

    Attributes:
        item: what may be stored.
        stored: False when nothing may.
        places: how many values or parts of texts were replaced.
        withheld: its content may not be stored: nothing is, or a stub.
    """

    item: JSON
    stored: bool = True
    places: int = 0
    withheld: bool = False


class Screening:
    """Screens the messages of one call.

    Args:
        search: finds what the policy's patterns match; an empty one where they were applied before.
        text: what stands in place of a match.
        kinds: of content that may not be stored, as `plain_name` writes them.
        sensitive: paths of fields whose values are replaced.

    Attributes:
        sensitive: as given.
    """

    def __init__(
        self, search: Search, text: str, kinds: frozenset[str], sensitive: tuple[str, ...]
    ) -> None:
        self._search = search
        self._text = text
        self._kinds = kinds
        self.sensitive = sensitive
        self._missed = set(sensitive)

    def warnings(self) -> tuple[str, ...]:
        """Return what the caller should know of the messages screened so far."""
        found = [
            f"sensitive: no message has the field {path!r}"
            for path in self.sensitive
            if path in self._missed
        ]
        if self._search.exhausted:
            found.append(
                f"privacy.redactPatterns took more than {PATIENCE:g} s: from there on whole rests of "
                "texts were replaced"
            )
        return tuple(found)

    def screen(self, item: JSON, facts: Facts) -> Screened:
        """Return what may be stored of a message.

        Args:
            item: a JSON value of our own: it is changed in place.
            facts: of the item.
        """
        places = 0
        for path in self.sensitive:
            item, found = replace_field(item, path, self._text)
            places += found
            if found:
                self._missed.discard(path)
        withheld = self._withholds(item, facts)
        if withheld and not (facts.opens or facts.closes):
            return Screened(None, stored=False, withheld=True)
        if withheld and isinstance(item, dict):
            item = stub(cast("Members", item), self._text)
        walk = _Walk(self._search, self._text, self._kinds)
        # What no format reads has no ids that hold anything together: all of it is content.
        item = walk.value(item, structured=facts.recognised or bool(facts.opens or facts.closes))
        return Screened(item, True, places + walk.places, withheld)

    def _withholds(self, item: JSON, facts: Facts) -> bool:
        if not self._kinds:
            return False
        names: list[object] = [facts.kind.value, facts.role]
        if isinstance(item, dict):
            names += (item.get("type"), item.get("role"))
        return any(isinstance(name, str) and plain_name(name) in self._kinds for name in names)


class _Walk:
    """Goes through an item and replaces what must not be stored, in place."""

    def __init__(self, search: Search, text: str, kinds: frozenset[str]) -> None:
        self._texts = TextRedactor(search, text)
        self._searches = bool(search)
        self._text = text
        self._kinds = kinds
        self._parts = 0

    @property
    def places(self) -> int:
        return self._parts + self._texts.places

    def value(self, value: Any, *, structured: bool, key: str = "") -> Any:
        """Return the value as it may be stored; one call deep for each level of nesting."""
        if isinstance(value, str):
            return (
                self._texts.redact(value, keep_keys=key in ARGUMENTS) if self._searches else value
            )
        if isinstance(value, dict):
            members = cast("Members", value)
            for name, child in members.items():
                if structured and is_fixed(members, name, key):
                    continue
                below = structured and goes_on(name, child)
                members[name] = self.value(child, structured=below, key=name)
        elif isinstance(value, list):
            parts = cast("list[Any]", value)
            for at, part in enumerate(parts):
                if structured and self._withholds(part):
                    parts[at] = stub_part(part, self._text)
                    self._parts += 1
                parts[at] = self.value(parts[at], structured=structured, key=key)
        elif isinstance(value, int | float) and not isinstance(value, bool) and self._searches:
            return self._texts.redact_number(value)
        return cast("Any", value)

    def _withholds(self, part: Any) -> bool:
        if not self._kinds or not isinstance(part, dict):
            return False
        kind = cast("Members", part).get("type")
        return isinstance(kind, str) and plain_name(kind) in self._kinds


def plain_name(name: str) -> str:
    """Return the name of a kind as it is compared: `ToolResult` and `tool_result` are one."""
    return name.translate(_SEPARATORS).casefold()
