"""The sidecar: the library for agents in any language, over HTTP and MCP on a Unix socket and loopback."""
