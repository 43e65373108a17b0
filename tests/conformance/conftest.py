"""What the bindings of the conformance suite share."""

import secrets

import pytest


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has."""
    return f"t-{secrets.token_hex(6)}"
