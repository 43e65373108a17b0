"""Requests that a machine makes: from the OpenAPI document, and broken ones; a short run of each.

`make verify-sidecar` makes twenty thousand.
"""

import uuid
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.attacks import generated
from tests.attacks.bodies import Fuzzer
from tests.attacks.document import Document
from tests.harness.servers import Server
from tests.harness.sidecar_apart import SidecarApart

pytestmark = [pytest.mark.redis, pytest.mark.slow]


@pytest.fixture(scope="module")
def sidecar(
    valkey_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Generator[SidecarApart]:
    with SidecarApart.running(
        tmp_path_factory.mktemp("sidecar"),
        valkey_server.url,
        policy=generated.POLICY,
        namespace=f"team-{uuid.uuid4().hex[:12]}",
    ) as sidecar:
        sidecar.wait_until_ready()
        yield sidecar


def test_every_answer_is_one_that_the_document_has(sidecar: SidecarApart, tmp_path: Path) -> None:
    """By schemathesis: statuses, media types, headers and bodies, alone and along the links."""
    outcome = generated.run(
        sidecar.url, tmp_path, seed=1, phases="fuzzing,stateful", examples=generated.SHORT
    )
    assert not outcome.failures, outcome.output
    assert not outcome.errors, outcome.output
    assert outcome.cases >= 200
    assert "Traceback" not in sidecar.log, sidecar.tail()


@pytest.mark.parametrize("kind", ["bodies", "requests", "values"])
def test_whatever_comes_is_answered_or_refused(sidecar: SidecarApart, kind: str) -> None:
    """Broken bodies, broken heads, and any JSON value, which comes back as it went in."""
    document = Document(sidecar.ask("GET", "/openapi.json").json)
    getattr(Fuzzer(sidecar.socket, document.statuses, examples=150), kind)()
    assert "Traceback" not in sidecar.log, sidecar.tail()
