"""What counts as a point, and how it is named: without a session's name."""

import pytest

from holdfast.store.redis.script import all_scripts
from tests.chaos.doom import Point, commands_of, counts, is_write, summary


def packed(*commands: tuple[bytes, ...]) -> bytes:
    def one(command: tuple[bytes, ...]) -> bytes:
        words = (b"$%d\r\n%s\r\n" % (len(word), word) for word in command)
        return b"*%d\r\n%s" % (len(command), b"".join(words))

    return b"".join(map(one, commands))


@pytest.mark.parametrize(
    ("method", "path", "counted"),
    [
        ("GET", "/api/v1/namespaces", False),
        ("patch", "/apis/holdfast.dev/v1alpha1/namespaces/a/memoryresources/b", True),
        ("POST", "/api/v1/namespaces/a/events", True),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", False),
    ],
)
def test_writes_count_and_renewals_do_not(method: str, path: str, counted: bool):
    assert is_write(method, path) is counted


def test_commands_are_named_without_their_arguments():
    script = next(one for one in all_scripts() if one.name == "roll_out")
    scripts = {one.sha: one.name for one in all_scripts()}
    call = (b"EVALSHA", script.sha, b"1", b"mem:{a/b/person-4711}:meta")
    text = packed((b"ZSCAN", b"mem:{a/b}:sessions", b"0"), call, call, (b"ACL", b"SETUSER", b"x"))
    commands = commands_of(text, scripts)
    assert commands == ["ZSCAN", "EVALSHA roll_out", "EVALSHA roll_out", "ACL SETUSER"]
    assert summary(commands) == "ZSCAN + 2 EVALSHA roll_out + ACL SETUSER"


def test_questions_about_the_server_do_not_count():
    assert not counts(commands_of(packed((b"PING",), (b"INFO", b"all")), {}))
    assert not counts(commands_of(packed((b"SCRIPT", b"EXISTS", b"x")), {}))
    assert counts(commands_of(packed((b"SCRIPT", b"LOAD", b"x")), {}))
    assert counts(commands_of(packed((b"INFO",), (b"GET", b"x")), {}))


def test_a_line_of_the_trace_is_read_as_it_was_written():
    assert Point.read("1.5 redis 3 2 EVALSHA roll_out") == (1.5, "redis", 3, "2 EVALSHA roll_out")
