import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from holdfast.errors import ConfigurationError, PolicyInvalid
from holdfast.policy import (
    Cause,
    Duration,
    Flushing,
    FlushingStrategy,
    Limits,
    MemoryType,
    OnFull,
    Policy,
    Quantity,
    Retention,
    differences_not_in_force,
    load_policy,
    template_fields,
    transition_fault,
)
from holdfast.policy.manifest import Manifest
from tests.fixtures.cases import Case, case_name, invalid_cases, valid_cases

RESOURCES = [case for case in valid_cases() if case.kind == "MemoryResource"]
FAULTS = [
    case for case in invalid_cases() if case.kind == "MemoryResource" and len(case.texts) == 1
]
MINIMAL: dict[str, Any] = {"limits": {"maxTokens": 12000}, "retention": {"ttl": "24h"}}

MILLISECONDS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def policy(**fields: Any) -> Policy:
    return load_policy({"retention": {"ttl": "24h"}, **fields})[1]


# --- durations and sizes


@given(number=st.integers(1, 9_999_999), unit=st.sampled_from(sorted(MILLISECONDS)))
def test_a_duration_keeps_its_text_and_knows_its_length(number: int, unit: str) -> None:
    duration = Duration(f"{number}{unit}")
    assert str(duration) == f"{number}{unit}"
    assert duration.milliseconds == number * MILLISECONDS[unit]
    assert duration.seconds == duration.milliseconds / 1000


@given(st.integers(1, 9_999_999).map(lambda number: timedelta(milliseconds=number)))
def test_a_duration_of_a_timedelta_has_the_same_length(span: timedelta) -> None:
    assert timedelta(milliseconds=Duration.of(span).milliseconds) == span


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(days=1), "1d"),
        (timedelta(hours=36), "36h"),
        (timedelta(minutes=90), "90m"),
        (timedelta(seconds=1, milliseconds=1), "1001ms"),
    ],
)
def test_a_timedelta_becomes_the_largest_unit_that_divides_it(span: timedelta, text: str) -> None:
    assert Duration.of(span).text == text


@pytest.mark.parametrize(
    "span",
    [
        timedelta(),
        timedelta(seconds=-1),
        timedelta(microseconds=1),
        timedelta(days=200_000, milliseconds=1),
    ],
)
def test_a_timedelta_that_no_manifest_can_say_is_refused(span: timedelta) -> None:
    with pytest.raises(ValueError, match="duration"):
        Duration.of(span)
    with pytest.raises(ValidationError):
        Retention(ttl=span)  # pyright: ignore[reportArgumentType]


def test_a_bare_number_is_no_duration() -> None:
    with pytest.raises(TypeError, match="no unit"):
        Duration.of(30)  # pyright: ignore[reportArgumentType]


@given(st.text(max_size=12) | st.from_regex(r"[0-9.]{1,8}[a-z]{1,2}\n?"))
def test_a_duration_is_what_the_pattern_says(text: str) -> None:
    valid = re.fullmatch(r"[1-9][0-9]{0,6}(ms|s|m|h|d)", text) is not None
    try:
        Duration(text)
    except ValueError:
        assert not valid
    else:
        assert valid


@given(
    number=st.integers(1, 10**15 - 1),
    unit=st.sampled_from(["", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"]),
)
def test_a_size_keeps_its_text_and_knows_its_bytes(number: int, unit: str) -> None:
    size = Quantity(f"{number}{unit}")
    base = 1024 if unit.endswith("i") else 1000
    assert str(size) == f"{number}{unit}"
    assert size.bytes == number * base ** ["", "k", "m", "g", "t"].index(unit[:1].lower())


@pytest.mark.parametrize("text", ["", "0", "-1", "01", "1KB", "1.5Gi", "1 Ki", "Ki", "1Ki\n", "٣"])
def test_a_size_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        Quantity(text)


# --- reading


@pytest.mark.parametrize("case", RESOURCES, ids=case_name)
def test_a_valid_manifest_is_read_from_its_file(case: Case) -> None:
    name, read = load_policy(case.file)
    assert name == case.documents[0]["metadata"]["name"]
    assert load_policy(str(case.file)) == (name, read)
    assert load_policy(case.documents[0]) == (name, read)


@pytest.mark.parametrize("case", FAULTS, ids=case_name)
def test_a_fault_is_named_with_field_reason_and_line(case: Case) -> None:
    expected = case.expected
    with pytest.raises(PolicyInvalid) as raised:
        load_policy(case.file)
    error = raised.value
    assert (error.path, error.reason, error.message) == (
        expected.path,
        expected.reason,
        expected.message,
    )
    assert error.file == str(case.file)
    assert error.line is not None
    assert str(error).startswith(f"{case.file}:{error.line}: {expected.path}: ")


def _fault_in(path: Path, text: str) -> PolicyInvalid:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PolicyInvalid) as raised:
        load_policy(path)
    return raised.value


SPREAD = """\
# a comment
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata:
  name: support
spec:
  backendRef: {name: shared}
  limits:
    maxTokens: 12000
  eviction:
    policy: Priority
    priorityKeywords:
    - invoice
    - refund
  retention:
    ttl: 24h
"""


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("maxTokens: 12000", "maxTokens: 0", 9),
        ("- refund", "- invoice", 14),
        ("ttl: 24h", "refreshOn: [Read]", 15),
        ("policy: Priority", "policy: FIFO", 12),
        ("  name: support", "  name: Support", 5),
        ("v1alpha1", "v1", 2),
        ("ttl: 24h", "ttl: 24h\n    ttl: 25h", 17),
    ],
)
def test_the_line_is_that_of_the_field_or_of_what_holds_it(
    tmp_path: Path, old: str, new: str, line: int
) -> None:
    assert _fault_in(tmp_path / "memory.yaml", SPREAD.replace(old, new)).line == line


def test_a_bare_spec_has_no_name_and_needs_no_backend(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("retention: {ttl: 24h}\n", encoding="utf-8")
    assert load_policy(path) == (None, Policy(retention=Retention(ttl=Duration("24h"))))
    with_backend = {**MINIMAL, "backendRef": {"name": "shared"}, "deletionPolicy": "Delete"}
    assert load_policy(with_backend) == load_policy(MINIMAL)


def test_the_lines_of_a_bare_spec_are_known_too(tmp_path: Path) -> None:
    error = _fault_in(tmp_path / "policy.yaml", "retention:\n  ttl: 24h\nlimits:\n  maxTokens: x\n")
    assert (error.path, error.line) == ("spec.limits.maxTokens", 4)


def test_a_policy_is_taken_as_it_is() -> None:
    given_policy = Policy(retention=Retention(ttl=Duration("1h")))
    assert load_policy(given_policy) == (None, given_policy)


def test_other_documents_in_the_file_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(f"kind: MemoryBackend\nspec: 5\n---\n---\n{SPREAD}", encoding="utf-8")
    assert load_policy(path)[0] == "support"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold exactly one MemoryResource; this has 0"),
        (f"{SPREAD}---\n{SPREAD}", "must hold exactly one MemoryResource; this has 2"),
        ("kind: Secret\n---\nkind: ConfigMap\n", "exactly one MemoryResource; this has 0"),
        ("- retention\n", 'must be of type object: "array"'),
        ("retention: {ttl: 24h\n", "the file is no YAML: expected ',' or '}'"),
        ("[" * 5000, "the file is no YAML: it is nested too deeply"),
        ("retention: \0\n", "the file is no YAML: ReaderError"),
        ("retention: !!python/name:os.system {}\n", "the file is no YAML: could not determine"),
        ("retention: &a\n  ttl: 24h\n  more: *a\n", "unknown field"),
    ],
)
def test_a_file_that_holds_no_policy_is_refused(tmp_path: Path, text: str, message: str) -> None:
    assert message in _fault_in(tmp_path / "policy.yaml", text).message


def test_a_date_is_text_as_it_is_for_kubectl(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("description: 2031-05-06\nretention: {ttl: 1h}\n", encoding="utf-8")
    assert load_policy(path)[1].description == "2031-05-06"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.yaml cannot be read: No such file"):
        load_policy(tmp_path / "missing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"binary\.yaml is not UTF-8"):
        load_policy(tmp_path / "binary.yaml")


def test_null_is_absence() -> None:
    assert policy(limits=None, locking={"mode": None}, quotas=None) == policy()
    with pytest.raises(PolicyInvalid, match="Required value"):
        load_policy({"retention": {"ttl": None}})


def test_a_manifest_knows_its_own_names_only() -> None:
    with pytest.raises(PolicyInvalid) as raised:
        policy(limits={"max_tokens": 5})
    assert (raised.value.path, raised.value.reason) == (
        "spec.limits.max_tokens",
        "FieldValueForbidden",
    )


def test_a_faulty_pattern_says_nothing_on_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PolicyInvalid, match="RE2"):
        policy(privacy={"redactPatterns": ["(?=x)"]})
    assert capfd.readouterr() == ("", "")


# --- building one in Python


def test_python_takes_both_names_and_timedeltas() -> None:
    snake = Policy.model_validate(
        {"retention": {"ttl": timedelta(hours=24), "max_lifetime": "7d"}, "key_template": "{user}"}
    )
    camel = load_policy({"retention": {"ttl": "1d", "maxLifetime": "7d"}, "keyTemplate": "{user}"})
    assert snake == camel[1]


def test_python_breaks_a_rule_as_a_manifest_does() -> None:
    with pytest.raises(ValidationError, match="maxContextPercent excludes maxTokens"):
        Limits(max_tokens=5, max_context_percent=5)
    with pytest.raises(ValidationError, match="strategy: TimeBased needs maxAge"):
        Flushing(strategy=FlushingStrategy.TIME_BASED)


def test_a_policy_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        policy().limits = Limits()  # pyright: ignore[reportAttributeAccessIssue]


# --- what it means


@pytest.mark.parametrize(
    ("limits", "model", "kind", "max_tokens", "max_messages"),
    [
        ({}, {}, MemoryType.TOKEN_BASED, 2000, None),
        ({"maxMessageSize": "1Mi"}, {}, MemoryType.TOKEN_BASED, 2000, None),
        ({"maxTokens": 12000}, {}, MemoryType.TOKEN_BASED, 12000, None),
        ({"maxTokens": 500, "maxMessages": 9}, {}, MemoryType.TOKEN_BASED, 500, 9),
        ({"maxMessages": 9}, {}, MemoryType.MESSAGE_COUNT_BASED, None, 9),
        ({"maxMessages": 9, "onFull": "Refuse"}, {}, MemoryType.BUFFER, None, 9),
        ({"onFull": "Evict"}, {}, MemoryType.BUFFER, 2000, None),
        (
            {"maxContextPercent": 25},
            {"contextWindow": 128_000},
            MemoryType.TOKEN_BASED,
            32_000,
            None,
        ),
        ({"maxContextPercent": 1}, {"contextWindow": 50}, MemoryType.TOKEN_BASED, 1, None),
        ({"maxContextPercent": 25}, {"name": "some-model"}, MemoryType.TOKEN_BASED, 2000, None),
        ({"maxContextPercent": 25}, {"name": "llama3.1"}, MemoryType.TOKEN_BASED, 2000, None),
        (
            {"maxContextPercent": 25},
            {"name": "openai/gpt-4o"},
            MemoryType.TOKEN_BASED,
            32_000,
            None,
        ),
        (
            {"maxContextPercent": 50, "onFull": "Refuse"},
            {"name": "gpt-4o", "contextWindow": 1000},
            MemoryType.BUFFER,
            500,
            None,
        ),
        (
            {"maxContextPercent": 25, "maxMessages": 9},
            {"name": "some-model"},
            MemoryType.TOKEN_BASED,
            2000,
            9,
        ),
    ],
)
def test_type_and_budget_follow_from_the_limits(
    limits: dict[str, Any],
    model: dict[str, Any],
    kind: MemoryType,
    max_tokens: int | None,
    max_messages: int | None,
) -> None:
    read = policy(limits=limits, model=model)
    assert (read.type, read.max_tokens, read.max_messages) == (kind, max_tokens, max_messages)
    assert policy(limits=limits, model=model, type=kind.value).type is kind


def test_a_full_session_evicts_unless_told_to_refuse() -> None:
    assert policy().on_full is OnFull.EVICT
    assert policy(limits={"onFull": "Refuse"}).on_full is OnFull.REFUSE


@pytest.mark.parametrize(
    ("template", "fields"),
    [
        ("{user_id}", ("user_id",)),
        ("user:{user_id}", ("user_id",)),
        ("t.{tenant}-x:{user_id}:end", ("tenant", "user_id")),
    ],
)
def test_a_template_names_its_fields_in_order(template: str, fields: tuple[str, ...]) -> None:
    assert policy(keyTemplate=template).key_fields == template_fields(template) == fields
    assert policy().key_fields == ()


# --- the document agents read


def test_the_effective_policy_has_every_default() -> None:
    document = load_policy(MINIMAL)[1].document()
    assert document == (
        '{"eviction":{"keepLast":0,"policy":"FIFO"},"failureMode":"Strict",'
        '"flushing":{"strategy":"Disabled","targetPercent":50,"thresholdPercent":80},'
        '"idempotency":{"maxRememberedIDs":256},'
        '"limits":{"maxMessageSize":"256Ki","maxTokens":12000},'
        '"locking":{"leaseTTL":"30s","mode":"Advisory","onBusy":"Queue","waitTimeout":"30s"},'
        '"model":{"tokenizer":"o200k_base"},"privacy":{"redactionText":"[REDACTED]"},'
        '"retention":{"refreshOn":["Write"],"ttl":"24h"},"type":"TokenBased"}'
    )
    assert json.loads(document) == load_policy(MINIMAL)[1].effective()


@pytest.mark.parametrize("case", RESOURCES, ids=case_name)
def test_the_document_reads_back_to_itself(case: Case) -> None:
    written = load_policy(case.file)[1]
    for form in (written.document(), written.document().encode(), written.effective()):
        read = Policy.from_document(form)
        assert read.document() == written.document()
        assert read.sha256() == written.sha256()
        assert (read.type, read.max_tokens, read.max_messages, read.on_full) == (
            written.type,
            written.max_tokens,
            written.max_messages,
            written.on_full,
        )


@pytest.mark.parametrize(
    ("limits", "model", "written"),
    [
        ({"maxContextPercent": 25}, {"name": "gpt-4o"}, {"maxTokens": 32_000}),
        ({"maxContextPercent": 25}, {"contextWindow": 1000}, {"maxTokens": 250}),
        ({"maxContextPercent": 25}, {"name": "some-model"}, {"maxTokens": 2000}),
        (
            {"maxContextPercent": 25, "maxMessages": 9},
            {"name": "gpt-4o"},
            {"maxTokens": 32_000, "maxMessages": 9},
        ),
        ({"maxMessages": 9}, {"name": "gpt-4o"}, {"maxMessages": 9}),
    ],
)
def test_the_document_names_the_tokens_that_a_percentage_comes_to(
    limits: dict[str, Any], model: dict[str, Any], written: dict[str, Any]
) -> None:
    """Who reads it may know other models than who wrote it."""
    document = policy(limits=limits, model=model).effective()
    assert document["limits"] == written | {"maxMessageSize": "256Ki"}
    assert document["model"] == model | {"tokenizer": "o200k_base"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"limits": {"maxTokens": 2000}}),
        (
            {"limits": {"maxContextPercent": 10}, "model": {"name": "gpt-4o"}},
            {"limits": {"maxTokens": 12_800}, "model": {"name": "gpt-4o"}},
        ),
        ({}, {"locking": {"leaseTTL": "30s"}, "type": "TokenBased"}),
        ({}, {"description": "Words for people change nothing."}),
        (
            {"eviction": {"policy": "Priority", "priorityKeywords": ["a", "b"]}},
            {"eviction": {"priorityKeywords": ["b", "a"], "policy": "Priority"}},
        ),
        (
            {"flushing": {"strategy": "HybridSummary"}},
            {"flushing": {"strategy": "HybridSummary", "summary": {"maxTokens": 500}}},
        ),
    ],
)
def test_the_same_policy_has_the_same_digest(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert policy(**one).sha256() == policy(**other).sha256()


def test_another_policy_has_another_digest() -> None:
    digests = [load_policy(case.file)[1].sha256() for case in RESOURCES]
    assert policy(limits={"maxTokens": 2001}).sha256() != policy().sha256()
    # `no-limits` and `nulls` say the same thing.
    assert len(set(digests)) == len(digests) - 1


def test_a_document_of_a_later_version_is_read() -> None:
    document = policy().effective()
    document["embedding"] = {"model": "x"}
    document["limits"]["maxImages"] = 5
    assert Policy.from_document(document).document() == policy().document()


@pytest.mark.parametrize("document", ["", "[]", "nonsense", b"\xff", "null", "{}"])
def test_what_is_no_document_is_refused(document: str | bytes) -> None:
    with pytest.raises(PolicyInvalid):
        Policy.from_document(document)


# --- what is carried out


@pytest.mark.parametrize(
    ("fields", "listed"),
    [
        ({}, []),
        (
            {
                "type": "TokenBased",
                "description": "x",
                "keyTemplate": "{user_id}",
                "limits": {"maxTokens": 5, "maxMessages": 5, "maxMessageSize": "1Mi"},
                "model": {"tokenizer": "cl100k_base", "contextWindow": 100},
                "locking": {
                    "mode": "Enforced",
                    "leaseTTL": "20s",
                    "waitTimeout": "1s",
                    "onBusy": "Reject",
                },
                "idempotency": {"maxRememberedIDs": 5},
                "retention": {
                    "ttl": "1h",
                    "afterClear": "5m",
                    "maxLifetime": "7d",
                    "refreshOn": ["Read", "Write"],
                },
            },
            [],
        ),
        ({"limits": {"onFull": "Refuse"}}, []),
        ({"limits": {"maxContextPercent": 5}, "model": {"contextWindow": 1000}}, []),
        (
            {"limits": {"maxContextPercent": 5}, "model": {"name": "x"}},
            ["model.name", "limits.maxContextPercent"],
        ),
        ({"limits": {"maxContextPercent": 5}, "model": {"name": "gpt-4o"}}, []),
        (
            {"limits": {"maxContextPercent": 5}, "model": {"name": "x", "contextWindow": 1000}},
            [],
        ),
        ({"limits": {"maxTokens": 5}, "model": {"name": "x"}}, []),
        ({"locking": {"onBusy": "Interrupt"}}, []),
        ({"retention": {"ttl": "1h", "afterFlush": "5m"}}, []),
        ({"flushing": {"strategy": "FIFO", "targetPercent": 40, "thresholdPercent": 90}}, []),
        ({"flushing": {"strategy": "TimeBased", "maxAge": "1d"}}, []),
        (
            {
                "flushing": {
                    "strategy": "HybridSummary",
                    "summary": {
                        "oldestPercent": 20,
                        "maxTokens": 300,
                        "role": "User",
                        "summarizer": {
                            "type": "OpenAICompatible",
                            "openAICompatible": {"url": "http://127.0.0.1:1/v1", "model": "m"},
                        },
                    },
                }
            },
            [],
        ),
        (
            {
                "tokenAllocation": {
                    "systemPercent": 10,
                    "shortTermPercent": 60,
                    "longTermPercent": 20,
                    "userDefined": [{"name": "documents", "percent": 10}],
                }
            },
            [],
        ),
        ({"quotas": {"bytes": {"hard": "1Gi"}, "sessions": {"soft": 5}}}, []),
        ({"failureMode": "ReadStale"}, []),
        ({"eviction": {"policy": "LRU", "keepLast": 5}}, []),
        (
            {
                "eviction": {
                    "policy": "Priority",
                    "priorityKeywords": ["order"],
                    "priorityBlocks": [{"priority": 0, "contentTypes": ["developer"]}],
                }
            },
            [],
        ),
        ({"privacy": {"redactPatterns": ["x"], "nonPersistableTypes": ["tool"]}}, []),
    ],
)
def test_fields_not_carried_out_are_listed(fields: dict[str, Any], listed: list[str]) -> None:
    assert differences_not_in_force(policy(**fields)) == listed


# --- what may change of an object


def manifest(**spec: Any) -> Manifest:
    body = {"backendRef": {"name": "redis"}, **MINIMAL, **spec}
    return Manifest.model_validate(
        {
            "apiVersion": "holdfast.dev/v1alpha1",
            "kind": "MemoryResource",
            "metadata": {"name": "support"},
            "spec": body,
        }
    )


@pytest.mark.parametrize(
    ("changed", "path"),
    [
        ({"keyTemplate": "{user}"}, "spec.keyTemplate"),
        ({"backendRef": {"name": "other"}}, "spec.backendRef"),
        ({"limits": {"maxTokens": 5}}, None),
    ],
)
def test_what_would_lose_sessions_may_not_change(changed: dict[str, Any], path: str | None) -> None:
    fault = transition_fault(manifest(**changed), manifest())
    assert (fault and fault.path) == path
    assert fault is None or fault.cause is Cause.FORBIDDEN


# --- values of another type


@pytest.mark.parametrize(
    ("value", "kind"),
    [(True, "boolean"), (5, "integer"), (1.5, "number"), ([1], "array"), ({"a": 1}, "object")],
)
def test_a_value_of_another_type_is_named_by_its_own(value: Any, kind: str) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        policy(model={"tokenizer": value})
    assert refused.value.path == "spec.model.tokenizer"
    assert refused.value.message == f'must be of type string: "{kind}"'


def test_a_size_is_text_or_a_whole_number() -> None:
    assert policy(limits={"maxMessageSize": Quantity("1Ki")}).limits.max_message_size.bytes == 1024
    for value in (1.5, True, [1]):
        with pytest.raises(PolicyInvalid, match="must be of type integer,string"):
            policy(limits={"maxMessageSize": value})
