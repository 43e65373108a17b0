"""Worker processes: they begin together, can be frozen and killed, and explain their failures."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.harness.forks import Call, Program
from tests.harness.processes import Child, WorkerFailed, Workers, is_alive, is_frozen
from tests.harness.waiting import until

pytestmark = pytest.mark.asyncio


async def add_up(child: Child, *, start: int) -> int:
    """Report, take one number and return the sum."""
    print("not part of the protocol")
    await child.barrier()
    child.report({"index": child.index})
    return start + child.index + await child.receive()


async def count_for_ever(child: Child) -> None:
    """Report a growing number until killed."""
    number = 0
    while True:
        child.report(number)
        number += 1
        await asyncio.sleep(0.001)


async def fail(child: Child) -> None:
    """Fail with words on stderr, before the barrier."""
    raise LookupError(f"worker {child.index} found nothing")


class TestWorkers:
    async def test_begin_together_and_return_results(self, tmp_path: Path) -> None:
        async with Workers(add_up, 3, tmp_path, arguments={"start": 100}) as workers:
            assert len({worker.pid for worker in workers} | {os.getpid()}) == 4
            for worker in workers:
                await worker.at_barrier()
            assert [worker.reports for worker in workers] == [[], [], []]
            await workers.release()
            for worker in workers:
                assert await worker.next_report() == {"index": worker.index}
                worker.send(1000)
            assert await workers.wait() == [1100, 1101, 1102]
        assert "not part" in (tmp_path / "worker-0.stderr").read_text()

    async def test_can_be_frozen_and_killed(self, tmp_path: Path) -> None:
        async with Workers(count_for_ever, 1, tmp_path) as workers:
            worker = workers[0]
            await worker.next_report()
            worker.stop()
            assert is_frozen(worker.pid)
            seen = len(worker.reports)
            worker.cont()
            await until(lambda: len(worker.reports) > seen + 100, "it counts on")
            worker.stop()
            worker.kill()
            assert await worker.exit_code() == -signal.SIGKILL
            assert worker.reports == list(range(len(worker.reports)))

    async def test_a_failure_shows_the_end_of_stderr(self, tmp_path: Path) -> None:
        async with Workers(fail, 2, tmp_path) as workers:
            with pytest.raises(WorkerFailed, match="come to the barrier") as caught:
                await workers.release()
            assert "LookupError: worker" in str(caught.value)
            with pytest.raises(WorkerFailed, match="ended with code 1"):
                await workers[1].wait()

    async def test_a_deadline_names_what_was_waited_for(self, tmp_path: Path) -> None:
        async with Workers(count_for_ever, 1, tmp_path) as workers:
            with pytest.raises(WorkerFailed, match=r"worker 0 .* did not end within 0\.1 s"):
                await workers[0].wait(deadline=0.1)
            pid = workers[0].pid
        assert not is_alive(pid)

    async def test_a_module_can_be_run_too(self, tmp_path: Path) -> None:
        async with Workers("json.tool", 1, tmp_path, command_line=["--compact"]) as workers:
            workers[0].send([1, 2])
            workers[0].close_input()
            assert await workers[0].wait() is None
            assert workers[0].reports == [[1, 2]]

    async def test_end_with_the_process_that_started_them(self, tmp_path: Path) -> None:
        inner = tmp_path / "inner"
        inner.mkdir()
        async with Workers(hold_worker, 1, tmp_path, arguments={"directory": str(inner)}) as outer:
            pid = await outer[0].next_report()
            outer[0].kill()
            await until(lambda: not is_alive(pid), "the inner worker is gone")


async def test_a_forked_program_leaves_its_code_and_its_words(tmp_path: Path) -> None:
    module = "holdfast_operator.__main__"
    for words, code in ((["--no-such-option"], 2), (["--help"], 0)):
        call = Call(f"{module}:main", [words], load=[module], environ={}, directory=str(tmp_path))
        program = Program(call, tmp_path / "log")
        await until(lambda program=program: program.poll() is not None, "it ends")
        assert (program.poll(), program.wait()) == (code, code)
        program.kill()  # nobody is there
    said = (tmp_path / "log").read_text()
    assert "unrecognized arguments: --no-such-option" in said
    assert "The Holdfast operator." in said


async def hold_worker(child: Child, *, directory: str) -> None:
    """Keep a worker of our own until this process is killed."""
    async with Workers(add_up, 1, Path(directory), arguments={"start": 0}) as workers:
        await workers[0].at_barrier()
        child.report(workers[0].pid)
        await child.receive()
