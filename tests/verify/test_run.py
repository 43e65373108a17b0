"""What a run looks at besides its history reaches the report, and so does its size."""

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from tests.harness.proxy import CuttingProxy
from tests.harness.servers import Server
from tests.verify.__main__ import FAULTS, OPERATIONS, shortage
from tests.verify.case import Kind
from tests.verify.run import Plan, Report, judge, observe
from tests.verify.targets import Standalone, TargetName

QUIET = Plan(
    TargetName.STANDALONE,
    0.5,
    seed=2,
    workers=0,
    profiles={"plain": 1},
    faults={},
    options={"sessions": 1, "generation": 600.0},
)
SESSION = "mem:{verify-2/plain/g0-0}:"
REPORT = Report(
    TargetName.STANDALONE,
    1,
    900.0,
    Counter({("append", "ok"): OPERATIONS}),
    Counter({"server killed": FAULTS}),
    1,
    [],
    0,
    Counter(),
)


class Repaired(Standalone):
    """A server on which, once the work is over, nothing is left of a session that was wrong until then."""

    async def nodes(self) -> Sequence[Server]:
        async with self.server.client() as raw:
            await raw.delete(f"{SESSION}log")
        return await super().nodes()


@pytest_asyncio.fixture
async def target(valkey_server: Server) -> AsyncGenerator[Standalone]:
    async with CuttingProxy(valkey_server.port) as proxy, valkey_server.client() as raw:
        yield Repaired(valkey_server, proxy)
        await raw.flushall()


@pytest.mark.asyncio
@pytest.mark.redis
class TestWhatIsPlanted:
    async def test_nothing_is_reported_of_nothing(self, target: Standalone, tmp_path: Path) -> None:
        report = judge(QUIET, await observe(QUIET, target, tmp_path))
        assert report.violations == []
        assert report.evidence["states recounted"] > 0

    async def test_a_key_that_never_expires(self, target: Standalone, tmp_path: Path) -> None:
        stray = "mem:{verify-2/plain}:stray"  # of no session: no image has it
        async with target.server.client() as raw:
            await raw.set(stray, "x")
        [found] = judge(QUIET, await observe(QUIET, target, tmp_path)).violations
        assert (found.kind, found.sentence) == (Kind.NO_EXPIRY, f"{stray} never expires")

    async def test_what_is_wrong_for_a_moment(self, target: Standalone, tmp_path: Path) -> None:
        async with target.server.client() as raw:
            await raw.rpush(f"{SESSION}log", b'[1,0,1,0,1,"x"]')
            await raw.pexpire(f"{SESSION}log", 3_600_000)
        report = judge(QUIET, await observe(QUIET, target, tmp_path))
        assert report.sessions == 0  # in the end it is gone
        assert {(one.kind, one.session) for one in report.violations} == {
            (Kind.COUNTERS, "plain/g0-0")
        }


class TestSize:
    def test_a_whole_run_is_large(self) -> None:
        assert shortage("all", 900.0, [REPORT]) is None

    @pytest.mark.parametrize(
        "report",
        [
            replace(REPORT, operations=Counter({("append", "ok"): OPERATIONS - 1})),
            replace(REPORT, faults=Counter({"server killed": FAULTS - 1})),
        ],
        ids=["operations", "faults"],
    )
    def test_or_says_what_it_lacks(self, report: Report) -> None:
        said = shortage("all", 900.0, [report])
        assert said is not None
        assert "200,000 and 500" in said

    def test_targets_count_together(self) -> None:
        half = replace(
            REPORT,
            operations=Counter({("append", "ok"): OPERATIONS // 2}),
            faults=Counter({"server killed": FAULTS // 2}),
        )
        assert shortage("all", 900.0, [half, half]) is None
        assert shortage("all", 900.0, [half]) is not None

    @pytest.mark.parametrize(("target", "seconds"), [("all", 899.0), ("sentinel", 900.0)])
    def test_of_other_runs_it_is_not_judged(self, target: str, seconds: float) -> None:
        assert shortage(target, seconds, []) is None
