"""What the list of an image's content says of distributions and of Debian packages."""

from pathlib import Path
from typing import Any

import pytest

from image.sbom import debian_packages, document

HOLDFAST = """
Provides-Extra: sidecar
Requires-Dist: beta>=1
Requires-Dist: gamma; extra == "sidecar"
Requires-Dist: absent; extra == "other"
Requires-Dist: delta; python_version < "3"
License-Expression: Apache-2.0
"""
STATUS = """Package: libssl3
Status: install ok installed
Architecture: amd64
Version: 1:3.0.20-1~deb12u2
Description: a library
 Package: not this one

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1.0

Package: libstdc++6
Status: install ok installed
Architecture: amd64
Version: 12.2
"""


def install(environment: Path, name: str, version: str, more: str = "") -> Path:
    folder = environment / "lib/python3.11/site-packages"
    metadata = folder / f"{name.lower()}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(
        f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{more.strip()}\n"
    )
    return metadata.parent


def vocabulary(environment: Path) -> None:
    record = environment / "lib/python3.11/site-packages/holdfast-0.1.0.dist-info/RECORD"
    record.write_text("holdfast/vocabularies/small.tiktoken,,\nholdfast/__init__.py,,\n")
    file = environment / "lib/python3.11/site-packages/holdfast/vocabularies/small.tiktoken"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"abc")


@pytest.fixture
def listed(tmp_path: Path) -> dict[str, Any]:
    install(tmp_path, "holdfast", "0.1.0", HOLDFAST)
    vocabulary(tmp_path)
    install(tmp_path, "Beta", "1.0+local", "Classifier: License :: OSI Approved :: MIT License")
    install(tmp_path, "gamma", "2.0", "License: BSD")
    install(tmp_path, "delta", "3.0")
    return document(tmp_path, tmp_path / "nothing", epoch=1_700_000_000)


def test_distributions_are_listed_with_license_and_what_they_need(listed: dict[str, Any]):
    found = {one["bom-ref"]: one for one in listed["components"]}
    assert found["pkg:pypi/beta@1.0%2Blocal"]["version"] == "1.0+local"
    licenses = {name: one.get("licenses") for name, one in found.items()}
    assert licenses["pkg:pypi/beta@1.0%2Blocal"] == [{"license": {"name": "MIT License"}}]
    assert licenses["pkg:pypi/gamma@2.0"] == [{"license": {"name": "BSD"}}]
    assert licenses["pkg:pypi/holdfast@0.1.0"] == [{"expression": "Apache-2.0"}]
    needs = {one["ref"]: one["dependsOn"] for one in listed["dependencies"]}
    assert needs["pkg:pypi/holdfast@0.1.0"] == ["pkg:pypi/beta@1.0%2Blocal", "pkg:pypi/gamma@2.0"]
    assert needs["image"] == sorted(found)


def test_vocabularies_are_listed_with_their_digest(listed: dict[str, Any]):
    [one] = [one for one in listed["components"] if one["type"] == "data"]
    assert one["name"] == "small.tiktoken"
    [digest] = one["hashes"]
    assert digest["alg"] == "SHA-256"
    assert digest["content"].startswith("ba7816bf8f01cfea")


def test_the_document_is_a_function_of_what_is_installed(tmp_path: Path, listed: dict[str, Any]):
    assert document(tmp_path, tmp_path / "nothing", epoch=1_700_000_000) == listed
    later = document(tmp_path, tmp_path / "nothing", epoch=1_800_000_000)
    assert later["serialNumber"] == listed["serialNumber"]
    assert (listed["metadata"]["timestamp"], later["metadata"]["timestamp"]) == (
        "2023-11-14T22:13:20Z",
        "2027-01-15T08:00:00Z",
    )
    install(tmp_path, "new", "1")
    changed = document(tmp_path, tmp_path / "nothing", epoch=1_700_000_000)
    assert changed["serialNumber"] != listed["serialNumber"]


@pytest.mark.parametrize("folder", [False, True], ids=["dpkg", "without dpkg"])
def test_debian_packages_are_read_from_either_database(tmp_path: Path, *, folder: bool):
    release = tmp_path / "etc/os-release"
    release.parent.mkdir()
    release.write_text('ID=debian\nVERSION_ID="12"\n')
    database = tmp_path / "var/lib/dpkg"
    database.mkdir(parents=True)
    if folder:
        (database / "status.d").mkdir()
        for number, entry in enumerate(STATUS.split("\n\n")):
            (database / "status.d" / f"{number}").write_text(entry)
        (database / "status.d" / "0.md5sums").write_text("Package: none\n")
    else:
        (database / "status").write_text(STATUS)
    assert [one["purl"] for one in debian_packages(tmp_path)] == [
        "pkg:deb/debian/libssl3@1%3A3.0.20-1~deb12u2?arch=amd64&distro=debian-12",
        "pkg:deb/debian/libstdc%2B%2B6@12.2?arch=amd64&distro=debian-12",
    ]


def test_a_base_without_packages_has_none(tmp_path: Path):
    assert list(debian_packages(tmp_path)) == []
