"""The store in this process: for tests, for examples, and as the plain statement of what a store does.

It decides with `holdfast.planning` alone, where Redis decides in Lua; one conformance suite holds both.
"""

from holdfast.store.in_memory.session import InMemorySession
from holdfast.store.in_memory.state import Clock, wall_clock
from holdfast.store.in_memory.store import InMemoryStore

__all__ = ["Clock", "InMemorySession", "InMemoryStore", "wall_clock"]
