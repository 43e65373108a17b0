"""What the client over HTTP does when the sidecar is away, falls silent, or breaks off: nothing twice."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import (
    AmbiguousWrite,
    ConfigurationError,
    HoldfastError,
    LeaseLost,
    MemoryNotFound,
    QuotaExceeded,
    StoreUnavailable,
)
from holdfast.remote import RemoteClient, lease
from holdfast.session import Session
from holdfast.wire import MemoryInfo
from tests.harness.scripted_sidecar import (
    APPENDED,
    LOST,
    Reply,
    ScriptedSidecar,
    answer,
    problem,
)
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio

COUNTS = answer({"messages": 3, "tokens": 30})
DONE = answer(APPENDED)
SESSION = "/v1/memories/support/sessions/a"


def _session(client: RemoteClient) -> Session:
    return client.memory("support").session("a")


def _client(sidecar: ScriptedSidecar, patience: float = 5.0) -> RemoteClient:
    return RemoteClient(sidecar.url, patience=patience)


# --- nobody listens


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (
            "http+unix:///nowhere/api.sock",
            (
                "nobody listens on the socket /nowhere/api.sock (No such file or directory): the sidecar is "
                "missing in this pod, has not started or has ended, or its directory is not mounted in this "
                "container (memory 'sidecar/support', session 'a')"
            ),
        ),
        (
            "http://127.0.0.1:1",
            (
                "nobody listens on 127.0.0.1:1 (Connection refused): the sidecar is missing in this pod, has "
                "not started or has ended, or a NetworkPolicy or a mesh takes what is sent to it "
                "(memory 'sidecar/support', session 'a')"
            ),
        ),
    ],
)
async def test_where_nobody_listens_the_sentence_says_where_and_why(url: str, says: str) -> None:
    calls: list[Any] = [
        lambda session: session.append("a"),
        lambda session: session.read(),
        lambda session: session.turn().__aenter__(),
        lambda session: anext(session.export()),
        lambda session: session.import_([]),
    ]
    for call in calls:
        async with RemoteClient(url, patience=0.0) as client:
            with pytest.raises(StoreUnavailable) as refusal:
                await call(_session(client))
            assert str(refusal.value) == says


async def test_a_sidecar_that_starts_late_is_waited_for(tmp_path: Path) -> None:
    path = Path("/tmp") / f"hf-{tmp_path.name[-20:]}-{time.monotonic_ns()}"
    async with RemoteClient(f"http+unix://{path}", patience=20) as client:
        call = asyncio.create_task(_session(client).append("a"))
        await asyncio.sleep(0)
        with ScriptedSidecar(DONE) as sidecar:
            path.symlink_to(sidecar.url.removeprefix("http+unix://"))
            try:
                assert (await call).seq == 1
            finally:
                path.unlink()
    assert sidecar.requests == [f"POST {SESSION}/messages?by=id"]


async def test_one_that_stays_away_is_not_waited_for_by_each_call() -> None:
    async with RemoteClient("http+unix:///nowhere/api.sock", patience=0.1) as client:
        (breaker,) = client.breakers
        with pytest.raises(StoreUnavailable):
            await _session(client).read()
        with pytest.raises(StoreUnavailable):
            await _session(client).read()
        assert breaker.state == "open"
        with pytest.raises(StoreUnavailable, match="calls fail at once") as refusal:
            await _session(client).append("a")
        assert refusal.value.retry_after is not None
    assert client.breakers == ()


async def test_after_a_pause_it_is_asked_without_a_write_whether_it_is_back(
    tmp_path: Path,
) -> None:
    path = Path("/tmp") / f"hf-{tmp_path.name[-20:]}-{time.monotonic_ns()}"
    async with RemoteClient(f"http+unix://{path}", patience=0.02) as client:
        (breaker,) = client.breakers
        while breaker.state == "closed":
            with pytest.raises(StoreUnavailable):
                await _session(client).read()
        with ScriptedSidecar(answer({"memories": []}), DONE) as sidecar:
            path.symlink_to(sidecar.url.removeprefix("http+unix://"))
            try:

                async def back() -> bool:
                    try:
                        return (await _session(client).append("a")).seq == 1
                    except StoreUnavailable:
                        return False

                await until(back, "it is asked again")
            finally:
                path.unlink()
        assert sidecar.requests == ["GET /v1/memories", f"POST {SESSION}/messages?by=id"]
        assert breaker.state == "closed"


# --- answers that are lost


async def test_a_write_without_an_id_whose_answer_is_lost_is_sent_once() -> None:
    writes: dict[str, Any] = {
        "POST": lambda session: session.append("a"),
        "PUT": lambda session: session.replace(["a"]),
        "DELETE": lambda session: session.clear(),
        "POST ": lambda session: session.pop(),
        "POST  ": lambda session: session.flush(),
    }
    for method, write in writes.items():
        # The first call makes the connection a used one, which is where libraries repeat by themselves.
        with ScriptedSidecar(COUNTS, LOST, DONE) as sidecar:
            async with _client(sidecar) as client:
                await _session(client).length()
                with pytest.raises(AmbiguousWrite):
                    await write(_session(client))
        assert [one.partition(" ")[0] for one in sidecar.requests] == ["GET", method.strip()]


async def test_what_may_be_repeated_is() -> None:
    repeatable: dict[str, Any] = {
        "an id": (lambda session: session.append("a", id="i"), DONE),
        "a batch": (lambda session: session.append_many(["a"], id="i"), DONE),
        "all": (lambda session: session.replace(["a"], id="i"), DONE),
        "reading": (lambda session: session.length(), COUNTS),
        "pins": (lambda session: session.pin(7), b"HTTP/1.1 204 No Content\r\n\r\n"),
    }
    for name, (call, good) in repeatable.items():
        with ScriptedSidecar(COUNTS, LOST, LOST, good) as sidecar:
            async with _client(sidecar) as client:
                await _session(client).length()
                await call(_session(client))
        assert len(sidecar.requests) == 4, name
        assert len(set(sidecar.requests[1:])) == 1, name


async def test_one_that_stores_stays_in_doubt_where_no_repetition_is_answered() -> None:
    with ScriptedSidecar(LOST) as sidecar:
        async with _client(sidecar, patience=0.1) as client:
            with pytest.raises(AmbiguousWrite):
                await _session(client).append("a", id="i")


async def test_what_reads_writes_nothing_where_no_repetition_is_answered() -> None:
    with ScriptedSidecar(LOST) as sidecar:
        async with _client(sidecar, patience=0.1) as client:
            with pytest.raises(StoreUnavailable, match="does not answer in time"):
                await _session(client).length()
    assert len(sidecar.requests) > 1


async def test_a_refusal_after_a_lost_answer_settles_nothing() -> None:
    refusal = problem("QuotaExceeded", 429, quota="bytes", used=2, hard=1)
    with ScriptedSidecar(LOST, refusal) as sidecar:
        async with _client(sidecar) as client:
            with pytest.raises(AmbiguousWrite) as doubt:
                await _session(client).append("a", id="i")
    assert isinstance(doubt.value.__cause__, QuotaExceeded)
    assert len(sidecar.requests) == 2


async def test_half_an_answer_is_none() -> None:
    for write, error in ((True, AmbiguousWrite), (False, StoreUnavailable)):
        with ScriptedSidecar(Reply(DONE[:-10], close=True)) as sidecar:
            async with _client(sidecar, patience=0.05) as client:
                session = _session(client)
                with pytest.raises(error):
                    await (session.append("a") if write else session.length())


# --- connections


async def test_a_connection_that_was_closed_unseen_is_not_used() -> None:
    """The loop stands still while the sidecar starts again, and knows nothing of it afterwards."""
    with ScriptedSidecar(DONE) as sidecar:
        async with _client(sidecar) as client:
            for _ in range(3):
                await _session(client).append("a")
                sidecar.hang_up()
                time.sleep(0.05)  # noqa: ASYNC251 - on purpose: nothing is read meanwhile
    assert len(sidecar.requests) == sidecar.connections == 3


async def test_what_is_left_in_the_middle_leaves_no_half_read_connection() -> None:
    """An export that nobody reads to its end, and one whose last line has no end."""
    begun = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: 9\r\n\r\n"
    half = Reply(begun + b"1\n2\n", rest=b"3\n4\n5")
    with ScriptedSidecar(half, begun + b"1\n2\n3\n4\n5", COUNTS) as sidecar:
        async with _client(sidecar) as client:
            lines = _session(client).export()
            assert await anext(lines) == "1"
            await lines.aclose()  # pyright: ignore[reportAttributeAccessIssue]
            half.later.set()
            assert [line async for line in _session(client).export()] == list("12345")
            assert await _session(client).length() == 3


async def test_a_cancelled_call_leaves_no_half_read_connection() -> None:
    half = Reply(COUNTS[:-5], rest=COUNTS[-5:])
    with ScriptedSidecar(half, answer({"messages": 9, "tokens": 9})) as sidecar:
        async with _client(sidecar) as client:
            call = asyncio.create_task(_session(client).length())
            await until(lambda: bool(sidecar.requests), "it is asked")
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            half.later.set()
            assert await _session(client).length() == 9
    assert sidecar.connections == 2


async def test_connections_are_kept_and_bounded() -> None:
    may = threading.Event()
    with ScriptedSidecar(Reply(COUNTS, may=may)) as sidecar:
        async with _client(sidecar) as client:
            session = _session(client)
            calls = [asyncio.create_task(session.length()) for _ in range(100)]
            await until(lambda: len(sidecar.requests) == 64, "all connections are in use")
            may.set()
            assert set(await asyncio.gather(*calls)) == {3}
            for _ in range(3):
                await session.length()
    assert (sidecar.connections, len(sidecar.requests)) == (64, 103)


async def test_a_closed_client_says_so() -> None:
    with ScriptedSidecar(DONE) as sidecar:
        client = _client(sidecar)
        await client.aclose()
        with pytest.raises(StoreUnavailable, match="the client is closed"):
            await _session(client).append("a")
    assert sidecar.connections == 0


# --- what answers


async def test_a_sidecar_that_ends_or_starts_is_asked_again() -> None:
    codes = ("ShuttingDown", "Starting", "Overloaded")
    refusals = [problem(code, 503, retryable=True, retry_after=1) for code in codes]
    with ScriptedSidecar(*refusals, DONE) as sidecar:
        async with _client(sidecar) as client:
            assert (await _session(client).append("a")).seq == 1
    assert len(sidecar.requests) == 4


async def test_one_that_keeps_refusing_is_quoted() -> None:
    with ScriptedSidecar(problem("ShuttingDown", 503, retry_after=1)) as sidecar:
        async with _client(sidecar, patience=0.05) as client:
            with pytest.raises(StoreUnavailable, match="it went wrong: ShuttingDown"):
                await _session(client).append("a")


@pytest.mark.parametrize(
    "strange",
    [
        answer(b"<html>", "404 Not Found", "text/html"),
        answer(b"not json", "503 Oh", "application/problem+json"),
        answer(b"", "302 Found", "text/plain"),
    ],
)
async def test_what_is_no_sidecar_is_called_so(strange: bytes) -> None:
    with ScriptedSidecar(strange) as sidecar:
        async with _client(sidecar) as client:
            with pytest.raises(ConfigurationError, match="is no sidecar of Holdfast"):
                await _session(client).append("a")
    assert len(sidecar.requests) == 1


@pytest.mark.parametrize("strange", [b"<html>", b"[]", b'{"ok": true}', b'{"seq": "1"}', b"\xff"])
async def test_what_answers_something_else_is_called_no_sidecar(strange: bytes) -> None:
    with ScriptedSidecar(answer(strange)) as sidecar:
        async with _client(sidecar) as client:
            session = _session(client)
            calls: list[Any] = [
                session.append("a"),
                session.read(),
                session.pop(),
                session.length(),
                session.health(),
                session.erase(),
                session.import_([]),
                client.memory("support").erase(labels={"user": "42"}),
            ]
            for call in calls:
                with pytest.raises(
                    ConfigurationError, match="is no sidecar of Holdfast, or one of"
                ):
                    await call
    assert sidecar.requests.count(f"POST {SESSION}/messages?by=id") == 1


async def test_a_code_of_a_later_version_is_an_error_of_its_status() -> None:
    for status, retryable, kind in (
        (503, True, StoreUnavailable),
        (500, False, HoldfastError),
        (418, False, ConfigurationError),
    ):
        with ScriptedSidecar(problem("SomethingNew", status, retryable=retryable)) as sidecar:
            async with _client(sidecar) as client:
                with pytest.raises(kind, match="SomethingNew"):
                    await _session(client).append("a")


async def test_proxies_of_the_environment_are_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with ScriptedSidecar(COUNTS) as sidecar:
        async with _client(sidecar, patience=0.05) as client:
            assert await _session(client).length() == 3


# --- turns

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
GRANTED = STREAM + b'event: granted\ndata: {"token":"t","fence":7,"ttl":30.0}\n\n'


async def test_a_turn_whose_stream_breaks_is_lost() -> None:
    with ScriptedSidecar(Reply(GRANTED, rest=b":\n\n", close=True)) as sidecar:
        async with _client(sidecar) as client, _session(client).turn() as turn:
            assert turn.fence == 7
            assert not turn.lost
            sidecar.hang_up()
            async with asyncio.timeout(60):
                await turn.lost
            assert not turn.interrupted
            with pytest.raises(LeaseLost):
                await turn.append("late")
            with pytest.raises(LeaseLost):
                await turn.check()
    assert sidecar.requests == [f"POST {SESSION}/turns?by=id"], "it was known without asking"


async def test_a_turn_whose_stream_falls_silent_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "SILENCE", 0.05)
    with ScriptedSidecar(Reply(GRANTED, rest=b":\n\n")) as sidecar:
        async with _client(sidecar) as client, _session(client).turn() as turn:
            async with asyncio.timeout(60):
                await turn.lost


@pytest.mark.parametrize(
    "stream",
    [
        STREAM,
        STREAM + b"event: something else\ndata: {}\n\n",
        STREAM + b'event: granted\ndata: {"tok',
    ],
)
async def test_a_stream_that_begins_otherwise_gives_no_turn(stream: bytes) -> None:
    with ScriptedSidecar(Reply(stream, close=True)) as sidecar:
        async with _client(sidecar, patience=0.05) as client:
            with pytest.raises(StoreUnavailable):
                async with _session(client).turn():
                    pytest.fail("it was not given")


async def test_a_turn_that_is_lost_at_once_is_told_so() -> None:
    event = STREAM + b"event: lost\ndata: {}\n\n"
    with ScriptedSidecar(Reply(event, close=True)) as sidecar:
        async with _client(sidecar) as client:
            with pytest.raises(LeaseLost):
                async with _session(client).turn():
                    pytest.fail("it was not given")


async def test_a_turn_that_cannot_be_given_back_keeps_nobody_waiting() -> None:
    never = threading.Event()
    replies = (Reply(GRANTED, rest=b":\n\n"), Reply(may=never))
    with ScriptedSidecar(*replies) as sidecar:
        async with _client(sidecar) as client:
            async with asyncio.timeout(60):
                async with _session(client).turn():
                    pass
    assert sidecar.requests[1] == f"DELETE {SESSION}/turns/t?by=id"


async def test_a_sidecar_that_starts_again_is_asked_for_the_turn_again() -> None:
    with ScriptedSidecar(LOST, Reply(GRANTED, rest=b":\n\n"), LOST) as sidecar:
        async with _client(sidecar) as client, _session(client).turn() as turn:
            assert turn.fence == 7


async def test_a_turn_that_a_repeated_call_finds_ended_is_lost_and_the_call_in_doubt() -> None:
    ended = problem("LeaseLost", 409)
    with ScriptedSidecar(Reply(GRANTED, rest=b":\n\n"), LOST, ended) as sidecar:
        async with _client(sidecar) as client, _session(client).turn() as turn:
            with pytest.raises(AmbiguousWrite):
                await turn.append("perhaps", id="i")
            assert turn.lost
            with pytest.raises(LeaseLost):
                await turn.append("late")
    assert len(sidecar.requests) == 3, "what is lost is known without asking"


async def test_a_refusal_says_nothing_of_the_turn() -> None:
    refusal = problem("QuotaExceeded", 429, quota="bytes", used=2, hard=1)
    with ScriptedSidecar(Reply(GRANTED, rest=b":\n\n"), refusal, LOST) as sidecar:
        async with _client(sidecar) as client, _session(client).turn() as turn:
            with pytest.raises(QuotaExceeded):
                await turn.append("a")
            assert not turn.lost


async def test_a_turn_is_entered_once() -> None:
    with ScriptedSidecar(Reply(GRANTED, rest=b":\n\n"), LOST) as sidecar:
        async with _client(sidecar) as client, _session(client).turn() as turn:
            with pytest.raises(RuntimeError, match="entered once"):
                await turn.__aenter__()
    assert [one.partition(" ")[0] for one in sidecar.requests[:2]] == ["POST", "DELETE"]


# --- whose memory


def _memory(name: str) -> MemoryInfo:
    return MemoryInfo(name, access="ReadWrite", template=None, fields=[], fixed=[])


async def test_a_memory_without_a_name_is_the_only_one_and_asked_for_once() -> None:
    there = answer({"memories": [_memory("support")]})
    with ScriptedSidecar(there, COUNTS) as sidecar:
        async with _client(sidecar) as client:
            session = client.memory().session("a")
            assert await asyncio.gather(session.length(), session.length()) == [3, 3]
    assert sidecar.requests.count("GET /v1/memories") == 1


@pytest.mark.parametrize(("names", "says"), [([], "serves none"), (["a", "b"], "serves 'a', 'b'")])
async def test_nobody_guesses_which_of_several_memories_is_meant(
    names: list[str], says: str
) -> None:
    there = answer({"memories": [_memory(name) for name in names]})
    with ScriptedSidecar(there) as sidecar:
        async with _client(sidecar) as client:
            with pytest.raises(MemoryNotFound, match=says):
                await client.memory().session("a").append("x")
    assert sidecar.requests == ["GET /v1/memories"]


# --- what cannot be asked


async def test_what_cannot_be_meant_is_refused_without_asking() -> None:
    with ScriptedSidecar(COUNTS) as sidecar:
        async with _client(sidecar) as client:
            session = _session(client)
            with pytest.raises(ValueError, match="not both"):
                await session.read(limit=1, max_tokens=1)
            with pytest.raises(ValueError, match="limit"):
                await session.read(limit=-1)
            with pytest.raises(ValueError, match="limit"):
                await session.read_page(limit=0)
    assert sidecar.requests == []
