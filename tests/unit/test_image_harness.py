"""What the build of the image in tests takes from this machine, and what it says when it cannot be."""

import os
from pathlib import Path

import pytest

from tests.harness import image


def test_a_missing_program_is_named_with_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "debootstrap").touch(mode=0o755)
    sentence = image.unavailable({"PATH": str(tmp_path)})
    assert sentence == "building the image needs buildah: apt-get install buildah"
    (tmp_path / "buildah").touch(mode=0o755)
    assert image.unavailable({"PATH": str(tmp_path)}) is None
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert image.unavailable({"PATH": str(tmp_path)}) == "building the image needs root"


def test_the_build_asks_the_index_that_this_machine_is_configured_with(tmp_path: Path):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://user:word@first.example/simple\nprefer-binary = true\n"
    )
    (tmp_path / "ca.pem").write_bytes(b"an authority")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PIP_CONFIG_FILE": str(tmp_path / "pip.conf"),
        "PIP_EXTRA_INDEX_URL": "https://second.example/simple https://third.example/simple",
        "PIP_CERT": str(tmp_path / "ca.pem"),
    }
    text, authority = image.pip_configuration(environ)
    lines = [line.strip() for line in text.splitlines()]
    assert "index-url = https://user:word@first.example/simple" in lines
    assert "https://third.example/simple" in lines
    assert "cert = /run/secrets/certificates" in lines
    assert not any(line.startswith("prefer-binary") for line in lines)
    assert authority == b"an authority"


def test_whatever_the_dockerfile_copies_makes_another_image(tmp_path: Path):
    image.copy_sources(tmp_path / "sources")
    before = image.digest_of_sources(tmp_path / "sources")
    assert image.digest_of_sources(tmp_path / "sources") == before
    for name in ("Dockerfile", "requirements/image.txt", "operator/holdfast/__init__.py"):
        with (tmp_path / "sources" / name).open("a", encoding="utf-8") as file:
            file.write("\n")
        after = image.digest_of_sources(tmp_path / "sources")
        assert after != before, name
        before = after


def test_everything_that_the_dockerfile_copies_is_known():
    dockerfile = (image.ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = [
        source.rstrip("/")
        for line in dockerfile.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    ]
    sent = (image.ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in sent if line.startswith("!")}
    known = set(image.SOURCES) - {"Dockerfile", ".dockerignore"}
    assert sent == known, "what is sent to the builder"
    assert {source.partition("/")[0] for source in copied} == {
        source.partition("/")[0] for source in known
    }
