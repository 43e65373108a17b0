"""Images of one program, made without any tool: an archive in the layout of the OCI."""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"
_FOLDER = "usr/local/bin"


def write_image(archive: Path, *, name: str, program: Path) -> None:
    """Write an image that holds a program, and the libraries that it needs, and nothing else.

    Args:
        archive: the file to write, for `ctr images import`.
        name: the image's full name with its tag.
        program: an executable for this machine; it is on the image's PATH, and its entry point.
    """
    files = {f"{_FOLDER}/{program.name}": program.read_bytes(), **_libraries(program)}
    layer = _tar(files, mode=0o755)
    config = {
        "architecture": _architecture(program),
        "os": "linux",
        "config": {"Entrypoint": [f"/{_FOLDER}/{program.name}"], "Env": [f"PATH=/{_FOLDER}"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    blobs: dict[str, bytes] = {}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": _keep(blobs, _json(config), "config.v1+json"),
        "layers": [_keep(blobs, layer, "layer.v1.tar")],
    }
    described = _keep(blobs, _json(manifest), "manifest.v1+json")
    annotations = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "manifests": [{**described, "annotations": annotations}]}
    content = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json(index),
        **{f"blobs/sha256/{name}": blob for name, blob in blobs.items()},
    }
    archive.write_bytes(_tar(content, mode=0o644))


def _libraries(program: Path) -> dict[str, bytes]:
    """The shared libraries of a program and its loader, at the paths where it looks for them."""
    done = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {}  # it is static
    paths = re.findall(r"(?:=> |^\s+)(/\S+) \(", done.stdout, flags=re.MULTILINE)
    return {path.lstrip("/"): Path(path).read_bytes() for path in paths}


def _architecture(program: Path) -> str:
    machine = program.read_bytes()[18:20]  # of an ELF file
    return {b"\x3e\x00": "amd64", b"\xb7\x00": "arm64"}[machine]


def _keep(blobs: dict[str, bytes], blob: bytes, kind: str) -> dict[str, Any]:
    digest = _digest(blob)
    blobs[digest.removeprefix("sha256:")] = blob
    return {"mediaType": f"{_MEDIA}.{kind}", "digest": digest, "size": len(blob)}


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _tar(files: Mapping[str, bytes], *, mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
