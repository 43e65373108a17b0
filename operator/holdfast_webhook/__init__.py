"""The webhook that puts the sidecar into pods that ask for it.

`injection.inject` decides, and is pure; around it `reviews` speaks the API server's protocol, and `server`
is the process. It asks nobody anything: neither the API server nor Redis.
"""
