"""A pod that waits: what it does, a story says."""

import signal

signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit))
while True:
    signal.pause()
