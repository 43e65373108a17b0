"""Pods that can never work, each with words of the sentence that says so."""

from typing import Any

from tests.harness.pods import container, pod

PORT = {"ports": [{"containerPort": 7071}]}
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "binding": (pod({"holdfast.dev/binding": "Agent"}), "must be the name of a MemoryBinding"),
    "long binding": (
        pod({"holdfast.dev/binding": "a" * 64}),
        "must be the name of a MemoryBinding",
    ),
    "empty binding": (pod({"holdfast.dev/binding": ""}), "it says ''"),
    "a way out": (pod({"holdfast.dev/binding": "../../etc"}), "it says '../../etc'"),
    "long account": (pod(serviceAccountName="a" * 64), "name one with the annotation"),
    "both": (
        pod({"holdfast.dev/memory": "a", "holdfast.dev/memories": "a"}),
        "write one of the annotations",
    ),
    "memory": (pod({"holdfast.dev/memory": "a,b"}), "must be the name of one memory"),
    "memories": (pod({"holdfast.dev/memories": "a,,b"}), "1 to 16 different names"),
    "twice": (pod({"holdfast.dev/memories": "a,a"}), "1 to 16 different names"),
    "many": (
        pod({"holdfast.dev/memories": ",".join(f"m{number}" for number in range(17))}),
        "1 to 16 different names",
    ),
    "an option": (pod({"holdfast.dev/memories": "a,--http=0.0.0.0:1"}), "1 to 16 different names"),
    "no memories": (pod({"holdfast.dev/memories": ""}), "1 to 16 different names"),
    "a space": (pod({"holdfast.dev/memories": "a b"}), "1 to 16 different names"),
    "containers": (pod({"holdfast.dev/containers": "a b"}), "1 to 16 different names"),
    "a space in a container": (
        pod({"holdfast.dev/containers": "age nt"}),
        "1 to 16 different names",
    ),
    "unknown container": (
        pod({"holdfast.dev/containers": "other"}),
        "has no container of that name",
    ),
    "too early": (
        pod({"holdfast.dev/containers": "setup"}, initContainers=[container("setup")]),
        'holdfast.dev/position: "first"',
    ),
    "position": (pod({"holdfast.dev/position": "middle"}), "must be first or last"),
    "listen": (pod({"holdfast.dev/listen": "tcp"}), "must be all or unix"),
    "status port": (pod({"holdfast.dev/status-port": "80"}), "a port from 1024 to 65535"),
    "no port": (pod({"holdfast.dev/status-port": "http"}), "a port from 1024 to 65535"),
    "large port": (pod({"holdfast.dev/status-port": "70000"}), "a port from 1024 to 65535"),
    "the API's port": (pod({"holdfast.dev/status-port": "7070"}), "which is the API's own"),
    "key": (pod({"holdfast.dev/summarizer-key": "a/b/c"}), "must name a Secret"),
    "no entry": (pod({"holdfast.dev/summarizer-key": "a/"}), "must name a Secret"),
    "slip": (pod({"holdfast.dev/memorys": "a"}), "there is no annotation holdfast.dev/memorys"),
    "name": (pod(containers=[container("holdfast")]), "call it otherwise"),
    "init name": (pod(initContainers=[container("holdfast")]), "call it otherwise"),
    "volume": (pod(volumes=[{"name": "holdfast-socket", "emptyDir": {}}]), "call it otherwise"),
    "mount": (
        pod(
            containers=[
                container("agent", volumeMounts=[{"name": "v", "mountPath": "/var/run/holdfast/"}])
            ],
            volumes=[{"name": "v", "emptyDir": {}}],
        ),
        "mounts something at /var/run/holdfast",
    ),
    "its port": (
        pod(containers=[container("agent", **PORT)]),
        'with holdfast.dev/status-port: "PORT"',
    ),
    "the API's": (
        pod(containers=[container("agent", ports=[{"containerPort": 7070, "protocol": "TCP"}])]),
        'holdfast.dev/listen: "unix"',
    ),
    "windows": (pod(os={"name": "windows"}), "the sidecar runs on Linux"),
    "windows nodes": (
        pod(nodeSelector={"kubernetes.io/os": "windows"}),
        "the sidecar runs on Linux",
    ),
    "host": (pod(hostNetwork=True), "every process of the node"),
}
