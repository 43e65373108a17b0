"""The same Dockerfile, built by others than the buildah of the tests: Docker's BuildKit, and Podman.

They start from the same bases, and what they make is compared file by file with what buildah made.
`make test-docker` runs this; it builds the image twice more, for which `make test-e2e` has no time.
"""

import json
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import pytest

from tests.harness import docker_daemon, image
from tests.harness.docker_daemon import PRIVATE_RUN, Docker, DockerUnavailable
from tests.harness.parts import missing
from tests.harness.unpacked import Unpacked, missing_runtime

pytestmark = [pytest.mark.e2e, pytest.mark.thorough, pytest.mark.timeout(3600)]

DOCKERFILE = (image.ROOT / "Dockerfile").read_text(encoding="utf-8")
NAME = "localhost/holdfast:other"
# Docker makes the folders above what is copied when it copies it; `docs/image.md` says so.
MADE_BY_THE_BUILD = {"opt", "opt/holdfast"}


@pytest.fixture(scope="module")
def by_buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unpacked]:
    """What the tests of the image have shown to be right."""
    if missing_runtime():
        missing("runc, as root", "apt-get install runc, and run the tests as root")
    if (why := image.unavailable()) is not None:
        missing("what builds the image", why)
    folder = tmp_path_factory.mktemp("buildah")
    yield Unpacked.of(image.ensure().archive, folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """A Docker of the test's own, which has the bases."""
    if (why := docker_daemon.obstacle()) is not None:
        missing("Docker", why)
    archive = tmp_path_factory.mktemp("bases") / "base.tar"
    with docker_daemon.running() as found:
        with image.opened(image.cache_folder()) as buildah:
            for name in buildah.bases().values():
                buildah("push", "--quiet", name, f"docker-archive:{archive}:{name}")
                found("load", "--quiet", "--input", str(archive))
                archive.unlink()
        yield found


def build(docker: Docker, folder: Path, *, comment: str = "", **environ: str) -> str:
    """Build with Docker, and return what it says of it; raises `DockerUnavailable`."""
    with image.opened(image.cache_folder()) as buildah:
        given = {**image.ARGUMENTS, **buildah.bases()}
    arguments = [f"--build-arg={key}={value}" for key, value in given.items()]
    with image.secrets_of_build(folder, comment=comment) as secrets:
        command = ["build", "--network=host", f"--tag={NAME}", *arguments]
        # A builder that knows no secrets refuses them before it reads the Dockerfile.
        command += [] if environ else secrets
        return docker(*command, str(image.ROOT), environ=environ)


def unpacked_by_docker(docker: Docker, folder: Path, secret: str) -> Unpacked:
    """Build with Docker, and bring what it saved into the layout of the OCI."""
    saved, archive = folder / "docker.tar", folder / "docker.oci.tar"
    build(docker, folder, comment=secret)
    docker("save", "--output", str(saved), NAME)
    with image.opened(image.cache_folder()) as buildah:
        buildah("pull", "--quiet", f"docker-archive:{saved}")
        buildah.save(NAME, archive)
        buildah("rmi", NAME)
    return Unpacked.of(archive, folder / "image")


def unpacked_by_podman(folder: Path, secret: str) -> Unpacked:
    """Build with Podman, in the store of the tests' buildah, where the bases are."""
    archive = folder / "podman.oci.tar"
    with image.opened(image.cache_folder()) as buildah:
        podman = replace(buildah, program=("unshare", "--mount", *PRIVATE_RUN, "podman"))
        podman.build(NAME, secret=secret, layers=False)
        buildah.save(NAME, archive)
        buildah("rmi", NAME)
    return Unpacked.of(archive, folder / "image")


def has_the_same(built: Unpacked, right: Unpacked, *, made: set[str]) -> None:
    """Compare our layer, and what a container is started with.

    Args:
        made: the folders that have another time.
    """
    assert len(built.layers) == len(right.layers) == 2, "the base, and what is put into it"
    theirs, ours = (dict(each.entries_by_name(1)) for each in (built, right))
    assert theirs.keys() == ours.keys()
    assert {name for name in ours if theirs[name] != ours[name]} == made
    for entry, _ in built.entries(1):
        assert entry.name not in made or (
            entry.isdir() and stat.S_IMODE(entry.mode) == 0o755 and (entry.uid, entry.gid) == (0, 0)
        )
    for part in ("User", "Env", "Entrypoint", "WorkingDir", "Labels"):
        assert built.configuration["config"][part] == right.configuration["config"][part], part


def is_right(built: Unpacked, secret: str) -> None:
    """A program starts, and nothing is left of the secrets that it was built with."""
    done = built.run(["holdfast-sidecar", "--help"])
    assert done.returncode == 0, done.stderr
    assert "holdfast-sidecar" in done.stdout
    for number in range(len(built.layers)):
        for entry, content in built.entries(number):
            assert secret.encode() not in content, entry.name
            assert not entry.name.startswith("run/secrets"), entry.name
    assert secret not in json.dumps(built.configuration)


def test_docker_makes_the_same_files(docker: Docker, by_buildah: Unpacked, tmp_path: Path):
    secret = token_hex(24)
    built = unpacked_by_docker(docker, tmp_path, secret)
    has_the_same(built, by_buildah, made=MADE_BY_THE_BUILD)
    is_right(built, secret)
    shutil.rmtree(tmp_path)


def test_podman_makes_the_same_files(by_buildah: Unpacked, tmp_path: Path):
    if shutil.which("podman") is None:
        missing("Podman", "apt-get install --no-install-recommends podman")
    secret = token_hex(24)
    built = unpacked_by_podman(tmp_path, secret)
    has_the_same(built, by_buildah, made=set())
    is_right(built, secret)
    shutil.rmtree(tmp_path)


def test_a_builder_without_buildkit_says_what_is_missing(docker: Docker, tmp_path: Path):
    with pytest.raises(DockerUnavailable, match="requires BuildKit"):
        build(docker, tmp_path, DOCKER_BUILDKIT="0")


def test_the_dockerfile_asks_no_registry_for_its_syntax():
    assert not re.search(r"(?im)^#\s*syntax\s*=", DOCKERFILE)
