"""Write down what is in the image, as a CycloneDX document; run by the Dockerfile.

    python image/sbom.py --environment /opt/holdfast --root /runtime --output sbom.cdx.json

What is installed is read, not what was asked for: the distributions of the environment from their
metadata, the packages of the base from dpkg's database, and the interpreter. The same content gives
the same bytes; the time of the document is SOURCE_DATE_EPOCH.

Needs `packaging`, and the interpreter that the environment was made with: markers are evaluated here.
"""

import argparse
import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "holdfast"
DATABASES = ("var/lib/dpkg/status", "var/lib/dpkg/status.d")

Component = dict[str, Any]


def document(environment: Path, root: Path, epoch: int) -> dict[str, Any]:
    """Return the whole document.

    Args:
        environment: a virtual environment, whose distributions are listed with what they need.
        root: the root of the base's files, whose Debian packages are listed.
        epoch: the time of the document, in seconds since 1970.
    """
    installed = {canonicalize_name(one.name): one for one in _installed(environment)}
    components = [
        *(_distribution(name, one) for name, one in installed.items()),
        *(_vocabulary(file) for file in _vocabularies(installed[canonicalize_name(PROJECT)])),
        _interpreter(),
        *debian_packages(root),
    ]
    components.sort(key=lambda component: component["bom-ref"])
    identity = hashlib.sha256(json.dumps(components, sort_keys=True).encode()).hexdigest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, identity)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": PROJECT,
                "version": installed[canonicalize_name(PROJECT)].version,
            },
        },
        "components": components,
        "dependencies": [
            {"ref": "image", "dependsOn": [component["bom-ref"] for component in components]},
            *_needs(installed),
        ],
    }


def debian_packages(root: Path) -> Iterator[Component]:
    """Yield the Debian packages that dpkg, or who made the base without it, says are installed."""
    distribution = dict(_fields(root / "etc/os-release", "="))
    vendor = distribution.get("ID", "debian").strip('"')
    release = f"{vendor}-{distribution.get('VERSION_ID', '').strip(chr(34))}".rstrip("-")
    for entry in _entries(root):
        if not entry.get("Status", "install ok installed").endswith(" installed"):
            continue
        name, version, machine = entry["Package"], entry["Version"], entry["Architecture"]
        purl = (
            f"pkg:deb/{vendor}/{quote(name)}@{quote(version, safe='')}"
            f"?arch={machine}&distro={release}"
        )
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
        }


def _entries(root: Path) -> Iterator[Mapping[str, str]]:
    """Yield the entries of dpkg's database: one file, or a folder with a file for each."""
    for place in DATABASES:
        path = root / place
        files = [path] if path.is_file() else sorted(path.glob("*"))
        for file in files:
            if file.suffix == ".md5sums":
                continue
            for entry in file.read_text(encoding="utf-8").split("\n\n"):
                fields = dict(_pairs(entry.splitlines(), ":"))
                if "Package" in fields:
                    yield fields


def _fields(file: Path, separator: str) -> Iterator[tuple[str, str]]:
    if file.is_file():
        yield from _pairs(file.read_text(encoding="utf-8").splitlines(), separator)


def _pairs(lines: Iterable[str], separator: str) -> Iterator[tuple[str, str]]:
    for line in lines:
        key, found, value = line.partition(separator)
        if found and key and not key[0].isspace():
            yield key, value.strip()


def _installed(environment: Path) -> list[Distribution]:
    places = sorted(str(path) for path in environment.glob("lib/python3*/site-packages"))
    return list(distributions(path=places))


def _distribution(name: str, one: Distribution) -> Component:
    component: Component = {
        "type": "library",
        "bom-ref": _purl(name, one),
        "name": name,
        "version": one.version,
        "purl": _purl(name, one),
    }
    if (licenses := _licenses(one)) is not None:
        component["licenses"] = licenses
    return component


def _purl(name: str, one: Distribution) -> str:
    return f"pkg:pypi/{name}@{quote(one.version, safe='')}"


def _licenses(one: Distribution) -> list[dict[str, Any]] | None:
    """What the distribution says of its license: an expression, or the names of classifiers."""
    expression = one.metadata.get("License-Expression")
    if expression is not None:
        return [{"expression": expression}]
    prefix = "License :: "
    names = [
        line.rpartition(" :: ")[2]
        for line in one.metadata.get_all("Classifier", [])
        if line.startswith(prefix) and line != f"{prefix}OSI Approved"
    ]
    said = one.metadata.get("License", "")
    if not names and said and "\n" not in said:  # some put a whole text there
        names = [said]
    return [{"license": {"name": name}} for name in sorted(names)] or None


def _vocabularies(one: Distribution) -> list[Path]:
    files = [one.locate_file(file) for file in one.files or () if file.suffix == ".tiktoken"]
    return [Path(str(file)) for file in files]


def _vocabulary(file: Path) -> Component:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return {
        "type": "data",
        "bom-ref": f"vocabulary:{file.name}",
        "name": file.name,
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _interpreter() -> Component:
    version = platform.python_version()
    return {
        "type": "platform",
        "bom-ref": f"pkg:generic/python@{version}",
        "name": "python",
        "version": version,
        "purl": f"pkg:generic/python@{version}",
    }


def _needs(installed: Mapping[str, Distribution]) -> list[dict[str, Any]]:
    """What each distribution needs of those that are installed, extras included."""
    found: list[dict[str, Any]] = []
    for name, one in sorted(installed.items()):
        extras = ["", *one.metadata.get_all("Provides-Extra", [])]
        needed: set[str] = set()
        for line in one.requires or ():
            requirement = Requirement(line)
            other = canonicalize_name(requirement.name)
            marker = requirement.marker
            applies = marker is None or any(marker.evaluate({"extra": extra}) for extra in extras)
            if applies and other in installed and other != name:
                needed.add(_purl(other, installed[other]))
        found.append({"ref": _purl(name, one), "dependsOn": sorted(needed)})
    return found


def main() -> None:
    """Write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    content = document(given.environment, given.root, int(os.environ["SOURCE_DATE_EPOCH"]))
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
