"""Rules of users: what they grant, and that nothing in a name can widen them."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.errors import SessionKeyError
from holdfast.keys import FixedKey, fixed_key, label_digest, session_key, template_key
from holdfast.store.access import (
    AccessUser,
    Grant,
    UserName,
    password_hash,
    user_name,
    users_of,
)
from holdfast.store.addresses import Login, Mode
from holdfast.store.redis.acl import (
    SESSION_SCRIPTS,
    called_by,
    commands,
    patterns,
    permissions,
    rules,
)
from holdfast.store.redis.layout import index_keys_of, memory_keys, session_keys
from holdfast.store.redis.script import Script, all_scripts, script
from holdfast.store.redis.trial import ARGUMENTS
from holdfast.values import MemoryAddress

SUPPORT = MemoryAddress("team-a", "support")
UID = "0d8c3b1a-7f1e-4c0a-9b1e-1f2e3d4c5b6a"
NAME = user_name(cluster=UID, namespace="team-a", binding="agent", uid=UID)
OPERATORS = {"begin_deletion", "bury", "claim", "end_deletion", "forget", "put_policy"} | {
    *("put_usage", "retain", "roll_out", "mark", "check", "expire", "note_walk"),
}
NEVER = {"eval", "eval_ro", "script|load", "scan", "keys", "info", "config", "monitor", "randomkey"}
NEVER |= {"flushall", "flushdb", "function", "fcall", "publish", "subscribe", "sort", "object"}
NEVER |= {"migrate", "dbsize", "acl", "debug", "memory", "client", "persist", "rename", "copy"}


def matches(pattern: str, key: str) -> bool:
    """Whether a pattern of a rule matches; no name can hold what else is special in one."""
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), key, re.DOTALL) is not None


def reach(grant: Grant, key: str) -> set[str]:
    """What a grant lets do with a key: `r`, `w`."""
    found: set[str] = set()
    for pattern in patterns([grant], "mem"):
        how, _, text = pattern.partition("~")
        if matches(text, key):
            found |= {"r"} if how == "%R" else {"r", "w"}
    return found


class TestNames:
    def test_a_name_says_whose_it_is(self) -> None:
        assert NAME == "am:0d8c3b1a:team-a:agent:0d8c3b1a"
        assert UserName.parse(NAME) == UserName("0d8c3b1a", "team-a", "agent", "0d8c3b1a")
        assert NAME.startswith(users_of(UID))

    @pytest.mark.parametrize(
        "name", ["default", "am:x", "am:0d8c3b1a:a:b:0d8c3b1a:c", "am-discovery"]
    )
    def test_other_names_are_not_ours(self, name: str) -> None:
        assert UserName.parse(name) is None

    @pytest.mark.parametrize("uid", ["", "xyz", "0d8c3b1", "0D8C 3B1A"])
    def test_an_id_begins_with_eight_digits(self, uid: str) -> None:
        with pytest.raises(ValueError, match="8 hexadecimal"):
            user_name(cluster=uid, namespace="a", binding="b", uid=UID)

    @pytest.mark.parametrize("text", ["a b", "a:b", "*", "", "A"])
    def test_a_name_of_kubernetes_holds_no_separator(self, text: str) -> None:
        with pytest.raises(ValueError, match="the name of a user"):
            user_name(cluster=UID, namespace=text, binding="b", uid=UID)


class TestUsers:
    @pytest.mark.parametrize(
        "grant",
        [
            Grant(MemoryAddress("team*", "support")),
            Grant(MemoryAddress("team-a", "sup port")),
            Grant(MemoryAddress("", "support")),
            Grant(MemoryAddress("team-a", "x}:*")),
            Grant(SUPPORT, fixed="user:*"),
            Grant(SUPPORT, fixed="[a]"),
            Grant(SUPPORT, fixed="a b"),
            Grant(SUPPORT, fixed="", whole=True),
        ],
    )
    def test_nothing_that_reads_as_another_rule_gets_in(self, grant: Grant) -> None:
        with pytest.raises(ValueError, match="grant"):
            AccessUser(NAME, (grant,), (password_hash("x"),))

    @pytest.mark.parametrize("passwords", [(), ("x",), (password_hash("x"),) * 3, ("g" * 64,)])
    def test_passwords_are_one_or_two_hashes(self, passwords: tuple[str, ...]) -> None:
        with pytest.raises(ValueError, match="one or two passwords"):
            AccessUser(NAME, (Grant(SUPPORT),), passwords)

    def test_a_memory_is_granted_once(self) -> None:
        with pytest.raises(ValueError, match="each once"):
            AccessUser(NAME, (Grant(SUPPORT), Grant(SUPPORT, True)), (password_hash("x"),))

    def test_no_password_shows(self) -> None:
        user = AccessUser(NAME, (Grant(SUPPORT),), (password_hash("x"),))
        assert password_hash("x") not in repr(user)
        assert "hidden" not in repr(Login("me", "hidden"))


class TestCommands:
    @pytest.mark.parametrize("mode", list(Mode))
    @pytest.mark.parametrize("read_only", [False, True])
    def test_none_that_lists_tells_or_stops(self, mode: Mode, read_only: bool) -> None:
        names = set(commands(mode, read_only=read_only, database=1))
        assert not {name for name in names if name in NEVER or name.split("|")[0] in NEVER}
        assert not any(name.startswith("@") for name in names)

    @pytest.mark.parametrize("mode", list(Mode))
    def test_a_reader_gets_none_that_writes(self, mode: Mode) -> None:
        reads = set(commands(mode, read_only=True)) - {"role", "asking", "cluster|slots"}
        assert reads == {
            *("evalsha_ro", "exec", "exists", "hgetall", "hmget", "lindex", "llen", "lrange"),
            *("multi", "ping", "time", "zcard", "zrange"),
        }

    def test_a_database_has_to_be_selected(self) -> None:
        assert "select" not in commands(Mode.STANDALONE, read_only=False)
        assert "select" in commands(Mode.STANDALONE, read_only=False, database=1)

    def test_every_script_is_the_librarys_or_the_operators(self) -> None:
        assert {one.name for one in all_scripts()} == {*SESSION_SCRIPTS, *OPERATORS}

    def test_calls_are_read_from_a_scripts_text(self) -> None:
        body = b"""local call = redis.call\ncall('HGET', K)\n redis.pcall("rpush", K)\n call( 'DEL' ,K)"""
        assert called_by(Script("any", body)) == {"hget", "rpush", "del"}

    @pytest.mark.parametrize("name", [one.name for one in all_scripts()])
    def test_every_call_of_a_script_names_its_command(self, name: str) -> None:
        # What is chosen while the script runs could not be read from its text.
        body = script(name).body
        found = re.findall(rb"\b(?:redis\.|)p?call\(\s*([^'\"\s])", body)
        assert set(re.findall(rb"\bpcall\((\w+)", body)) <= {b"load_state"}
        assert len(found) == len(re.findall(rb"\bpcall\(load_state", body))

    @pytest.mark.parametrize("mode", list(Mode))
    def test_every_command_can_be_tried(self, mode: Mode) -> None:
        names = set(commands(mode, read_only=False, database=1))
        assert names - {"multi", "exec"} <= set(ARGUMENTS)

    def test_a_rule_begins_from_nothing(self) -> None:
        user = AccessUser(NAME, (Grant(SUPPORT),), (password_hash("x"), password_hash("y")))
        rule = rules(user, Mode.CLUSTER, "mem", extra=("db=0",))
        assert rule[:4] == ("reset", "on", f"#{password_hash('x')}", f"#{password_hash('y')}")
        assert rule[4:6] == ("resetchannels", "-@all")
        assert rule[-1] == "db=0"
        assert rule[-6:-1] == (
            "%R~mem:{team-a/support}:policy",
            "%R~mem:{team-a/support}:usage",
            "~mem:{team-a/support}:sessions",
            "~mem:{team-a/support}:label:*",
            "~mem:{team-a/support/*",
        )
        assert rule[4:-1] == permissions(user.grants, Mode.CLUSTER, "mem")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_the_documented_rule_is_the_rule() -> None:
    text = (Path(__file__).parents[2] / "docs" / "access.md").read_text()
    said = dict(re.findall(r"^\| ([a-z ,]+?) \| (.*`) \|$", text.replace(r"\|", "|"), re.MULTILINE))
    named = {row: set(re.findall("`([^`]+)`", cell)) for row, cell in said.items()}
    reading = set(commands(Mode.STANDALONE, read_only=True))
    assert named["read"] == reading
    writing = set(commands(Mode.STANDALONE, read_only=False))
    assert named["read and write"] == writing - reading
    assert "client|setinfo" in text


names = st.from_regex(r"[a-z0-9]([-.a-z0-9]{0,6}[a-z0-9])?", fullmatch=True)
memories = st.builds(MemoryAddress, names, names)
values = st.text(min_size=1, max_size=6).filter(_is_unicode)
templates = st.sampled_from(
    ["{a}", "u:{a}", "{a}:{b}", "u.{a}-:-{b}", "x:{a}x:y{b}:z:{c}", "{a}-:{b}-"]
)


class TestPatterns:
    @given(memories, memories, values, st.booleans())
    def test_a_grant_reaches_all_of_its_memory_and_nothing_of_others(
        self, mine: MemoryAddress, other: MemoryAddress, session: str, read_only: bool
    ) -> None:
        grant = Grant(mine, read_only)
        full = {"r"} if read_only else {"r", "w"}
        keys = memory_keys(mine, "mem")
        assert reach(grant, keys.owner.decode()) == set()
        assert reach(grant, keys.policy.decode()) == reach(grant, keys.usage.decode()) == {"r"}
        for key in index_keys_of(keys.sessions, [label_digest("a", session)]):
            assert reach(grant, key.decode()) == full
        for key in session_keys(mine, session_key(session), "mem"):
            assert reach(grant, key.decode()) == full
            assert reach(grant, "other" + key.decode()[3:]) == set()
        if other != mine:
            theirs = (*memory_keys(other, "mem"), *session_keys(other, session_key(session), "mem"))
            assert not any(reach(grant, key.decode()) for key in theirs)

    @given(st.data(), templates)
    def test_fixed_fields_reach_exactly_the_sessions_that_have_them(
        self, data: st.DataObject, template: str
    ) -> None:
        fields = re.findall(r"\{(\w+)\}", template)
        # Often alike, as 42 and 421 are.
        value = st.one_of(values, st.text("4:2%}*", min_size=1, max_size=3))
        mine = {name: data.draw(value) for name in fields}
        other = {name: data.draw(st.one_of(st.just(mine[name]), value)) for name in fields}
        fixed = {name: mine[name] for name in fields[: data.draw(st.integers(1, len(fields)))]}
        start = fixed_key(template, fixed)
        assert start.whole == (len(fixed) == len(fields))
        grant = Grant(SUPPORT, fixed=start.start, whole=start.whole)
        AccessUser(NAME, (grant,), (password_hash("x"),))
        for key in session_keys(SUPPORT, template_key(template, mine), "mem"):
            assert reach(grant, key.decode()) == {"r", "w"}
        same = all(other[name] == mine[name] for name in fixed)
        for key in session_keys(SUPPORT, template_key(template, other), "mem"):
            assert bool(reach(grant, key.decode())) == same

    def test_a_reader_of_some_sessions_sees_no_names_of_others(self) -> None:
        keys = memory_keys(SUPPORT, "mem")
        for fixed, whole in (("user:42:", False), ("user:42", True)):
            grant = Grant(SUPPORT, True, fixed, whole)
            for key in index_keys_of(keys.sessions, ["0" * 32]):
                assert reach(grant, key.decode()) == set()


class TestFixedKey:
    def test_nothing_fixed_is_everything(self) -> None:
        assert fixed_key("user:{a}", {}) == fixed_key(None, {}) == FixedKey("", whole=False)

    def test_the_start_reaches_over_the_next_literal(self) -> None:
        assert fixed_key("t:{a}:u:{b}:x", {"a": "4:2"}) == FixedKey("t:4%3A2:u:", whole=False)
        assert fixed_key("t:{a}:u:{b}:x", {"a": "4", "b": "2"}) == FixedKey("t:4:u:2:x", whole=True)

    @pytest.mark.parametrize(
        ("template", "fields"),
        [
            (None, {"a": "1"}),
            ("{a}:{b}", {"b": "1"}),
            ("{a}:{b}:{c}", {"a": "1", "c": "1"}),
            ("{a}", {"a": "1", "x": "1"}),
            ("{a}:{b}", {"a": ""}),
        ],
    )
    def test_only_the_first_fields_can_be_fixed(
        self, template: str | None, fields: dict[str, str]
    ) -> None:
        with pytest.raises(SessionKeyError):
            fixed_key(template, fields)
