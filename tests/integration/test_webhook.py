"""The webhook as its own process: TLS that follows its files, bounds on what is sent, an orderly end."""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.harness.certificates import CertificateAuthority
from tests.harness.mounted_secret import MountedSecret
from tests.harness.pods import pod
from tests.harness.waiting import until
from tests.harness.webhook_process import SETTINGS, WebhookProcess

pytestmark = pytest.mark.asyncio

PATH = "/mutate-pods"


def review(body: Any) -> dict[str, Any]:
    question = {
        "uid": "u-1",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "operation": "CREATE",
        "namespace": "team",
        "object": body,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": question}


class Stand:
    """A webhook with its authority."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = WebhookProcess(directory)
        self.port = self.status = 0

    def start(self) -> None:
        self.port, self.status = self.process.start()

    def deliver(self, authority: CertificateAuthority, version: str) -> None:
        """Change the certificate as kubelet changes a mounted Secret: a link to a new folder."""
        made = authority.server(f"serving-{version}", hosts=["127.0.0.1", "webhook.test.svc"])
        mounted = MountedSecret(self.process.certificates)
        mounted.deliver(
            {"tls.crt": made.certificate.read_bytes(), "tls.key": made.key.read_bytes()}
        )

    def client(self, authority: CertificateAuthority) -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(authority.certificate))
        return httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{self.port}", verify=context, trust_env=False, timeout=120
        )

    async def answers(self, authority: CertificateAuthority) -> bool:
        try:
            async with self.client(authority) as client:
                return (await client.post(PATH, json=review(pod()))).status_code == 200
        except httpx.TransportError:
            return False

    async def answer_to_too_much(self, authority: CertificateAuthority) -> bytes:
        """Send more than is taken; return how the answer begins, empty for who was hung up on before."""
        context = ssl.create_default_context(cafile=str(authority.certificate))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context)
        size = 9 << 20
        head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
        writer.write(head.encode() + b" " * size)
        answer = b""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            answer = await reader.read(12)
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        return answer

    async def page(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(trust_env=False, timeout=120) as client:
            return await client.get(f"http://127.0.0.1:{self.status}{path}")


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    found = Stand(tmp_path)
    yield found
    found.process.stop()
    assert "Traceback" not in found.process.log


def authority(directory: Path, name: str) -> CertificateAuthority:
    folder = directory / name
    folder.mkdir()
    return CertificateAuthority(folder, name)


async def test_a_new_certificate_is_shown_without_a_restart(stand: Stand, tmp_path: Path):
    first, second = authority(tmp_path, "first"), authority(tmp_path, "second")
    stand.start()
    assert (await stand.page("/healthz")).status_code == 200
    early = await stand.page("/readyz")
    assert early.status_code == 503
    assert "no certificate yet" in early.text
    assert not await stand.answers(first)
    stand.deliver(first, "1")
    await until(lambda: stand.answers(first), "the certificate is there")
    assert (await stand.page("/readyz")).text == "ready\n"
    async with stand.client(first) as kept:
        assert (await kept.post(PATH, json=review(pod()))).status_code == 200
        stand.deliver(second, "2")
        await until(lambda: stand.answers(second), "the next one is shown")
        assert not await stand.answers(first)
        # A connection of before goes on.
        assert (await kept.post(PATH, json=review(pod()))).status_code == 200
    # Clients that name the host, as API servers do, see the same as those that come by address.
    context = ssl.create_default_context(cafile=str(second.certificate))
    _, writer = await asyncio.open_connection(
        "127.0.0.1", stand.port, ssl=context, server_hostname="webhook.test.svc"
    )
    writer.close()
    await writer.wait_closed()
    assert "New files are used from now on: the certificate." in stand.process.log


async def test_files_that_cannot_be_used_change_nothing(stand: Stand, tmp_path: Path):
    one = authority(tmp_path, "one")
    stand.deliver(one, "1")
    stand.start()
    await until(lambda: stand.answers(one), "it answers")
    key = stand.process.certificates / "..data" / "tls.key"
    good = key.read_bytes()
    key.write_text("no key", encoding="utf-8")
    stand.process.settings.write_text("image: [", encoding="utf-8")
    await until(lambda: stand.process.log.count("go on being used") == 2, "both are said")
    assert await stand.answers(one)
    assert 'files_unusable{files="certificate"} 1.0' in (await stand.page("/metrics")).text
    key.write_bytes(good)
    settings = {**SETTINGS, "image": "registry.example/holdfast:2"}
    stand.process.settings.write_text(yaml.safe_dump(settings), encoding="utf-8")

    async def changed() -> bool:
        async with stand.client(one) as client:
            answer = (await client.post(PATH, json=review(pod()))).json()
        return b"holdfast:2" in base64.b64decode(answer["response"]["patch"])

    await until(changed, "the settings are read again")
    await until(lambda: stand.answers(one), "and the certificate")
    page = (await stand.page("/metrics")).text
    assert 'files_unusable{files="settings"} 0.0' in page


async def test_what_is_no_question_is_answered_and_counted(stand: Stand, tmp_path: Path):
    one = authority(tmp_path, "one")
    stand.deliver(one, "1")
    stand.start()
    await until(lambda: stand.answers(one), "it answers")
    async with stand.client(one) as client:
        for body in (b"", b"{}", b"no json", b"[" * 100_000, json.dumps(review(None)).encode()):
            assert (await client.post(PATH, content=body)).status_code == 400
        assert (await client.get(PATH)).status_code == 405
        assert (await client.post("/")).status_code == 404
        assert (await client.get("/metrics")).status_code == 404
        assert await stand.answer_to_too_much(one) in (b"HTTP/1.1 413", b"")
        refused = (await client.post(PATH, json=review(pod(hostNetwork=True)))).json()
        assert refused["response"]["allowed"] is False
    page = (await stand.page("/metrics")).text
    assert "holdfast_webhook_malformed_total 6.0" in page
    assert 'holdfast_webhook_reviews_total{verdict="refused"} 1.0' in page
    assert "holdfast_webhook_certificate_expiry_timestamp_seconds 1." in page
    assert "The pod team/agent is refused: with hostNetwork" in stand.process.log


async def test_it_ends_in_order_and_goes_on_until_nobody_is_sent_to_it(tmp_path: Path):
    one = authority(tmp_path, "one")
    stand = Stand(tmp_path)
    stand.process = WebhookProcess(tmp_path, linger=3)
    stand.deliver(one, "1")
    try:
        stand.start()
        await until(lambda: stand.answers(one), "it answers")
        stand.process.terminate()
        await until(lambda: "The webhook ends." in stand.process.log, "it is told")
        assert (await stand.page("/readyz")).status_code == 503
        async with stand.client(one) as client:
            last = await client.post(PATH, json=review(pod()))
        assert last.status_code == 200
        assert last.headers["connection"] == "close", "the next question goes to another replica"
        stand.process.wait_until_ended()
        assert not await stand.answers(one)
    finally:
        stand.process.stop()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [("{}", "image: Field required"), ("- a", "the whole"), (None, "cannot be read")],
    ids=["no image", "no mapping", "no file"],
)
async def test_without_settings_it_does_not_start(
    stand: Stand, settings: str | None, sentence: str
):
    if settings is None:
        stand.process.settings.unlink()
    else:
        stand.process.settings.write_text(settings, encoding="utf-8")
    with pytest.raises(AssertionError):
        stand.start()
    [line] = stand.process.log.splitlines()
    assert sentence in line
    assert "ERROR" in line
