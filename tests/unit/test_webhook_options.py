"""The command lines: the webhook's, and what the operator is told about it."""

import json
import logging
import sys
from pathlib import Path

import pytest

from holdfast_operator import __main__ as operator
from holdfast_operator.webhook import Webhook
from holdfast_webhook import __main__ as webhook
from holdfast_webhook.server import Address, Options


def test_the_defaults_are_those_of_the_chart():
    assert webhook.options([], {}) == Options(
        Address("", 9443),
        Address("", 8081),
        Path("/certificates"),
        Path("/etc/holdfast/injection.yaml"),
    )


def test_the_command_line_wins_over_the_environment():
    environ = {
        "HOLDFAST_WEBHOOK_LISTEN": "[::1]:1",
        "HOLDFAST_WEBHOOK_LINGER": "7",
        "HOLDFAST_WEBHOOK_LOG_FORMAT": "json",
    }
    found = webhook.options(["--listen=127.0.0.1:2"], environ)
    assert found.listen == Address("127.0.0.1", 2)
    assert found.linger == 7.0
    assert found.json_logs
    assert webhook.options([], environ).listen == Address("::1", 1)


@pytest.mark.parametrize(
    "argument",
    ["--listen=9443", "--status=:70000", "--linger=soon", "--linger=301", "--log-format=xml"],
)
def test_a_wrong_one_is_said(argument: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        webhook.options([argument], {})
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_a_line_of_the_log_is_json():
    record = logging.LogRecord("holdfast.webhook", logging.WARNING, "", 0, "a %s", ("b",), None)
    line = json.loads(webhook.JsonLines().format(record))
    assert (line["severity"], line["message"]) == ("warn", "a b")


def test_without_its_packages_it_says_which_extra_brings_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert webhook.main([]) == 1
    assert "pip install 'holdfast[webhook]'" in capsys.readouterr().err


NAMES = {
    "webhook-certificate-secret": "certificate",
    "webhook-configuration": "injection",
    "webhook-service": "webhook",
}


def test_the_operator_keeps_a_certificate_when_it_is_told_all_names():
    arguments = [f"--{name}={value}" for name, value in NAMES.items()]
    environ = {
        f"HOLDFAST_OPERATOR_{name.upper().replace('-', '_')}": value
        for name, value in NAMES.items()
    }
    expected = Webhook("certificate", "injection", "webhook", 7_776_000)
    assert operator.options(arguments, {}).webhook == expected
    assert operator.options([], environ).webhook == expected
    assert operator.options([], {}).webhook is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["--webhook-service=webhook"],
        [*(f"--{name}={value}" for name, value in NAMES.items()), "--webhook-lifetime=1"],
    ],
    ids=["one name", "no lifetime"],
)
def test_half_of_it_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        operator.options(arguments, {})
    assert "webhook" in capsys.readouterr().err
