"""Names of sessions and keys: distinct, bounded, and free of all that Redis gives a meaning to."""

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from holdfast.errors import ConfigurationError, SessionKeyError
from holdfast.keys import (
    MAX_KEY_BYTES,
    memory_address,
    memory_prefix,
    session_key,
    session_prefix,
    template_fields,
    template_key,
    template_pattern,
)
from holdfast.policy import template_fields as policy_template_fields
from holdfast.values import MemoryAddress

SUPPORT = MemoryAddress("team-a", "support")
KEY = re.compile(r"(?:[A-Za-z0-9_.:-]|%[0-9A-F]{2})+")
FIELD = re.compile(r"(?:[A-Za-z0-9_.-]|%[0-9A-F]{2})+")
TEMPLATE = r"[a-z0-9_.:-]{0,6}(\{[a-z][a-z0-9_]{0,30}\}:[a-z0-9_.:-]{0,6}){1,8}"


def unicode_text(*, least: int = 1, most: int = 40) -> st.SearchStrategy[str]:
    """Any text that has a UTF-8 form, with much of what has a meaning in keys."""
    anything = st.characters(exclude_categories=["Cs"])
    hostile = st.sampled_from("{}*?[]^\\:%/|\0\n \"'%41aA")
    return st.text(anything | hostile, min_size=least, max_size=most)


TEXT = unicode_text()
NAMES = st.from_regex(r"[a-z0-9]([-.a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
ADDRESSES = st.builds(MemoryAddress, NAMES, NAMES)


# --- session ids


@given(TEXT)
@example("{user}*?[a-z]")
@example("a%41")
@example("\0")
def test_a_key_holds_nothing_but_plain_characters_and_reads_back(text: str) -> None:
    key = session_key(text)
    assert KEY.fullmatch(key)
    assert unquote_to_bytes(key).decode() == text


@given(TEXT, TEXT)
@example("a:b", "a%3Ab")
@example("ä", "a\u0308")
@example("a", "A")
@example("a ", "a")
def test_distinct_ids_give_distinct_keys(one: str, other: str) -> None:
    assert (session_key(one) == session_key(other)) == (one == other)


@pytest.mark.parametrize("text", ["user-42", "a.b_c:d", "0", "..", "-"])
def test_ids_people_choose_stay_readable(text: str) -> None:
    assert session_key(text) == text


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a b", "a%20b"),
        ("{x}", "%7Bx%7D"),
        ("*?[]", "%2A%3F%5B%5D"),
        ("a/b", "a%2Fb"),
        ("%41", "%2541"),
        ("é", "%C3%A9"),
        ("\n", "%0A"),
    ],
)
def test_the_rest_is_percent_encoded(text: str, key: str) -> None:
    assert session_key(text) == key


@given(st.integers(1, MAX_KEY_BYTES), st.sampled_from(["a", "*", "é", "€", "😀"]))
def test_bytes_count_not_characters(size: int, character: str) -> None:
    text = character * (size // len(character.encode())) or "a"
    assert unquote_to_bytes(session_key(text)).decode() == text


@pytest.mark.parametrize("character", ["a", "é", "€", "😀"])
def test_at_most_512_bytes(character: str) -> None:
    fits = MAX_KEY_BYTES // len(character.encode())
    session_key(character * fits)
    with pytest.raises(SessionKeyError, match="at most 512 bytes of UTF-8, this one has"):
        session_key(character * (fits + 1))


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(SessionKeyError, match="must not be empty"):
        session_key("")


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "\ud83d \ude00"])
def test_half_a_character_is_refused(text: str) -> None:
    with pytest.raises(SessionKeyError, match="valid Unicode"):
        session_key(text)


# --- key templates


@given(TEXT, TEXT)
def test_a_template_encodes_each_field_also_without_a_colon(tenant: str, user: str) -> None:
    key = template_key("chat:{tenant}:user:{user}", {"tenant": tenant, "user": user})
    chat, first, literal, second = key.split(":")
    assert (chat, literal) == ("chat", "user")
    assert FIELD.fullmatch(first)
    assert FIELD.fullmatch(second)
    assert unquote_to_bytes(first).decode() == tenant
    assert unquote_to_bytes(second).decode() == user


@given(
    template=st.from_regex(TEMPLATE, fullmatch=True),
    one=st.lists(unicode_text(most=6), min_size=8, max_size=8),
    other=st.lists(unicode_text(most=6), min_size=8, max_size=8),
)
def test_distinct_fields_give_distinct_keys(
    template: str, one: list[str], other: list[str]
) -> None:
    names = template_fields(template)
    assume(len(set(names)) == len(names))
    first, second = dict(zip(names, one, strict=False)), dict(zip(names, other, strict=False))
    same = template_key(template, first) == template_key(template, second)
    assert same == (first == second)


ALIKE = st.lists(st.sampled_from(["a", "b", "a:b", "%", ".", "a-b"]), min_size=8, max_size=8)


@given(
    template=st.from_regex(TEMPLATE, fullmatch=True),
    stored=ALIKE,
    wanted=ALIKE,
    known=st.integers(0, 8),
)
def test_a_pattern_matches_exactly_the_keys_that_have_the_fields(
    template: str, stored: list[str], wanted: list[str], known: int
) -> None:
    names = template_fields(template)
    assume(len(set(names)) == len(names))
    key = template_key(template, dict(zip(names, stored, strict=False)))
    fields = dict(list(zip(names, wanted, strict=False))[:known])
    has = all(value == stored[names.index(name)] for name, value in fields.items())
    assert (template_pattern(template, fields).fullmatch(key) is not None) == has


def test_a_pattern_knows_no_other_fields() -> None:
    with pytest.raises(SessionKeyError, match="has the fields user_id"):
        template_pattern("user:{user_id}", {"user": "42"})


@given(st.from_regex(TEMPLATE, fullmatch=True), unicode_text(most=6))
def test_a_filled_template_holds_nothing_but_plain_characters(template: str, value: str) -> None:
    fields = dict.fromkeys(template_fields(template), value)
    assert KEY.fullmatch(template_key(template, fields))


@given(st.from_regex(TEMPLATE, fullmatch=True))
def test_the_keys_and_the_policy_find_the_same_fields(template: str) -> None:
    assert template_fields(template) == policy_template_fields(template)


def test_what_would_collide_when_joined_does_not() -> None:
    template = "{a}:{b}"
    pairs = [("x:y", "z"), ("x", "y:z"), ("x%3Ay", "z"), ("x", "y%3Az"), ("x:", ":z")]
    keys = {template_key(template, {"a": a, "b": b}) for a, b in pairs}
    assert len(keys) == len(pairs)


def test_a_value_that_looks_like_a_field_is_only_a_value() -> None:
    key = template_key("{a}:{b}", {"a": "{b}", "b": "mine"})
    assert key == "%7Bb%7D:mine"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tenant": "a"},
        {"tenant": "a", "user": "b", "more": "c"},
        {"tenant": "a", "User": "b"},
    ],
)
def test_a_template_takes_exactly_its_fields(fields: dict[str, str]) -> None:
    with pytest.raises(SessionKeyError, match=r"takes exactly the fields tenant, user$"):
        template_key("chat:{tenant}:{user}", fields)


@pytest.mark.parametrize("value", ["", "x" * 513, "\ud800"])
def test_a_field_that_cannot_be_is_named_and_its_value_is_not(value: str) -> None:
    with pytest.raises(
        SessionKeyError, match=r"^field 'user': a session key (must|may)"
    ) as refusal:
        template_key("{tenant}:{user}", {"tenant": "a", "user": value})
    assert "xxx" not in str(refusal.value)


def test_each_field_may_have_512_bytes() -> None:
    key = template_key("{a}:{b}", {"a": "x" * 512, "b": "é" * 256})
    assert key == f"{'x' * 512}:{'%C3%A9' * 256}"


# --- memories, and the prefixes of their keys


@pytest.mark.parametrize("name", ["a", "0", "team-a", "a.b-c", "x" * 63])
def test_names_as_kubernetes_has_them(name: str) -> None:
    assert memory_address(name, name) == MemoryAddress(name, name)


@pytest.mark.parametrize(
    "name",
    ["", "A", "a_b", "a/b", "-a", "a-", ".a", "a.", "a}", "{a", "a*", "a\n", "é", "x" * 64],
)
def test_what_kubernetes_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^namespace .* is no Kubernetes name"):
        memory_address(name, "support")
    with pytest.raises(ConfigurationError, match=r"^memory name .* is no Kubernetes name"):
        memory_address("team-a", name)


def test_an_address_reads_as_it_is_written() -> None:
    assert str(SUPPORT) == "team-a/support"
    assert memory_prefix(SUPPORT) == "mem:{team-a/support}"
    assert memory_prefix(SUPPORT, "prod") == "prod:{team-a/support}"
    assert session_prefix(SUPPORT, "42", "prod") == "prod:{team-a/support/42}"


@pytest.mark.parametrize("prefix", ["a", "mem", "m-1", "0", "x" * 16])
def test_prefixes_that_may_be(prefix: str) -> None:
    assert memory_prefix(SUPPORT, prefix).startswith(f"{prefix}:")


@pytest.mark.parametrize(
    "prefix", ["", "A", "a:b", "a*", "a{", "-a", "a-", "a.b", "a\n", "é", "x" * 17]
)
def test_prefixes_that_may_not_be(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"is not 1\.\.16 of a-z, 0-9 and '-'"):
        memory_prefix(SUPPORT, prefix)


@given(ADDRESSES, TEXT)
def test_the_braces_hold_one_whole_session(memory: MemoryAddress, text: str) -> None:
    prefix = session_prefix(memory, session_key(text))
    assert (prefix.count("{"), prefix.count("}")) == (1, 1)
    assert prefix.endswith("}")
    namespace, name, key = prefix[len("mem:{") : -1].split("/")
    assert (MemoryAddress(namespace, name), key) == (memory, session_key(text))


@given(ADDRESSES, ADDRESSES, TEXT, TEXT)
@example(MemoryAddress("a", "b"), MemoryAddress("a", "b-c"), "d", "d")
@example(MemoryAddress("a", "b"), MemoryAddress("a", "b"), "d/e", "d")
def test_nobody_elses_session_is_under_a_memorys_prefix(
    one: MemoryAddress, other: MemoryAddress, first: str, second: str
) -> None:
    tenant = memory_prefix(one).removesuffix("}") + "/"
    mine = session_prefix(one, session_key(first))
    yours = session_prefix(other, session_key(second))
    assert mine.startswith(tenant)
    assert yours.startswith(tenant) == (one == other)
    assert (mine == yours) == ((one, first) == (other, second))
    assert not mine.startswith(memory_prefix(other))
