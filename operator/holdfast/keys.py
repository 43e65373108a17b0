"""Names of sessions and of keys. Distinct inputs always give distinct names.

A session's key is percent-encoded, so that it can hold none of `{ } * ? [ ]` and no separator of
ours: neither a pattern match nor another tenant's prefix can be smuggled in.
"""

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from holdfast.errors import ConfigurationError, SessionKeyError
from holdfast.values import MemoryAddress

MAX_KEY_BYTES = 512
MAX_LABELS = 16  # of one session
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")
_KEY = re.compile(r"[-A-Za-z0-9_.:%]+")
_FIELD = re.compile(r"\{([a-z_][a-z0-9_]{0,30})\}")
_VALUE = "[-A-Za-z0-9_.%]+"  # of a field, encoded
_NAME = re.compile(r"[a-z0-9]([-.a-z0-9]{0,61}[a-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]{0,14}[a-z0-9])?")


def _encode(value: object, plain: frozenset[int]) -> str:
    if not isinstance(value, str):
        raise SessionKeyError(f"a session key is text, not {type(value).__name__}")
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise SessionKeyError("a session key must be valid Unicode text") from None
    if not raw:
        raise SessionKeyError("a session key must not be empty")
    if len(raw) > MAX_KEY_BYTES:
        raise SessionKeyError(
            f"a session key may have at most {MAX_KEY_BYTES} bytes of UTF-8, this one has {len(raw)}"
        )
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in raw)


def session_key(session_id: str) -> str:
    """Encode a session id for use in a key.

    Args:
        session_id: 1..512 bytes of UTF-8.

    Raises:
        SessionKeyError: no text, empty, too long, or not Unicode.
    """
    return _encode(session_id, _PLAIN | {ord(":")})


def is_session_key(key: str) -> bool:
    """Whether a session may have this encoded key."""
    return _KEY.fullmatch(key) is not None


def template_fields(template: str) -> tuple[str, ...]:
    """Return the names of a key template's fields, in order."""
    return tuple(_FIELD.findall(template))


def template_key(template: str, fields: Mapping[str, str]) -> str:
    """Fill in a key template. Distinct fields give distinct keys.

    Each value is encoded on its own and also without `:`, which only the template's literals may
    hold, so no value can reach over into the next field.

    Args:
        template: such as `user:{user_id}`.
        fields: exactly the template's fields, each 1..512 bytes of UTF-8.

    Raises:
        SessionKeyError: a field is missing, unknown, empty or too long.
    """
    names = template_fields(template)
    missing = [name for name in names if name not in fields]
    unknown = [name for name in fields if name not in names]
    if missing or unknown:
        wants = ", ".join(names)
        raise SessionKeyError(f"the key template {template!r} takes exactly the fields {wants}")

    def value(match: re.Match[str]) -> str:
        try:
            return _encode(fields[match[1]], _PLAIN)
        except SessionKeyError as error:
            raise SessionKeyError(f"field {match[1]!r}: {error.message}") from None

    return _FIELD.sub(value, template)


def template_pattern(template: str, fields: Mapping[str, str]) -> re.Pattern[str]:
    """Return what matches the whole key of exactly those sessions that have these fields.

    Between two fields stands a `:`, which no encoded value holds: so a match cannot be another's.

    Args:
        template: such as `tenant:{tenant}:user:{user_id}`.
        fields: some of the template's fields, each 1..512 bytes of UTF-8.

    Raises:
        SessionKeyError: a field is unknown, empty or too long.
    """
    names = template_fields(template)
    if not fields.keys() <= set(names):
        raise SessionKeyError(f"the key template {template!r} has the fields {', '.join(names)}")
    # Literals and names of fields take turns.
    parts = [
        (re.escape(_encode(fields[part], _PLAIN)) if part in fields else _VALUE)
        if place % 2
        else re.escape(part)
        for place, part in enumerate(_FIELD.split(template))
    ]
    return re.compile("".join(parts))


class FixedKey(NamedTuple):
    """What fixed fields leave of a memory's sessions.

    Attributes:
        start: how their keys begin, encoded; empty where nothing is fixed.
        whole: `start` is the key of the only one.
    """

    start: str = ""
    whole: bool = False


def fixed_key(template: str | None, fields: Mapping[str, str]) -> FixedKey:
    """Return which sessions fixed fields of a key template leave: those that have exactly these.

    A start reaches up to the next field, over a literal that holds a colon, which no value does: so
    `42` can never be the start of `421`.

    Args:
        template: such as `tenant:{tenant}:user:{user_id}`; None where the caller gives session ids.
        fields: the template's first ones, each 1..512 bytes of UTF-8; none: nothing is fixed.

    Raises:
        SessionKeyError: the fields are not the first ones of the template, or a value cannot be.
    """
    if not fields:
        return FixedKey()
    names = template_fields(template or "")
    first = names[: len(fields)]
    if template is None or set(first) != set(fields):
        raise SessionKeyError(
            "fixed fields have to be the first ones of the key template, which "
            + (f"has {', '.join(names)}" if names else "the memory does not have")
        )
    if len(first) == len(names):
        return FixedKey(template_key(template, fields), whole=True)
    following = template.index(f"{{{names[len(first)]}}}")
    return FixedKey(template_key(template[:following], fields), whole=False)


def label_digest(name: str, value: str) -> str:
    """Return the name of a label's index: 32 hexadecimal digits. Distinct labels give distinct ones.

    Args:
        name: 1..512 bytes of UTF-8.
        value: 1..512 bytes of UTF-8.

    Raises:
        ConfigurationError: one of them is something else.
    """
    try:
        text = f"{_encode(name, _PLAIN)}={_encode(value, _PLAIN)}"
    except SessionKeyError:
        raise ConfigurationError(
            "the name and the value of a label are texts of 1 to 512 bytes of UTF-8"
        ) from None
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def label_digests(*given: Mapping[str, str] | None) -> tuple[str, ...]:
    """Return the names of the indexes of labels, in order; see `label_digest`.

    Raises:
        ConfigurationError: they are no labels, or more than 16.
    """
    labels: set[tuple[str, str]] = set()
    for one in given:
        try:
            labels |= set((one or {}).items())
        except (AttributeError, TypeError):
            raise ConfigurationError("labels is a mapping of names to values") from None
    if len(labels) > MAX_LABELS:
        raise ConfigurationError(f"a session has at most {MAX_LABELS} labels")
    return tuple(sorted(label_digest(name, value) for name, value in labels))


def memory_address(namespace: str, name: str) -> MemoryAddress:
    """Check and join the two parts of a memory's name.

    Raises:
        ConfigurationError: a part could not be the name of a Kubernetes object.
    """
    for what, text in (("namespace", namespace), ("memory name", name)):
        if not _is_name(text):
            raise ConfigurationError(
                f"{what} {text!r} is no Kubernetes name: at most 63 of a-z, 0-9, '-' and '.', "
                "starting and ending with a letter or digit"
            )
    return MemoryAddress(namespace, name)


def _is_name(text: object) -> bool:
    return isinstance(text, str) and _NAME.fullmatch(text) is not None


def key_prefix(prefix: str) -> str:
    """Return the first part of every key, checked.

    Raises:
        ConfigurationError: the prefix is not 1..16 of `a-z 0-9 -`.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(f"key prefix {prefix!r} is not 1..16 of a-z, 0-9 and '-'")
    return prefix


def memory_prefix(memory: MemoryAddress, prefix: str = "mem") -> str:
    """Return the prefix of the memory's own keys: `mem:{namespace/name}`.

    Raises:
        ConfigurationError: the prefix is not 1..16 of `a-z 0-9 -`.
    """
    return f"{key_prefix(prefix)}:{{{memory}}}"


def session_prefix(memory: MemoryAddress, key: str, prefix: str = "mem") -> str:
    """Return the prefix of one session's keys; the braces make it one slot of a Cluster."""
    return f"{prefix}:{{{memory}/{key}}}"
