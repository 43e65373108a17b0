"""What is known of models by name: the encoding they count with, and the size of their context.

The figures are the vendors' own, as published until November 2026. Only what a vendor states is
here: a model that is not listed is unknown, and what is said of one model is not assumed of the
next. Who serves a model may give it a smaller context, and may call it what he likes; a policy's
`model.contextWindow` is asked before this table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known of a model.

    Attributes:
        encoding: name of the encoding it counts plain text with, such as `o200k_base`; None when it
            has a vocabulary of its own, which no counter of the library has.
        window: tokens of its context, the answer included where the vendor counts it in; None when
            it is not known, or up to who serves the model.
    """

    encoding: str | None
    window: int | None


_O200K: Final = "o200k_base"
_CL100K: Final = "cl100k_base"

FAMILIES: Final[Mapping[str, str | None]] = MappingProxyType(
    {
        **dict.fromkeys(("gpt-3.5", "gpt-35", "gpt-4"), _CL100K),
        **dict.fromkeys(("chatgpt-4o", "gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5"), _O200K),
        # gpt-oss has more control tokens than o200k_base, and the same tokens for text.
        **dict.fromkeys(("gpt-oss", "o1", "o3", "o4"), _O200K),
        **dict.fromkeys(("claude", "command", "deepseek", "gemini", "gemma", "grok"), None),
        **dict.fromkeys(("codestral", "magistral", "ministral", "mistral", "mixtral"), None),
        **dict.fromkeys(("codellama", "llama", "qwen"), None),
    }
)
"""Encodings by family; the longest name that fits wins."""

# Open models have no entry: who serves one decides how large its context is.
WINDOWS: Final[Mapping[str, int]] = MappingProxyType(
    {
        **dict.fromkeys(("gpt-4", "gpt-4-0613"), 8_192),
        **dict.fromkeys(("gpt-3.5-turbo", "gpt-3.5-turbo-0125", "gpt-3.5-turbo-1106"), 16_385),
        "gpt-4-32k": 32_768,
        **dict.fromkeys(("gpt-4-turbo", "gpt-4-0125-preview", "gpt-4-1106-preview"), 128_000),
        **dict.fromkeys(("gpt-4o", "gpt-4o-mini", "chatgpt-4o", "gpt-4.5"), 128_000),
        **dict.fromkeys(("o1-mini", "o1-preview"), 128_000),
        **dict.fromkeys(("gpt-5-chat", "gpt-5.1-chat", "gpt-5.2-chat"), 128_000),
        **dict.fromkeys(("o1", "o1-pro", "o3", "o3-mini", "o3-pro", "o4-mini"), 200_000),
        **dict.fromkeys(("gpt-5", "gpt-5-mini", "gpt-5-nano", "gpt-5-pro"), 400_000),
        **dict.fromkeys(("gpt-5-codex", "gpt-5.1", "gpt-5.1-codex", "gpt-5.2"), 400_000),
        **dict.fromkeys(("gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano"), 1_047_576),
        **dict.fromkeys(("gpt-5.4", "gpt-5.4-pro"), 1_050_000),
        **dict.fromkeys(("claude-3-haiku", "claude-3-sonnet", "claude-3-opus"), 200_000),
        **dict.fromkeys(("claude-3-5-haiku", "claude-3-5-sonnet", "claude-3-7-sonnet"), 200_000),
        **dict.fromkeys(("claude-opus-4", "claude-opus-4-1", "claude-opus-4-5"), 200_000),
        **dict.fromkeys(("claude-sonnet-4", "claude-sonnet-4-5", "claude-haiku-4-5"), 200_000),
        **dict.fromkeys(("claude-opus-4-6", "claude-opus-4-7", "claude-opus-4-8"), 1_000_000),
        **dict.fromkeys(("claude-sonnet-4-6", "claude-sonnet-5"), 1_000_000),
        **dict.fromkeys(("claude-opus-5", "claude-opus-5-5"), 1_000_000),
        **dict.fromkeys(("gemini-1.5-flash", "gemini-1.5-flash-8b"), 1_048_576),
        **dict.fromkeys(("gemini-2.0-flash", "gemini-2.0-flash-lite"), 1_048_576),
        **dict.fromkeys(("gemini-2.5-flash", "gemini-2.5-flash-lite"), 1_048_576),
        **dict.fromkeys(("gemini-2.5-pro", "gemini-3-pro", "gemini-3.1-pro"), 1_048_576),
        "gemini-3-flash": 1_048_576,
        "gemini-1.5-pro": 2_097_152,
    }
)
"""Tokens of the context by model; the longest name that fits wins."""

# `openai:`, `ft:`, and what Bedrock writes in front: `us.anthropic.`. No name of a model begins with
# letters and a dot.
_PROVIDER = re.compile(r"(?:[a-z][a-z_-]*[.:])*")
# A name goes on after a model's own only with the release: a date, a number of three digits, Bedrock's
# version, or that it is a preview. "-mini" or "-5" is another model.
_RELEASE = re.compile(
    r"(?:[-@]\d{4}-\d{2}-\d{2}|[-@]\d{8}|-\d{3}|-latest|-(?:preview|exp)(?:-\d{2}-\d{2})?|-v\d(?::\d)?)*"
)


def known_model(name: str) -> KnownModel | None:
    """Find a model by the name that a provider or a router gives it.

    What stands in front is left out: a path as in `openai/gpt-5`, a provider as in
    `us.anthropic.claude-opus-4-6-v1` or `ft:gpt-4o:team`. Letters may be of either case.

    Args:
        name: such as `gpt-4o-2024-08-06`.

    Returns:
        What is known of it; None when not even its encoding is.
    """
    bare = name.strip().lower().rpartition("/")[2]
    provider = _PROVIDER.match(bare)
    assert provider is not None  # it matches nothing at all, too
    bare = bare[provider.end() :]
    if "ft:" in provider[0]:
        bare = bare.partition(":")[0]  # the rest says whose it is
    family = _longest(FAMILIES, bare)
    if family is None:
        return None
    return KnownModel(FAMILIES[family], _window(bare))


def _longest(families: Mapping[str, object], name: str) -> str | None:
    found = [family for family in families if _begins(name, family)]
    return max(found, key=len, default=None)


def _begins(name: str, family: str) -> bool:
    """Whether the name is of the family: "llama3" is of "llama", "o1x" and "o10" are not of "o1"."""
    if not name.startswith(family):
        return False
    following = name[len(family) :][:1]
    return not following.isalnum() or (family[-1].isalpha() and following.isdigit())


def _window(name: str) -> int | None:
    found = [
        model
        for model in WINDOWS
        if name.startswith(model) and _RELEASE.fullmatch(name, len(model))
    ]
    return WINDOWS[max(found, key=len)] if found else None
