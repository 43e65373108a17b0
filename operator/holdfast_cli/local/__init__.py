"""Local mode: what a cluster and its operator do, from files and on one server."""
