"""Pods as hypothesis draws them: all that injection looks at, and some that it does not."""

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["agent", "worker", "proxy", "setup", "cache", "holdfast"])
_ANNOTATIONS: dict[str, st.SearchStrategy[str]] = {
    "holdfast.dev/binding": st.sampled_from(["support-agent", "a.b", "Not OK"]),
    "holdfast.dev/memory": st.sampled_from(["support", "a b"]),
    "holdfast.dev/memories": st.sampled_from(
        ["support", "support,notes", " a , b ", "a b", "a,\n b\n", ","]
    ),
    "holdfast.dev/containers": st.sampled_from(["agent", "agent,setup", "proxy", "nobody"]),
    "holdfast.dev/position": st.sampled_from(["first", "last", "middle"]),
    "holdfast.dev/listen": st.sampled_from(["unix", "all"]),
    "holdfast.dev/status-port": st.sampled_from(["7071", "17071", "80"]),
    "holdfast.dev/summarizer-key": st.sampled_from(["models", "models/key", "/"]),
    "traffic.sidecar.istio.io/excludeInboundPorts": st.sampled_from(["", "8080", "8080,7071", "*"]),
    "example.com/~odd": st.just("x"),
}
_ENTRIES = st.lists(
    st.sampled_from(["A", "B", "HOLDFAST_URL"]).map(lambda name: {"name": name, "value": "x"}),
    max_size=2,
    unique_by=lambda each: each["name"],
)
_MOUNTS = st.lists(
    st.sampled_from(["/data", "/var/run/app", "/var/run/holdfast"]).map(
        lambda path: {"name": "data", "mountPath": path}
    ),
    max_size=2,
    unique_by=lambda each: each["mountPath"],
)
_PORTS = st.lists(
    st.sampled_from([80, 7070, 7071, 8080]).map(
        lambda port: {"containerPort": port, "protocol": "TCP"}
    ),
    max_size=2,
    unique_by=lambda each: each["containerPort"],
)


def _containers(*, before: bool) -> st.SearchStrategy[dict[str, Any]]:
    optional: dict[str, st.SearchStrategy[Any]] = {
        "env": _ENTRIES,
        "volumeMounts": _MOUNTS,
        "ports": _PORTS,
    }
    if before:
        optional["restartPolicy"] = st.just("Always")
    return st.fixed_dictionaries(
        {"name": NAMES, "image": st.just("registry.example/image")}, optional=optional
    )


@st.composite
def pods(draw: st.DrawFn, *, labelled: bool = True) -> dict[str, Any]:
    """Pods that an API server takes as they are, most of which ask for a sidecar that can work."""
    containers = draw(
        st.lists(
            _containers(before=False), min_size=1, max_size=3, unique_by=lambda one: one["name"]
        )
    )
    taken = {each["name"] for each in containers}
    before = draw(st.lists(_containers(before=True), max_size=2, unique_by=lambda one: one["name"]))
    spec: dict[str, Any] = {
        "serviceAccountName": draw(st.sampled_from(["support-agent", "default"])),
        "automountServiceAccountToken": False,
        "containers": containers,
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    before = [each for each in before if each["name"] not in taken]
    if before:
        spec["initContainers"] = before
    if draw(st.booleans()):
        spec["terminationGracePeriodSeconds"] = draw(st.integers(0, 60))
    if draw(st.integers(0, 9)) == 0:
        spec["hostNetwork"] = True
    if draw(st.booleans()):
        spec["imagePullSecrets"] = [{"name": "registry"}]
    metadata: dict[str, Any] = {"generateName": "agent-"}
    if labelled:
        metadata["labels"] = {"holdfast.dev/inject": "true"}
    chosen = draw(st.sets(st.sampled_from(sorted(_ANNOTATIONS)), max_size=3))
    if chosen:
        metadata["annotations"] = {name: draw(_ANNOTATIONS[name]) for name in sorted(chosen)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
