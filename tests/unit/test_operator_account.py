"""Who the operator says it is, where it shows a command that grants it something."""

import pytest

from holdfast_operator.process import own_account


def test_a_pod_knows_its_account_from_the_downward_api(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POD_NAMESPACE", "agents")
    monkeypatch.setenv("POD_SERVICE_ACCOUNT", "memory-operator")
    assert own_account() == "agents:memory-operator"


def test_outside_of_a_pod_it_is_that_of_the_plain_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    monkeypatch.delenv("POD_SERVICE_ACCOUNT", raising=False)
    assert own_account() == "holdfast-system:holdfast-operator"
