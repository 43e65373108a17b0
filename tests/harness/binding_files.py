"""The files of a binding, renewed as a kubelet renews them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def entry(
    name: str = "support",
    prefix: str = "mem:{team-a/support",
    access: str = "ReadWrite",
    **fields: str,
) -> dict[str, Any]:
    """One memory, as the file `memories` has it."""
    return {"name": name, "prefix": prefix, "access": access, "fields": fields}


class BindingFiles:
    """A folder that the link `..data` leads to, and links to its files.

    Args:
        folder: of the binding; made by the first `write`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0

    def write(self, memories: Sequence[Mapping[str, Any]] = (entry(),), **entries: str) -> None:
        """Replace all files at once. Entries are named with `_` in place of `-` and of the dot."""
        self._version += 1
        data = self.folder / f"..{self._version}"
        data.mkdir(parents=True)
        names = {"ca_crt": "ca.crt"}
        texts = {"type": "holdfast", "memories": json.dumps(list(memories))}
        texts |= {names.get(name, name.replace("_", "-")): text for name, text in entries.items()}
        for name, text in texts.items():
            (data / name).write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(data.name)
        link.rename(self.folder / "..data")
        for name in texts:
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(Path("..data") / name)
        old = self.folder / f"..{self._version - 1}"
        if old.exists():
            shutil.rmtree(old)
