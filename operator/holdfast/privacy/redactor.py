"""The privacy rules of a policy, ready to be applied."""

import time
from collections.abc import Iterable

from holdfast.formats import JSON, read_facts
from holdfast.policy import parts
from holdfast.privacy.patterns import Clock, Patterns
from holdfast.privacy.screening import Screening, plain_name
from holdfast.values import Privacy

_NOTHING = Privacy()


class Redactor:
    """Applies `privacy` of a policy, and what a caller says of its own messages.

    - `redactPatterns`: every string of a message is searched: texts, names, a tool's arguments and
      results, nested lists and objects; numbers too, which are replaced as a whole. JSON text inside a
      string stays JSON. Not touched: the keys of objects, and what holds a conversation together: ids,
      roles and types of an item, its parts and its tool calls (`privacy.structure` lists them). The same
      keys inside a tool's arguments are content.
    - `nonPersistableTypes`: roles, kinds of items (`message`, `tool_call`, `tool_result`, `reasoning`,
      ...) and types of items or of parts of a content (`input_image`, ...), in any spelling of case
      and separators. A message of that kind is not stored. One that makes or answers a tool call is
      stored as a stub: ids, roles, types and the tool's name, with the redaction text in place of its
      content. A model accepts no call without its result, so without the stub reads would hide
      the other half for ever. A part of a content becomes a text part with the redaction text.
    - A caller's `Privacy(sensitive=...)` is applied first, and `redacted=True` skips the patterns.

    Args:
        policy: the part `privacy` of a policy.
        clock: monotonic seconds.
    """

    def __init__(self, policy: parts.Privacy, *, clock: Clock = time.monotonic) -> None:
        self._patterns = Patterns(policy.redact_patterns)
        self._none = Patterns(())
        self._text = policy.redaction_text
        self._kinds = frozenset(map(plain_name, policy.non_persistable_types))
        self._clock = clock

    def screening(self, privacy: Privacy | None) -> Screening | None:
        """Return what screens the messages of one call; None where all may be stored as it is."""
        said = privacy or _NOTHING
        patterns = self._none if said.redacted else self._patterns
        if not (patterns.compiled or self._kinds or said.sensitive):
            return None
        return Screening(patterns.search(self._clock), self._text, self._kinds, said.sensitive)

    def shown(self, items: Iterable[JSON], format: str | None) -> list[JSON]:
        """Return what a program outside may be shown of messages that are stored.

        They may be older than the policy. What it would not store today is not sent either: in the place
        of such a message stands one of its role with the redaction text.

        Args:
            items: values of our own: they are changed in place.
            format: the memory's message format by name; None finds it by each item's shape.
        """
        screening = self.screening(None)
        if screening is None:
            return list(items)
        shown: list[JSON] = []
        for item in items:
            facts = read_facts(item, format)
            screened = screening.screen(item, facts)
            instead = {"role": facts.role or "user", "content": self._text}
            shown.append(screened.item if screened.stored else instead)
        return shown

    def redact(self, item: JSON) -> JSON:
        """Return a text or an item with what the patterns match replaced, whatever its kind.

        Args:
            item: a value of our own: it is changed in place.
        """
        if not self._patterns.compiled:
            return item
        screening = Screening(self._patterns.search(self._clock), self._text, frozenset(), ())
        return screening.screen(item, read_facts(item, None)).item
