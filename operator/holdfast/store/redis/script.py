"""The Lua scripts, assembled from their files.

A script names the pieces of `scripts/lib` it needs in a line `-- uses: state, backstop`; they are put
between its shebang and its body. One that goes on as another does names that in a line `-- then: append`.
Comments do not travel: the SHA-1 is that of what is left.
"""

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

_USES: Final = re.compile(r"^-- uses: (.+)$", re.MULTILINE)
_THEN: Final = re.compile(r"^-- then: (\w+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*\n", re.MULTILINE)


class Script:
    """A script as the server knows it.

    Attributes:
        name: its file's name.
        body: the whole text.
        sha: SHA-1 of the body in hexadecimal: what EVALSHA names.
        command: EVALSHA, or EVALSHA_RO where the script's shebang says that it writes nothing: that
            is all a user with read-only access may run.
    """

    __slots__ = ("body", "command", "name", "sha")

    def __init__(self, name: str, body: bytes) -> None:
        self.name = name
        self.body = body
        self.command = b"EVALSHA_RO" if b"no-writes" in body.partition(b"\n")[0] else b"EVALSHA"
        self.sha = hashlib.sha1(body, usedforsecurity=False).hexdigest().encode()


@cache
def script(name: str) -> Script:
    """Load and assemble one script; read from the package once."""
    return assemble(name, {})


def assemble(name: str, own: Mapping[str, str]) -> Script:
    """Assemble one script, with pieces of one's own in the place of those of the package.

    Args:
        name: of its file.
        own: texts of pieces by their names.
    """
    folder = resources.files("holdfast.store.redis") / "scripts"
    text = (folder / f"{name}.lua").read_text("ascii")
    shebang, _, body = text.partition("\n")
    uses = _USES.search(body)
    names = uses[1].split(", ") if uses else []
    pieces = [
        own[piece] if piece in own else (folder / "lib" / f"{piece}.lua").read_text("ascii")
        for piece in names
    ]
    parts = [*pieces, body]
    if then := _THEN.search(body):
        parts.append((folder / f"{then[1]}.lua").read_text("ascii").partition("\n")[2])
    return Script(name, "".join([shebang, "\n", *map(_bare, parts)]).encode())


@cache
def all_scripts() -> tuple[Script, ...]:
    """Return every script, in the order of their names."""
    folder = resources.files("holdfast.store.redis") / "scripts"
    names = sorted(
        entry.name.removesuffix(".lua") for entry in folder.iterdir() if entry.name.endswith(".lua")
    )
    return tuple(script(name) for name in names)


def _bare(text: str) -> str:
    return _COMMENT.sub("", text)
