"""An OCI archive taken apart, and its programs run by runc as Kubernetes would run them."""

import hashlib
import io
import json
import os
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_USER = 65532


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An image on disk.

    Attributes:
        folder: where it is: `oci` (the archive's files), `rootfs` (all layers, one over the other).
        configuration: the image's configuration, as OCI describes it.
        layers: the layers' files, the base's first.
    """

    folder: Path
    configuration: Mapping[str, Any]
    layers: tuple[Path, ...]

    @classmethod
    def of(cls, archive: Path, folder: Path) -> "Unpacked":
        """Unpack an archive into an empty folder, as root: owners and modes are kept."""
        oci, rootfs = folder / "oci", folder / "rootfs"
        rootfs.mkdir(parents=True)
        with tarfile.open(archive) as outer:
            outer.extractall(oci, filter="data")
        index = json.loads((oci / "index.json").read_text(encoding="utf-8"))
        [described] = index["manifests"]
        manifest = json.loads(_blob(oci, described).read_text(encoding="utf-8"))
        configuration = json.loads(_blob(oci, manifest["config"]).read_text(encoding="utf-8"))
        layers = tuple(_blob(oci, layer) for layer in manifest["layers"])
        for layer in layers:
            with tarfile.open(layer) as inner:
                inner.extractall(rootfs, filter="fully_trusted", numeric_owner=True)
        return cls(folder, configuration, layers)

    @property
    def rootfs(self) -> Path:
        """The root of the image's files."""
        return self.folder / "rootfs"

    def entries(self, layer: int) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """Yield what a layer holds, in its order, with the bytes of files."""
        with tarfile.open(self.layers[layer]) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else io.BytesIO()
                assert content is not None
                yield member, content.read()

    def entries_by_name(self, layer: int) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Yield each name in a layer with all that is known of it, content included."""
        for entry, content in self.entries(layer):
            digest = hashlib.sha256(content).hexdigest()
            what = (entry.type, entry.mode, entry.uid, entry.gid, entry.mtime, entry.linkname)
            yield entry.name, (*what, entry.size, digest)

    def run(
        self,
        arguments: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        files: Mapping[str, Path] | None = None,
        deadline: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in a container of its own and return how it ended.

        User 65532, root read-only with nothing writable, no network but a loopback that is down, no
        capabilities, no new privileges.

        Args:
            arguments: the program's, instead of the image's entry point.
            environ: variables over the image's.
            files: what is mounted, read-only: the path inside, and where it is.
            deadline: seconds after which it is killed, and `subprocess.TimeoutExpired` raised.
        """
        name = f"holdfast-{secrets.token_hex(6)}"
        bundle = self.folder / name
        bundle.mkdir()
        spec = self._spec(arguments, environ or {}, files or {})
        (bundle / "config.json").write_text(json.dumps(spec), encoding="utf-8")
        runc = ["runc", "--root", str(self.folder / "runc")]
        command = [*runc, "run", "--bundle", str(bundle), name]
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=deadline,
                check=False,
            )
        finally:
            subprocess.run([*runc, "delete", "--force", name], capture_output=True, check=False)
            shutil.rmtree(bundle)

    def _spec(
        self, arguments: Sequence[str], environ: Mapping[str, str], files: Mapping[str, Path]
    ) -> dict[str, Any]:
        """A container as Kubernetes makes one of a pod that is restricted, but without network."""
        of_image = dict(line.split("=", 1) for line in self.configuration["config"]["Env"])
        names = ("pid", "network", "ipc", "uts", "mount")
        return {
            "ociVersion": "1.0.2",
            "process": {
                "terminal": False,
                "user": {"uid": _USER, "gid": _USER},
                "args": list(arguments),
                "env": [f"{key}={value}" for key, value in {**of_image, **environ}.items()],
                "cwd": self.configuration["config"]["WorkingDir"],
                "capabilities": {},
                "noNewPrivileges": True,
            },
            "root": {"path": str(self.rootfs), "readonly": True},
            "hostname": "pod",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {
                    "destination": "/dev",
                    "type": "tmpfs",
                    "source": "tmpfs",
                    "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
                },
                *(
                    {"destination": inside, "source": str(file), "options": ["bind", "ro"]}
                    for inside, file in files.items()
                ),
            ],
            "linux": {
                "namespaces": [{"type": name} for name in names],
                "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
                "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            },
        }


def _blob(oci: Path, descriptor: Mapping[str, Any]) -> Path:
    algorithm, _, digest = descriptor["digest"].partition(":")
    return oci / "blobs" / algorithm / digest


def missing_runtime() -> bool:
    """Whether containers cannot be run here: runc and root are needed."""
    return os.geteuid() != 0 or shutil.which("runc") is None
