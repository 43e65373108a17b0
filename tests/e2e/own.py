"""A node of the tests with the images that stories need: ours, and one of a server."""

from collections.abc import Generator
from contextlib import contextmanager

from holdfast.embedded import find_binary
from tests.harness import image
from tests.harness.node.cluster import Cluster, Images
from tests.harness.node.images import write_image
from tests.harness.node.node import Node
from tests.harness.node.programs import Programs

VALKEY = "holdfast.test/valkey:1"


@contextmanager
def own_cluster(parts: Programs) -> Generator[Cluster]:
    """Bring up a node, and take it away.

    Raises:
        ImageUnavailable: our image cannot be built here.
    """
    ours = image.ensure()
    with Node.start(parts) as node:
        node.import_image(ours.archive)
        archive = node.directory / "valkey.tar"
        write_image(archive, name=VALKEY, program=find_binary())
        node.import_image(archive)
        found = Cluster(
            node.plane.kubectl_command,
            node.plane.admin_kubeconfig,
            Images(ours.reference, VALKEY),
            node,
        )
        try:
            yield found
        finally:
            found.close()
