"""The Model Context Protocol over the memories of this place: remember, recall, search."""

from holdfast_sidecar.mcp.app import McpApp
from holdfast_sidecar.mcp.tools import Conversation, Memories, Offered

__all__ = ["Conversation", "McpApp", "Memories", "Offered", "mcp_app"]


def mcp_app(memories: Memories) -> McpApp:
    """Return the ASGI app for `/mcp`; run its `lifespan()` around its use.

    The official SDK is imported with the first request. Its packages are the extra `mcp`; without them a
    request is answered with a sentence and 501.

    Args:
        memories: what is served, narrowed to what this place may serve.
    """
    return McpApp(memories)
