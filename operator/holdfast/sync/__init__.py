"""The library for programs without an event loop: the same names, and every call blocks.

    import holdfast.sync

    with holdfast.sync.connect("redis://localhost:6379", policy="support.yaml") as client:
        session = client.memory().session("42")
        with session.turn() as turn:
            turn.append({"role": "user", "content": "hi"})

Each client runs the asynchronous library on an event loop in a thread of its own; nothing is written
twice. `facade.py` is generated from the asynchronous classes by `generate.py`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.sync.facade import Client, Memory, MessageLog, Session, Turn, connect
    from holdfast.sync.signals import Signal

__all__ = ["Client", "Memory", "MessageLog", "Session", "Signal", "Turn", "connect"]


def __getattr__(name: str) -> Any:
    """Load the facade at its first use: its generator must run also while it cannot be imported."""
    if name not in __all__:
        raise AttributeError(f"module 'holdfast.sync' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - only who asks pays

    module = "signals" if name == "Signal" else "facade"
    value = getattr(import_module(f"holdfast.sync.{module}"), name)
    globals()[name] = value
    return value
