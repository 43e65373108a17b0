"""TLS: who answers is checked, and who asks where the server wants to know."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from holdfast.client import Client
from holdfast.embedded import reserve_port
from holdfast.errors import ConfigurationError, StoreUnavailable
from holdfast.store.redis import RedisStore
from tests.harness.certificates import CertificateAuthority, KeyPair
from tests.harness.parts import need_server
from tests.harness.servers import Product, Server, find_redis
from tests.harness.tied_processes import TiedProcesses
from tests.harness.waiting import until
from tests.integration import workers as work
from tests.integration.workers import user

pytestmark = [pytest.mark.asyncio, pytest.mark.redis]

NAME = "memory"
IMPATIENT = 2.0
"""Seconds for what is refused: enough for a handshake on a busy machine, whose failure is to be told."""


@dataclass(frozen=True, slots=True)
class Papers:
    """Certificates of one authority, for 127.0.0.1 and for a name; and a stranger's."""

    ca: Path
    server: KeyPair
    named: KeyPair
    client: KeyPair
    stranger: Path


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    directory = tmp_path_factory.mktemp("papers")
    authority = CertificateAuthority(directory, "ours")
    (directory / "other").mkdir()
    return Papers(
        ca=authority.certificate,
        server=authority.server("server", hosts=["127.0.0.1"]),
        named=authority.server("named", hosts=["redis.example"]),
        client=authority.client("client", user="agent", groups=[]),
        stranger=CertificateAuthority(directory / "other", "theirs").certificate,
    )


def tls_options(papers: Papers, port: int, pair: KeyPair) -> list[str]:
    options = ["--tls-port", str(port), "--tls-ca-cert-file", str(papers.ca)]
    options += ["--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key)]
    return [*options, "--tls-auth-clients", "optional", "--tls-replication", "yes"]


@pytest.fixture(scope="module")
def port() -> Generator[int]:
    with reserve_port(None) as port:
        yield port


@pytest_asyncio.fixture
async def server(papers: Papers, port: int, tmp_path: Path) -> AsyncGenerator[Server]:
    """Return a server that speaks TLS on the port beside its own."""
    async with make_server(papers, port, tmp_path) as server:
        yield server


def make_server(
    papers: Papers, port: int, directory: Path, *more: str, named: bool = False
) -> Server:
    need_server(Product.REDIS)
    options = tls_options(papers, port, papers.named if named else papers.server)
    return Server(Product.REDIS, directory / "server", arguments=[*options, *more])


def connect(url: str, namespace: str, *, timeout: float = 5.0) -> Client:
    store = RedisStore.from_url(url, timeout=timeout)
    return Client(store, namespace=namespace, policy=work.policy())


async def works(url: str, namespace: str) -> None:
    """Check that a conversation is kept there."""
    async with connect(url, namespace) as client:
        session = client.memory(work.MEMORY).session(work.SHARED)
        await session.append(user("hello"))
        async with session.turn() as turn:
            await turn.append(user("again"))
        assert await session.read() == [user("hello"), user("again")]


class TestStandalone:
    async def test_a_server_of_the_given_authority(
        self, server: Server, papers: Papers, port: int, namespace: str
    ) -> None:
        await works(f"rediss://127.0.0.1:{port}?ca={papers.ca}", namespace)

    async def test_a_client_closes_in_time_and_without_an_error_while_the_server_is_frozen(
        self, server: Server, papers: Papers, port: int, namespace: str
    ) -> None:
        """TLS is ended by both sides, and this one answers nothing."""
        url = f"rediss://127.0.0.1:{port}?ca={papers.ca}"
        client = connect(url, namespace, timeout=IMPATIENT)
        assert await client.memory(work.MEMORY).session("any").length() == 0
        server.pause()
        try:
            async with asyncio.timeout(20):  # alone, the transport would wait for 30 s
                await client.aclose()
        finally:
            server.resume()

    @pytest.mark.parametrize("ca", ["stranger", "none"])
    async def test_any_other_is_refused(
        self, server: Server, papers: Papers, port: int, namespace: str, ca: str
    ) -> None:
        option = f"?ca={papers.stranger}" if ca == "stranger" else ""
        async with connect(
            f"rediss://127.0.0.1:{port}{option}", namespace, timeout=IMPATIENT
        ) as client:
            with pytest.raises(StoreUnavailable, match="no TLS connection"):
                await client.memory(work.MEMORY).session("any").length()

    async def test_a_certificate_for_another_name_is_refused(
        self, papers: Papers, port: int, namespace: str, tmp_path: Path
    ) -> None:
        async with make_server(papers, port, tmp_path, named=True):
            url = f"rediss://127.0.0.1:{port}?ca={papers.ca}"
            async with connect(url, namespace, timeout=IMPATIENT) as client:
                with pytest.raises(StoreUnavailable, match="no TLS connection"):
                    await client.memory(work.MEMORY).session("any").length()
            await works(f"{url}&server-name=redis.example", namespace)
            async with connect(f"{url}&server-name=other", namespace, timeout=IMPATIENT) as client:
                with pytest.raises(StoreUnavailable, match="no TLS connection"):
                    await client.memory(work.MEMORY).session("any").length()

    async def test_a_server_that_asks_who_we_are(
        self, papers: Papers, port: int, namespace: str, tmp_path: Path
    ) -> None:
        async with make_server(papers, port, tmp_path, "--tls-auth-clients", "yes"):
            url = f"rediss://127.0.0.1:{port}?ca={papers.ca}"
            pair = f"&cert={papers.client.certificate}&key={papers.client.key}"
            await works(url + pair, namespace)
            async with connect(url, namespace, timeout=IMPATIENT) as client:
                with pytest.raises(StoreUnavailable):
                    await client.memory(work.MEMORY).session("any").length()

    async def test_a_server_without_tls(self, server: Server, namespace: str) -> None:
        url = server.url.replace("redis:", "rediss:")
        async with connect(url, namespace, timeout=IMPATIENT) as client:
            with pytest.raises(StoreUnavailable, match=r"no (TLS )?connection"):
                await client.memory(work.MEMORY).session("any").length()

    async def test_a_file_that_is_not_there_may_come(
        self, server: Server, papers: Papers, port: int, namespace: str, tmp_path: Path
    ) -> None:
        file = tmp_path / "late.pem"
        async with connect(
            f"rediss://127.0.0.1:{port}?ca={file}", namespace, timeout=IMPATIENT
        ) as client:
            session = client.memory(work.MEMORY).session(work.SHARED)
            with pytest.raises(StoreUnavailable, match=r"no TLS connection.*\(ca\)"):
                await session.length()
            file.write_bytes(papers.ca.read_bytes())

            async def stored() -> bool:
                with contextlib.suppress(StoreUnavailable):  # for as long as nobody is asked
                    return bool(await session.append(user("x")))
                return False

            await until(stored, "the server is believed")
            assert await session.length() == 1

    async def test_a_password_goes_along(
        self, papers: Papers, port: int, namespace: str, tmp_path: Path
    ) -> None:
        async with make_server(papers, port, tmp_path, "--requirepass", "s3cret/"):
            await works(f"rediss://:s3cret%2F@127.0.0.1:{port}?ca={papers.ca}", namespace)


class TestSeveral:
    async def test_a_cluster(
        self, papers: Papers, port: int, namespace: str, tmp_path: Path
    ) -> None:
        with reserve_port(None) as bus:
            options = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                str(bus),
                "--tls-cluster",
                "yes",
            ]
            async with (
                make_server(papers, port, tmp_path, *options) as server,
                server.client() as raw,
            ):
                await raw.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

                async def ready() -> bool:
                    return b"cluster_state:ok" in await raw.execute_command("CLUSTER", "INFO")

                await until(ready, "it is a Cluster")
                url = f"rediss+cluster://127.0.0.1:{port}?ca={papers.ca}"
                await works(url, namespace)

    async def test_a_primary_that_sentinel_watches(
        self, papers: Papers, port: int, namespace: str, tmp_path: Path
    ) -> None:
        async with make_server(papers, port, tmp_path, "--requirepass", "primary"):
            with reserve_port(None) as watching:
                file = tmp_path / "sentinel.conf"
                options = tls_options(papers, watching, papers.server)
                lines = [
                    "port 0",
                    "bind 127.0.0.1",
                    *(
                        f"{name.removeprefix('--')} {value}"
                        for name, value in zip(options[::2], options[1::2], strict=True)
                    ),
                    f"sentinel monitor {NAME} 127.0.0.1 {port} 1",
                    f"sentinel auth-pass {NAME} primary",
                    "user default off",
                    "user watcher on >se@cret ~* &* +@all",
                    "",
                ]
                file.write_text("\n".join(lines))
                processes = TiedProcesses(
                    tmp_path, {"sentinel": [str(find_redis()), str(file), "--sentinel"]}
                )
                try:
                    processes.start("sentinel")
                    url = f"rediss+sentinel://:primary@127.0.0.1:{watching}/{NAME}?ca={papers.ca}"
                    login = "&sentinel-username=watcher&sentinel-password=se%40cret"
                    await works(url + login, namespace)
                finally:
                    processes.stop()


@pytest.mark.parametrize("option", ["ca", "cert", "key", "server-name"])
async def test_options_of_tls_without_tls_are_refused(option: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{option}' of the url is for rediss:// only"):
        RedisStore.from_url(f"redis://127.0.0.1?{option}=x")
