"""The key for a model's endpoint: found at each call, shown to nobody."""

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Final

from holdfast.errors import SummaryFailed

KEY_FILE: Final = "HOLDFAST_SUMMARIZER_KEY_FILE"
KEY: Final = "HOLDFAST_SUMMARIZER_KEY"
_LONGEST: Final = 16 * 1024


class Key:
    """A key that only a header gets to see: neither a `repr` nor a traceback's locals show it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Key(...)"

    @property
    def sendable(self) -> bool:
        """Whether a header can carry it."""
        return self._text != "" and all("!" <= character <= "~" for character in self._text)

    def put(self, headers: MutableMapping[str, str]) -> None:
        """Put the key into a request's headers."""
        headers["Authorization"] = f"Bearer {self._text}"


def read_key(environ: Mapping[str, str]) -> Key | None:
    """Return the key from the file that `KEY_FILE` names, else the one in `KEY`, else None.

    Reads the file anew each time, so that a key may change under a running process. Blocks.

    Raises:
        SummaryFailed: the file cannot be read, or what it or the variable holds is no key.
    """
    file = environ.get(KEY_FILE)
    if not file:
        return _key(environ[KEY].encode("utf-8", "replace"), KEY) if environ.get(KEY) else None
    try:
        with Path(file).open("rb") as stream:
            return _key(stream.read(_LONGEST + 1), KEY_FILE)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    raise SummaryFailed(f"the file that {KEY_FILE} names cannot be read: {reason}")


def _key(content: bytes, variable: str) -> Key:
    key = Key(content.strip().decode("ascii", "replace")) if len(content) <= _LONGEST else Key("")
    del content  # a traceback that shows locals would show it
    if not key.sendable:
        raise SummaryFailed(
            f"{variable} does not lead to a key: one line of printable ASCII characters is expected"
        )
    return key
