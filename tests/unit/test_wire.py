"""What goes over HTTP: bodies, problems, names of sessions."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast import errors
from holdfast.errors import HoldfastError, SessionBusy, SessionKeyError
from holdfast.problems import (
    HTTP_KINDS,
    KINDS,
    Problem,
    error_of,
    http_problem,
    problem_of,
    retry_after,
)
from holdfast.values import HistoryEntry, Privacy
from holdfast.wire import (
    AppendBody,
    FlushBody,
    HistoryAnswer,
    PrivacyBody,
    ReplaceBody,
    TurnBody,
    fields_text,
    read_fields,
    segment,
)

EVERY_ERROR = sorted(
    {
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, HoldfastError) and kind is not HoldfastError
    },
    key=lambda kind: kind.code,
)
ATTRIBUTES: dict[str, Any] = {
    "holder": "team-a/agent-1",
    "remaining": 0.0,
    "place": 3,
    "quota": "bytes",
    "used": 10,
    "hard": 9,
    "needed": 44,
    "first": 5,
    "last": 8,
    "seq": 12,
    "line": 7,
    "path": "spec.limits",
    "reason": "FieldValueInvalid",
    "retry_after": 1.5,
}


def made(kind: type[HoldfastError]) -> HoldfastError:
    return kind("a sentence", **{name: ATTRIBUTES[name] for name in KINDS[kind.code].attributes})


def over_the_wire(problem: Problem) -> Problem:
    return msgspec.json.decode(msgspec.json.encode(problem), type=Problem)


@pytest.mark.parametrize("kind", EVERY_ERROR, ids=lambda kind: kind.code)
def test_every_error_of_the_library_comes_out_as_it_went_in(kind: type[HoldfastError]) -> None:
    error = made(kind)
    error.memory, error.session = "team-a/support", "user:42"
    problem = over_the_wire(problem_of(error))
    again = error_of(problem)
    assert type(again) is kind
    assert vars(again) == vars(error) | {name: None for name in ("file",) if name in vars(error)}
    assert problem.type == f"urn:holdfast:problem:{kind.code}"
    assert (problem.code, problem.retryable) == (kind.code, kind.retryable)
    assert 400 <= problem.status < 600


def test_what_a_problem_does_not_say_has_a_default() -> None:
    for code, kind in KINDS.items():
        error = error_of(
            Problem(type="", title="", status=500, detail="x", code=code, retryable=False)
        )
        assert type(error) is kind.error
        for name in kind.attributes:
            assert isinstance(getattr(error, name), type(ATTRIBUTES[name]) | None)
    busy = error_of(http_problem("TooManyTurns", "x"))
    assert isinstance(busy, errors.StoreUnavailable)


@pytest.mark.parametrize("code", sorted(HTTP_KINDS))
def test_what_only_http_gets_wrong_is_an_error_of_the_library_for_a_client(code: str) -> None:
    problem = over_the_wire(http_problem(code, "a sentence", retry_after=2))
    error = error_of(problem)
    assert type(error) is HTTP_KINDS[code].error
    assert error.message == "a sentence"
    assert problem.retryable == isinstance(error, errors.StoreUnavailable)


def test_an_unknown_code_is_what_its_status_says() -> None:
    def unknown(status: int, *, retryable: bool = False) -> type[HoldfastError]:
        return type(
            error_of(
                Problem(
                    type="", title="", status=status, detail="x", code="New", retryable=retryable
                )
            )
        )

    assert unknown(418) is errors.ConfigurationError
    assert unknown(503, retryable=True) is errors.StoreUnavailable
    assert unknown(500) is HoldfastError

    class New(HoldfastError):
        code = "New"

    assert problem_of(New("a secret of a plugin")).code == "InternalError"
    assert "secret" not in problem_of(New("a secret of a plugin")).detail


def test_statuses_are_those_that_are_promised() -> None:
    found = {code: kind.status for code, kind in KINDS.items()}
    assert found == {
        "ConfigurationError": 400,
        "PolicyInvalid": 400,
        "MessageInvalid": 400,
        "SessionKeyError": 400,
        "AccessDenied": 403,
        "MemoryNotFound": 404,
        "PolicyNotFound": 404,
        "RecordNotFound": 404,
        "SessionBusy": 409,
        "AcknowledgedLost": 409,
        "ImportRefused": 409,
        "MessageTooLarge": 413,
        "IdempotencyConflict": 422,
        "BudgetExceeded": 422,
        "BudgetTooSmall": 422,
        "LeaseLost": 423,
        "TurnInterrupted": 423,
        "QuotaExceeded": 429,
        "AmbiguousWrite": 502,
        "SummaryFailed": 502,
        "TokenCountFailed": 502,
        "CorruptRecord": 502,
        "UnknownKeys": 502,
        "StoreUnavailable": 503,
        "ScriptsMissing": 503,
        "ServerTooOld": 503,
        "NotDurable": 504,
    }


def test_retry_after_is_whole_seconds_and_never_none_at_503() -> None:
    assert retry_after(problem_of(SessionBusy("x", remaining=2.1))) == 3
    assert retry_after(problem_of(SessionBusy("x"))) == 1
    assert retry_after(problem_of(errors.StoreUnavailable("x"))) == 1
    assert retry_after(problem_of(errors.StoreUnavailable("x", retry_after=4.2))) == 5
    assert retry_after(problem_of(errors.LeaseLost("x"))) is None


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,30}", fullmatch=True), _TEXT, max_size=4))
def test_fields_of_a_template_are_read_as_they_were_written(fields: dict[str, str]) -> None:
    assert read_fields(fields_text(fields)) == fields


def test_fields_may_be_written_by_hand() -> None:
    assert fields_text({"user_id": "42", "tenant": "a,b=c"}) == "user_id=42,tenant=a%2Cb%3Dc"
    assert fields_text({}) == "-"
    assert segment("a/b%,=") == "a%2Fb%25%2C%3D"
    for wrong in ("", "42", "=1", "a=1,", "a=1,a=2", "a=%FF"):
        with pytest.raises(SessionKeyError):
            read_fields(wrong)


def test_bodies_refuse_what_they_do_not_know() -> None:
    for kind, text in (
        (AppendBody, b'{"message":1,"pinn":true}'),
        (ReplaceBody, b'{"messages":[],"group":1}'),
        (AppendBody, b'{"message":1,"id":""}'),
        (AppendBody, b'{"message":1,"group":0}'),
        (AppendBody, b'{"message":1,"privacy":{"persist":1}}'),
        (FlushBody, b'{"dryRun":true}'),
        (TurnBody, b'{"wait":30}'),
        (TurnBody, b'{"ttl":"0s"}'),
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(text, type=kind)


def test_a_message_may_be_null_and_is_then_not_missing() -> None:
    given = msgspec.json.decode(b'{"message":null}', type=AppendBody)
    assert given.message is None
    assert msgspec.json.decode(b"{}", type=AppendBody).message is msgspec.UNSET
    assert msgspec.json.encode(AppendBody(message=None)) == b'{"message":null}'
    assert msgspec.json.encode(AppendBody(messages=[1], pin=True)) == b'{"messages":[1],"pin":true}'


def test_values_travel_as_they_are() -> None:
    body = PrivacyBody(level="private", sensitive=("a.b",))
    assert body.privacy() == Privacy(level="private", sensitive=("a.b",))
    entries = [HistoryEntry("FIFO", 1, 2, 2, None, None, None)]
    text = msgspec.json.encode(HistoryAnswer(entries))
    assert msgspec.json.decode(text, type=HistoryAnswer).entries == entries
    assert msgspec.json.encode(TurnBody(wait="0s")) == b'{"wait":"0s"}'
