"""A namespace of its own for every test, on one control plane for the whole run."""

import pytest

from tests.harness.control_plane import ControlPlane


@pytest.fixture
def namespace(control_plane: ControlPlane) -> str:
    """A new namespace. It is left behind: the whole control plane goes at the end of the run."""
    return control_plane.namespace()
