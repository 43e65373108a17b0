"""A Secret as kubelet mounts it: a folder whose files all change at once."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from tests.harness.control_plane import ControlPlane


class MountedSecret:
    """A folder that follows a Secret whenever it is told to.

    Args:
        folder: of the mount.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def deliver(self, data: Mapping[str, bytes]) -> None:
        """Bring entries: a new folder, and the link to it exchanged in one step."""
        whole = b"".join(name.encode() + value for name, value in sorted(data.items()))
        target = self._folder / f"..{hashlib.sha256(whole).hexdigest()[:16]}"
        if target.exists():
            return
        target.mkdir()
        for name, value in data.items():
            (target / name).write_bytes(value)
        link = self._folder / "..data_tmp"
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
        link.replace(self._folder / "..data")
        for name in data:
            entry = self._folder / name
            if not entry.is_symlink():
                entry.symlink_to(f"..data/{name}")

    def follow(self, plane: ControlPlane, namespace: str, name: str) -> None:
        """Bring what the Secret holds now; nothing while there is none."""
        found = plane.administrator.find(namespace, f"secret/{name}")
        if found:
            data: dict[str, str] = found["data"]
            self.deliver({entry: base64.b64decode(value) for entry, value in data.items()})
