"""The library over a sidecar: the same classes, whose calls are made by another process.

`connect("http+unix:///path")` gives a `RemoteClient`. It counts nothing and decides nothing: the sidecar
does, with the same library. Results and errors are those of the library, so who holds a `Session` need not
know which one.
"""

from holdfast.remote.client import RemoteClient

__all__ = ["RemoteClient"]
