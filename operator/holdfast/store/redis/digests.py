"""The SHA-1 of every script, as `scripts/DIGESTS` keeps them: `python -m holdfast.store.redis.digests`.

A release states there which scripts it needs. Tenants run them by that name and may load none, so a
changed one is a change that an operator has to bring to the server first; a test compares.
"""

import sys

from holdfast.store.redis.script import all_scripts


def digests() -> str:
    """Return a line for each script: its SHA-1 in hexadecimal, two spaces, its name."""
    return "".join(f"{script.sha.decode()}  {script.name}\n" for script in all_scripts())


if __name__ == "__main__":
    sys.stdout.write(digests())
