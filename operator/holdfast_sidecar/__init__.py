"""The sidecar: the library behind HTTP, on a Unix socket and on the loopback address.

It serves the memories of its binding and no others, to the containers of its own pod and to nobody else.
`holdfast.wire` and `holdfast.problems` say what goes over the wire; nothing here decides what a memory does.
"""
