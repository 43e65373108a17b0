"""`holdfast dev` as people run it: a real process, its output, its files, and programs beside it."""

import asyncio
import contextlib
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import httpx
import pytest
from mcp import Client as McpClient
from mcp.client.streamable_http import streamable_http_client

import holdfast
from tests.harness.forks import Call, Fork
from tests.harness.processes import is_alive
from tests.harness.servers import Server, redis_client
from tests.harness.waiting import until

pytestmark = pytest.mark.redis

FOLLOWED = r"Applied: Every live session follows revision {}\."


def memory(name: str = "support", *, namespace: str | None = None, spec: str = "") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return textwrap.dedent(f"""\
        apiVersion: holdfast.dev/v1alpha1
        kind: MemoryResource
        metadata: {{name: {name}{where}}}
        spec:
          backendRef: {{name: shared, namespace: platform}}
          limits: {{maxTokens: 2000}}
          retention: {{ttl: 24h}}
        """) + (f"  {spec}\n" if spec else "")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "holdfast_cli", "dev", *arguments]


def environ() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


class Dev:
    """A running `holdfast dev` and what it said."""

    def __init__(self, process: Fork) -> None:
        self.process = process
        self.lines: list[str] = []
        self._listener = asyncio.create_task(self._listen())

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def url(self) -> str:
        return re.findall("^export HOLDFAST_URL='(.*)'$", self.text, re.MULTILINE)[0]

    async def until(self, pattern: str, *, since: int = 0) -> str:
        """Wait for a line that matches, not before line `since`."""

        def found() -> list[str]:
            return [line for line in self.lines[since:] if re.search(pattern, line)]

        def ended_or_found() -> bool:
            return bool(found()) or self._listener.done()

        await until(ended_or_found, f"{pattern} in:\n{self.text}")
        assert found(), self.text
        return found()[-1]

    async def ready(self) -> "Dev":
        await self.until("^MEMORY ")
        # The table is printed in one go, and the line of a change comes later.
        await self.until("^[-a-z0-9]+/[-a-z0-9]+ +(True|False)")
        return self

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        async with asyncio.timeout(120):
            code = await self.process.wait()
            await self._listener
        return code

    async def _listen(self) -> None:
        async for line in self.process.stdout:
            self.lines.append(line.decode().rstrip("\n"))


@contextlib.asynccontextmanager
async def running(folder: Path, *arguments: str) -> AsyncGenerator[Dev]:
    """Run it for the length of a block: forked, as most of what it costs to start is to load its code.

    `finished` and the README's tour start it as people do.
    """
    call = Call(
        "tests.harness.forks:run_program",
        ["holdfast_cli.__main__:main", "holdfast", ["dev", *arguments]],
        load=["holdfast_cli.app", "holdfast_cli.local.run", "holdfast.store.redis"],
        environ=environ(),
        directory=str(folder),
    )
    dev = Dev(await Fork.start(call))
    dev.process.stdin.close()
    try:
        yield dev
    finally:
        await dev.stop()


def finished(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


async def server_pid(url: str) -> int:
    port = int(re.findall(r":(\d+)/", url)[0])
    async with redis_client(port) as client:
        return (await client.info("server"))["process_id"]


def is_empty_but(folder: Path, name: str) -> bool:
    return [path.name for path in folder.iterdir()] == [name]


def message(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"message {number}: " + "some words about an order " * 4}


async def fill(session: holdfast.Session, count: int) -> None:
    for number in range(count):
        await session.append(message(number))


@pytest.mark.asyncio
async def test_the_two_lines_it_prints_lead_to_a_first_append(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())
    began = time.monotonic()
    async with running(tmp_path, "-f", "support.yaml") as dev:
        await dev.ready()
        assert await dev.until("^MEMORY") == "MEMORY         READY  REASON     LIMITS       TTL"
        assert "local/support  True   Available  2000 tokens  24h" in dev.lines
        [line] = [line for line in dev.lines if line.startswith("import holdfast; ")]
        program = f"{line}\nimport asyncio\nprint(asyncio.run(session.append('hi')).seq)"
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", program],
            env=environ() | {"HOLDFAST_URL": dev.url},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "1\n"
    assert time.monotonic() - began < 120


@pytest.mark.slow
@pytest.mark.asyncio
async def test_an_edit_reaches_the_live_session_and_a_broken_one_changes_nothing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "support.yaml"
    file.write_text(memory())
    async with running(tmp_path, "-f", "support.yaml") as dev:
        await dev.ready()
        async with holdfast.connect(dev.url) as client:
            session = client.memory("support").session("one")
            await fill(session, 40)
            before = await session.health()

            file.write_text(memory().replace("2000", "500").replace("24h", "2h"))
            edited = await dev.until("edited")
            assert (
                "local/support  edited: limits.maxTokens 2000 -> 500, retention.ttl 24h -> 2h"
                in edited
            )
            await dev.until(FOLLOWED.format(2))

            after = await session.health()
            assert (before.revision, after.revision) == (1, 2)
            assert before.tokens > 500 >= after.tokens
            assert before.expires_at is not None
            assert after.expires_at is not None
            assert before.expires_at - after.expires_at > 20 * 3_600_000

            file.write_text(memory().replace("2000", "lots").replace("24h", "1m 30s"))
            await dev.until("nothing was changed")
            assert re.search(r"support\.yaml:6: spec\.limits\.maxTokens: must be of type", dev.text)
            assert re.search(r"support\.yaml:7: spec\.retention\.ttl: should match", dev.text)
            await fill(session, 10)
            assert (await session.health()).revision == 2
            assert await session.token_count() <= 500

            file.write_text(memory().replace("2000", "400").replace("24h", "2h"))
            await dev.until("the manifests can be used again")
            await dev.until(FOLLOWED.format(3))
            assert (await session.health()).tokens <= 400


@pytest.mark.asyncio
async def test_an_immutable_field_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "support.yaml"
    file.write_text(memory())
    async with running(tmp_path, "-f", "support.yaml") as dev:
        await dev.ready()
        file.write_text(memory(spec="keyTemplate: 'user:{user_id}'"))
        await dev.until(r"support\.yaml:8: spec\.keyTemplate: keyTemplate is immutable")
    again = finished(tmp_path, "-f", "support.yaml")
    assert again.returncode == 1
    assert again.stderr.startswith("support.yaml:8: spec.keyTemplate: keyTemplate is immutable")


@pytest.mark.slow
@pytest.mark.asyncio
async def test_a_removed_file_is_a_deletion_with_its_deletion_policy(tmp_path: Path) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "gone.yaml").write_text(memory("gone", spec="deletionPolicy: Delete"))
    (folder / "kept.yaml").write_text(memory("kept"))
    (folder / "other.yaml").write_text(memory("other"))
    async with running(tmp_path, "-f", "manifests") as dev:
        await dev.ready()
        async with holdfast.connect(dev.url) as client:
            gone, kept = (client.memory(name).session("one") for name in ("gone", "kept"))
            await fill(gone, 3)
            await fill(kept, 3)

            # An editor that writes another file in its place removes nothing.
            fresh = folder / "gone.yaml.new"
            fresh.write_text(memory("gone", spec="deletionPolicy: Delete").replace("2000", "1000"))
            (folder / "gone.yaml").unlink()
            fresh.rename(folder / "gone.yaml")
            await dev.until(FOLLOWED.format(2))
            assert "removed" not in dev.text

            (folder / "gone.yaml").unlink()
            (folder / "kept.yaml").unlink()
            await dev.until("local/gone  SessionsDeleted: 1 sessions were deleted")
            await dev.until(r"local/kept  SessionsRetained: The sessions stay until they expire")
            with pytest.raises(holdfast.PolicyNotFound):
                await gone.append(message(4))
            assert await kept.length() == 3

            since = len(dev.lines)
            (folder / "gone.yaml").write_text(memory("gone"))
            await dev.until("local/gone  added", since=since)
            await dev.until("local/gone  revision", since=since)
            async with holdfast.connect(dev.url) as anew:
                session = anew.memory("gone").session("one")
                await session.append(message(1))
                assert await session.length() == 1


@pytest.mark.asyncio
async def test_a_restart_keeps_data_policy_and_address(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())
    urls: list[str] = []
    revisions: list[int] = []
    for run in range(2):
        async with running(tmp_path, "-f", "support.yaml") as dev:
            await dev.ready()
            urls.append(dev.url)
            async with holdfast.connect(dev.url) as client:
                session = client.memory("support").session("one")
                assert await session.length() == run
                await session.append(message(run))
                revisions.append((await session.health()).revision)
            pid = await server_pid(dev.url)
            assert await dev.stop(signal.SIGINT) == 0
            assert not is_alive(pid)
            assert (tmp_path / ".holdfast" / "dev.lock").read_text() == ""
    assert urls[0] == urls[1]
    assert revisions == [1, 1]


@pytest.mark.asyncio
async def test_what_was_removed_between_runs_is_deleted_at_the_next(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(memory("gone"))
    (tmp_path / "b.yaml").write_text(memory("stays"))
    async with running(tmp_path, "-f", "a.yaml", "-f", "b.yaml") as dev:
        await dev.ready()
    async with running(tmp_path, "-f", "b.yaml") as dev:
        await dev.until("local/gone  removed")
        await dev.until("local/gone  SessionsRetained")


@pytest.mark.asyncio
async def test_a_run_that_was_killed_does_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())
    async with running(tmp_path, "-f", "support.yaml") as dev:
        await dev.ready()
        async with holdfast.connect(dev.url) as client:
            await client.memory("support").session("one").append(message(1))
        await dev.stop(signal.SIGKILL)
    async with running(tmp_path, "-f", "support.yaml") as dev:
        await dev.ready()
        async with holdfast.connect(dev.url) as client:
            await client.memory("support").session("one").append(message(2))


@pytest.mark.asyncio
async def test_a_second_one_on_the_same_directory_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())
    async with running(tmp_path, "-f", "support.yaml") as dev:
        await dev.ready()
        second = await asyncio.to_thread(finished, tmp_path, "-f", "support.yaml")
        assert second.returncode == 1
        assert second.stderr == (
            f"holdfast: .holdfast is in use by another `holdfast dev` (process {dev.process.pid}): "
            "stop it, or give another --directory\n"
        )
        assert second.stdout == ""
        async with running(tmp_path, "-f", "support.yaml", "--directory", "elsewhere") as other:
            await other.ready()
            assert other.url != dev.url


@pytest.mark.asyncio
async def test_it_serves_every_namespace_and_every_backend(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(
        "---\n".join(
            [
                memory(),
                memory("users", namespace="crm", spec="keyTemplate: 'user:{user_id}'").replace(
                    "namespace: platform", "namespace: elsewhere"
                ),
                textwrap.dedent("""\
                    apiVersion: holdfast.dev/v1alpha1
                    kind: MemoryBackend
                    metadata: {name: shared, namespace: elsewhere}
                    spec:
                      endpoints: ["a.svc:6379", "b.svc:6379"]
                      mode: Cluster
                      tls: {mode: Enabled}
                      authRef: {name: login}
                      keyPrefix: acme
                    """),
                textwrap.dedent("""\
                    apiVersion: holdfast.dev/v1alpha1
                    kind: MemoryBinding
                    metadata: {name: agent}
                    spec:
                      serviceAccountName: agent
                      memories:
                      - {name: support, memoryRef: {name: support}, access: ReadWrite}
                    """),
            ]
        )
    )
    async with running(tmp_path, "-f", "all.yaml", "--ephemeral") as dev:
        await dev.ready()
        await dev.until("^local/support +True")
        await dev.until("^crm/users +True")
        await dev.until(
            r"^all\.yaml:\d+: MemoryBinding local/agent: .* does not carry out MemoryBinding"
        )
        assert dev.url.endswith("/0?namespace=local")
        assert re.search(r"/0\?namespace=crm&prefix=acme'$", dev.text, re.MULTILINE)
        url = dev.url.replace("namespace=local", "namespace=crm&prefix=acme")
        async with holdfast.connect(url) as client:
            await client.memory("users").session(user_id="42").append(message(1))


@pytest.mark.asyncio
async def test_an_erasure_is_carried_out_once_however_often_it_is_started(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())

    def order(session: str) -> None:
        (tmp_path / "order.yaml").write_text(
            textwrap.dedent(f"""\
                apiVersion: holdfast.dev/v1alpha1
                kind: MemoryErasure
                metadata: {{name: order}}
                spec: {{memoryRef: {{name: support}}, session: "{session}", ttlAfterFinished: 1s}}
                """)
        )

    async with running(tmp_path, "-f", ".") as dev:
        await dev.ready()
        async with holdfast.connect(dev.url) as client:
            sessions = [client.memory("support").session(name) for name in ("42", "43")]
            for session in sessions:
                await session.append(message(1))
            order("42")
            await dev.until(
                "MemoryErasure local/order  Erased: 1 sessions with 1 messages are erased"
            )
            assert [await session.length() for session in sessions] == [0, 1]
            await sessions[0].append(message(2))
        order("43")
        await dev.until("immutable")
        order("42")
        await dev.until("can be used again")
        await dev.stop()
    async with running(tmp_path, "-f", ".") as dev:
        await dev.ready()
        await dev.until("MemoryErasure local/order: 1 sessions with 1 messages are erased")
        async with holdfast.connect(dev.url) as client:
            assert await client.memory("support").session("42").length() == 1, "not once more"
            assert await client.memory("support").session("43").length() == 1


@pytest.mark.asyncio
async def test_an_ephemeral_one_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())
    async with running(tmp_path, "-f", "support.yaml", "--ephemeral") as dev:
        await dev.ready()
        async with holdfast.connect(dev.url) as client:
            await client.memory("support").session("one").append(message(1))
        pid = await server_pid(dev.url)
        assert await dev.stop() == 0
        assert not is_alive(pid)
    assert is_empty_but(tmp_path, "support.yaml")


@pytest.mark.asyncio
async def test_another_server_can_take_the_embedded_ones_place(
    tmp_path: Path, valkey_server: Server
) -> None:
    namespace = f"dev-{secrets.token_hex(4)}"
    (tmp_path / "support.yaml").write_text(memory(namespace=namespace))
    backend = f"{valkey_server.url}/0"
    for _ in range(2):
        async with running(tmp_path, "-f", "support.yaml", "--backend", backend) as dev:
            await dev.ready()
            await dev.until(f"^{namespace}/support +True")
            assert dev.url == f"{backend}?namespace={namespace}"
            async with holdfast.connect(dev.url) as client:
                await client.memory("support").session("one").append(message(1))
    # Another folder is another cluster: what belongs to the first is not its own.
    async with running(
        tmp_path, "-f", "support.yaml", "--backend", backend, "--directory", "other"
    ) as dev:
        await dev.until(f"^{namespace}/support +False +KeysOwnedByOther")


@pytest.mark.asyncio
async def test_a_password_is_used_and_not_shown(tmp_path: Path) -> None:
    password = "p@ss/word"
    async with running_with_password(tmp_path / "server", password) as server:
        (tmp_path / "support.yaml").write_text(memory())
        address = f"127.0.0.1:{server.port}/0"
        async with running(
            tmp_path, "-f", "support.yaml", "--backend", f"redis://:p%40ss%2Fword@{address}"
        ) as dev:
            await dev.ready()
            assert "local/support  True   Available  2000 tokens  24h" in dev.lines
            assert dev.url == f"redis://:***@{address}?namespace=local"
    kept = "".join(
        path.read_text(errors="replace")
        for path in (tmp_path / ".holdfast").rglob("*")
        if path.is_file()
    )
    assert password not in dev.text + kept
    assert "p%40ss%2Fword" not in dev.text + kept


@contextlib.asynccontextmanager
async def running_with_password(directory: Path, password: str) -> AsyncGenerator[Server]:
    from tests.harness.servers import Product

    async with Server(Product.VALKEY, directory, arguments=["--requirepass", password]) as server:
        yield server


WORK = """\
import asyncio, holdfast, sys
async def main():
    async with holdfast.connect() as client:
        print((await client.memory("support").session("one").append("hi")).seq)
asyncio.run(main())
sys.exit(7)
"""


@pytest.mark.asyncio
async def test_a_program_runs_beside_it_and_gives_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())
    (tmp_path / "work.py").write_text(WORK)
    done = await asyncio.to_thread(
        finished,
        tmp_path,
        *("-f", "support.yaml", "--ephemeral", "--exec", f"{sys.executable} work.py"),
    )
    assert done.returncode == 7
    assert done.stdout == "1\n"
    assert "local/support  True" in done.stderr


@pytest.mark.asyncio
async def test_a_program_that_cannot_be_run_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())
    program = tmp_path / "work"
    program.write_text("print(1)\n")  # which interpreter is meant, it does not say
    program.chmod(0o700)
    done = await asyncio.to_thread(
        finished, tmp_path, "-f", "support.yaml", "--ephemeral", "--exec", "./work"
    )
    assert done.returncode == 1
    assert "--exec names a program that cannot be run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.asyncio
async def test_a_signal_ends_the_program_too(tmp_path: Path) -> None:
    (tmp_path / "support.yaml").write_text(memory())
    (tmp_path / "work.py").write_text(
        "import os, signal, time\nprint(f'pid={os.getpid()}', flush=True)\ntime.sleep(600)\n"
    )
    async with running(
        tmp_path,
        *("-f", "support.yaml", "--ephemeral", "--exec", f"{sys.executable} work.py"),
    ) as dev:
        pid = int((await dev.until(r"^pid=\d+")).removeprefix("pid="))
        server = await server_pid(dev.url)
        assert await dev.stop(signal.SIGTERM) == 128 + signal.SIGTERM
        assert not is_alive(pid)
        assert not is_alive(server)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-f", "nothing.yaml"], "nothing.yaml: no such file or directory"),
        (["-f", "empty"], "empty: no manifest in it (*.yaml, *.yml, *.json)"),
        (["-f", "backend.yaml"], "there is no MemoryResource in backend.yaml: nothing to serve"),
        (["-f", "good.yaml", "--exec", "no-such-program-here"], "--exec names no program"),
        (["-f", "good.yaml", "--backend", "rediss://a:1"], "--backend takes redis://"),
        (["-f", "good.yaml", "--backend", "memory://"], "--backend takes redis://"),
        (
            ["-f", "good.yaml", "--backend", "redis://127.0.0.1:1", "--ephemeral"],
            "--ephemeral is about the embedded server",
        ),
    ],
)
def test_what_cannot_work_is_one_sentence(
    tmp_path: Path, arguments: Sequence[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.yaml").write_text(memory())
    (tmp_path / "backend.yaml").write_text(
        "{apiVersion: holdfast.dev/v1alpha1, kind: MemoryBackend, metadata: {name: a},"
        " spec: {endpoints: ['a:1']}}"
    )
    done = finished(tmp_path, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"holdfast: {sentence}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / ".holdfast").exists()


def test_bad_manifests_are_listed_and_nothing_is_started(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(memory().replace("24h", "24 hours"))
    (tmp_path / "b.yaml").write_text(memory("other").replace("maxTokens", "maxToken"))
    done = finished(tmp_path, "-f", "a.yaml", "-f", "b.yaml")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "a.yaml:7: spec.retention.ttl: should match '^[1-9][0-9]{0,6}(ms|s|m|h|d)$' (FieldValueInvalid)",
        "b.yaml:6: spec.limits.maxToken: unknown field (FieldValueForbidden)",
    ]
    assert not (tmp_path / ".holdfast").exists()


@pytest.mark.asyncio
async def test_the_sidecars_api_is_served_beside_it(tmp_path: Path) -> None:
    for name, namespace in (("support", "team-a"), ("sales", "team-b")):
        (tmp_path / f"{name}.yaml").write_text(memory(name, namespace=namespace))
    async with running(tmp_path, "-f", ".", "--ephemeral") as dev:
        await dev.ready()
        line = await dev.until("^Over HTTP")
        base = line.rpartition(" ")[2]
        example = shlex.split(await dev.until("^curl "))
        assert await asyncio.to_thread(_answered, example) == 1
        async with httpx.AsyncClient(timeout=60) as http:
            served = (await http.get(f"{base}/v1/memories")).json()["memories"]
            assert [one["name"] for one in served] == ["support", "team-b.sales"]
            for one in served:
                url = f"{base}/v1/memories/{one['name']}/sessions/1/messages"
                assert (await http.post(url, json={"message": message(1)})).json()["seq"] == 1
        tools = streamable_http_client(f"{base}/mcp")
        async with McpClient(tools) as agent:
            told = {"memory": "support", "session": "1"}
            recalled = await agent.call_tool("recall", told)
            assert recalled.structured_content["messages"] == [message(1)]
        for url in (dev.url, base):
            async with holdfast.connect(url) as client:
                assert await client.memory("support").session("1").length() == 1
                assert await client.memory("support").session("first").length() == 1


def _answered(command: list[str]) -> int:
    """Run a call of curl as a person does who pasted it; without curl, make the same one."""
    program, url, option, body = command
    assert (program, option) == ("curl", "--json")
    if shutil.which(program) is None:
        return httpx.post(url, content=body, headers={"content-type": "application/json"}).json()[
            "seq"
        ]
    done = subprocess.run(
        [program, "--silent", "--show-error", *command[1:]],
        capture_output=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)["seq"]
