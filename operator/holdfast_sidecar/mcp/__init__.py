"""The Model Context Protocol over the memories of this place: remember, recall, search.

`McpApp(service)` is mounted as `mcp` by the data API, and closed by its `aclose()`.
"""

from holdfast_sidecar.mcp.app import McpApp

__all__ = ["McpApp"]
