"""The table of models: found under every provider's way to write a name, and nothing guessed."""

import re

import pytest
import tiktoken.model
from hypothesis import given
from hypothesis import strategies as st

from holdfast.models import FAMILIES, WINDOWS, KnownModel, known_model
from holdfast.tokens import ENCODINGS


def window(name: str) -> int | None:
    found = known_model(name)
    return found.window if found else None


@pytest.mark.parametrize(
    ("name", "encoding", "tokens"),
    [
        ("gpt-3.5-turbo", "cl100k_base", 16_385),
        ("gpt-4", "cl100k_base", 8_192),
        ("gpt-4-turbo-2024-04-09", "cl100k_base", 128_000),
        ("gpt-4o", "o200k_base", 128_000),
        ("gpt-4.1-mini", "o200k_base", 1_047_576),
        ("gpt-5", "o200k_base", 400_000),
        ("gpt-5-chat-latest", "o200k_base", 128_000),
        ("o1-preview", "o200k_base", 128_000),
        ("o1", "o200k_base", 200_000),
        ("claude-sonnet-4-5", None, 200_000),
        ("claude-opus-4-6", None, 1_000_000),
        ("gemini-2.5-pro", None, 1_048_576),
        ("llama-3.3-70b-instruct", None, None),
        ("mistral-large-latest", None, None),
    ],
)
def test_what_is_known(name: str, encoding: str | None, tokens: int | None) -> None:
    assert known_model(name) == KnownModel(encoding, tokens)


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("GPT-4o", "gpt-4o"),
        (" gpt-4o ", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("openai/gpt-5", "gpt-5"),
        ("openai:gpt-5", "gpt-5"),
        ("azure/gpt-4.1", "gpt-4.1"),
        ("azure_openai:gpt-4.1", "gpt-4.1"),
        ("openrouter/anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc123", "gpt-4o-mini"),
        ("openai/ft:gpt-4o-mini-2024-07-18:acme:name:abc123", "gpt-4o-mini"),
        ("anthropic:claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("anthropic.claude-3-5-sonnet-20241022-v2:0", "claude-3-5-sonnet"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("us-gov.anthropic.claude-3-haiku-20240307-v1:0", "claude-3-haiku"),
        ("global.anthropic.claude-opus-4-6-v1", "claude-opus-4-6"),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-3-haiku-20240307-v1:0",
            "claude-3-haiku",
        ),
        ("claude-sonnet-4@20250514", "claude-sonnet-4"),
        ("claude-3-5-sonnet-v2@20241022", "claude-3-5-sonnet"),
        ("vertex_ai/gemini-2.0-flash-001", "gemini-2.0-flash"),
        ("google-gla:gemini-2.5-flash-preview-04-17", "gemini-2.5-flash"),
        ("publishers/google/models/gemini-3-pro-preview", "gemini-3-pro"),
    ],
)
def test_a_name_is_read_as_providers_write_it(written: str, model: str) -> None:
    assert model in WINDOWS
    assert known_model(written) == known_model(model)


@pytest.mark.parametrize(
    "name",
    [
        "gpt-5.9",
        "gpt-5-some-variant",
        "gpt-4o-transcribe",
        "gpt-4o-realtime-preview",
        "gpt-4-0314x",
        "gpt-3.5-turbo-0613",
        "gpt-35-turbo",
        "gpt-oss-120b",
        "o3-deep-research",
        "claude-opus-4-9",
        "claude-opus-7",
        "anthropic.claude-3-sonnet-20240229-v1:0:28k",
        "gemini-2.5-flash-preview-tts",
        "gemini-9-pro",
        "grok-4",
        "meta-llama/Llama-3.1-8B-Instruct",
        "ollama/llama3.1:8b",
        "Qwen/Qwen2.5-72B-Instruct",
        "deepseek-chat",
    ],
)
def test_a_variant_that_is_not_listed_has_no_window(name: str) -> None:
    found = known_model(name)
    assert found is not None
    assert found.window is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "gpt",
        "gpt-6",
        "my-gpt-4o",
        "a-model",
        "o10",
        "o1x",
        "claudette",
        "openai/",
        "x:y/z.w",
    ],
)
def test_nothing_is_said_of_the_rest(name: str) -> None:
    assert known_model(name) is None


@pytest.mark.parametrize("name", sorted(WINDOWS))
def test_every_entry_is_found_and_its_family_too(name: str) -> None:
    found = known_model(name)
    assert found is not None
    assert found.window == WINDOWS[name]
    assert window(f"{name}-2031-02-28") == WINDOWS[name]
    assert window(f"{name}-x") is None
    assert re.fullmatch(r"[a-z0-9.-]+", name)


def test_every_encoding_is_one_there_is() -> None:
    assert {encoding for encoding in FAMILIES.values() if encoding is not None} == set(ENCODINGS)


CHAT = sorted(
    name
    for name in (*WINDOWS, "gpt-4.5-preview", "gpt-5.4-2031-01-01", "o3-2025-04-16", "gpt-35-turbo")
    if re.match(r"(chat)?gpt|o\d", name)
)


@pytest.mark.parametrize("name", CHAT)
def test_encodings_are_those_that_tiktoken_names(name: str) -> None:
    found = known_model(name)
    assert found is not None
    # It knows a family by the hyphen that follows.
    theirs = tiktoken.model.encoding_name_for_model(f"{name}-x")
    assert found.encoding == theirs


def test_gpt_oss_counts_text_as_o200k() -> None:
    found = known_model("openai/gpt-oss-120b")
    assert found == KnownModel("o200k_base", None)


@given(name=st.text(), before=st.sampled_from(["", "openai/", "us.anthropic.", "ft:"]))
def test_any_text_may_be_asked_for(name: str, before: str) -> None:
    found = known_model(before + name)
    assert found is None or found.window is None or found.window in WINDOWS.values()


def test_a_long_name_takes_no_time() -> None:
    for unit in ("a-", "a.", "a:", "-preview", "-001", "ft:", "@20250101"):
        assert window("gpt-5" + unit * 100_000 + "!") is None
        known_model(unit * 100_000 + "!")
