"""Where sessions are kept: one protocol, an in-memory store, a Redis store."""

from holdfast.store.protocol import (
    MemoryStore,
    SessionStore,
    SessionVanished,
    StalePolicy,
    lease_token,
)

__all__ = ["MemoryStore", "SessionStore", "SessionVanished", "StalePolicy", "lease_token"]
