"""Errors go between processes: what pickles or copies one loses nothing of it."""

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

import holdfast
from holdfast import errors
from holdfast.errors import BudgetTooSmall, HoldfastError

CLASSES: dict[str, type[HoldfastError]] = {
    name: found
    for name, found in vars(errors).items()
    if isinstance(found, type) and issubclass(found, HoldfastError)
}

OWN: dict[str, dict[str, Any]] = {
    "PolicyInvalid": {
        "path": "spec.limits",
        "reason": "FieldValueInvalid",
        "file": "a.yaml",
        "line": 7,
    },
    "BudgetTooSmall": {"needed": 12},
    "QuotaExceeded": {"quota": "bytes", "used": 90, "hard": 100},
    "AcknowledgedLost": {"first": 3, "last": 7},
    "NotDurable": {"seq": 3},
    "SessionBusy": {"holder": "pod-a", "remaining": 12.5, "place": 2},
    "ImportRefused": {"line": 4},
    "StoreUnavailable": {"retry_after": 2.5},
}
"""What classes carry beside what all do; each value is another than its default."""

WAYS: dict[str, Callable[[HoldfastError], HoldfastError]] = {
    **{
        f"pickle {protocol}": lambda error, protocol=protocol: pickle.loads(
            pickle.dumps(error, protocol)
        )
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def whole(name: str) -> HoldfastError:
    """Return an error with everything that it can carry."""
    error = CLASSES[name]("it happened", **OWN.get(name, {}))
    error.memory, error.session = "team-a/support", "a%20b"
    error.add_note("seen at noon")
    return error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_travels_whole(name: str, way: str) -> None:
    error = whole(name)
    found = WAYS[way](error)
    assert found is not error
    assert type(found) is CLASSES[name]
    assert vars(found) == vars(error)
    assert {key: getattr(found, key) for key in OWN.get(name, {})} == OWN.get(name, {})
    assert (found.memory, found.session) == ("team-a/support", "a%20b")
    assert (str(found), found.args) == (str(error), error.args)
    assert (found.code, found.retryable) == (error.code, error.retryable)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_list_above_names_all_that_an_error_carries(name: str) -> None:
    plain = {"message", "memory", "session", "__notes__"}
    assert vars(whole(name)).keys() - plain == OWN.get(name, {}).keys()


def _read_too_little() -> None:
    import holdfast.sync as threads

    policy = {"limits": {"maxTokens": 1000}, "retention": {"ttl": "1h"}}
    with threads.connect("memory://", policy=policy) as client:
        session = client.memory("support").session("42")
        session.append({"role": "user", "content": "word " * 300})
        session.read(max_tokens=5)


def test_an_error_leaves_a_process_of_a_pool_and_the_pool_goes_on() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with pytest.raises(BudgetTooSmall) as refusal:
            pool.submit(_read_too_little).result(timeout=120)
        assert refusal.value.needed > 300
        assert (refusal.value.memory, refusal.value.session) == ("local/support", "42")
        assert isinstance(refusal.value, holdfast.BudgetTooSmall)
        assert pool.submit(len, "next").result(timeout=120) == 4
