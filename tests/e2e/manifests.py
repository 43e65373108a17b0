"""The objects of the stories: a Valkey, memories, bindings, and pods that use them."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness.node.cluster import Images

Object = dict[str, Any]

PROGRAMS = Path(__file__).with_name("programs")
PASSWORD = "not-a-secret"
SERVER = "valkey.platform.svc:6379"

_GROUP = "holdfast.dev/v1alpha1"
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "fsGroup": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
"""Labels of a namespace that takes no pod with more rights than it needs."""


def valkey(images: Images) -> list[Object]:
    """A server that loses nothing when it restarts, with its Service and a login for the operator."""
    command = ["valkey-server", "--dir", "/data", "--port", "6379", "--bind", "0.0.0.0"]
    command += ["--requirepass", PASSWORD, "--appendonly", "yes", "--appendfsync", "always"]
    command += ["--save", ""]
    container = {
        "name": "valkey",
        "image": images.valkey,
        "command": command,
        "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = pod_spec([container], volumes=[{"name": "data", "emptyDir": {}}])
    return [
        deployment("valkey", pod, strategy="Recreate"),
        service("valkey", 6379),
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "valkey", "labels": {"holdfast.dev/credentials": "backend"}},
            "stringData": {"username": "default", "password": PASSWORD},
        },
    ]


def backend(name: str = "shared", **spec: Any) -> Object:
    """A MemoryBackend on the server of the stories, for every namespace."""
    standard = {
        "endpoints": [SERVER],
        "authRef": {"name": "valkey"},
        "allowedNamespaces": {"from": "All"},
    }
    return named(_GROUP, "MemoryBackend", name, {**standard, **spec})


def memory(name: str = "support", **spec: Any) -> Object:
    """A MemoryResource on the shared backend."""
    standard = {
        "backendRef": {"name": "shared", "namespace": "platform"},
        "retention": {"ttl": "24h"},
    }
    return named(_GROUP, "MemoryResource", name, {**standard, **spec})


def binding(account: str, *memories: str, access: str = "ReadWrite", **spec: Any) -> list[Object]:
    """A ServiceAccount and a MemoryBinding of the same name."""
    granted = [{"name": name, "memoryRef": {"name": name}, "access": access} for name in memories]
    wanted = {"serviceAccountName": account, "memories": granted, **spec}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}},
        named(_GROUP, "MemoryBinding", account, wanted),
    ]


def agent(
    images: Images, program: str, *, account: str, env: Mapping[str, str] | None = None, **spec: Any
) -> Object:
    """The spec of a pod that runs one of our programs, for a sidecar to be injected into."""
    container = {
        "name": "agent",
        "image": images.holdfast,
        "command": ["python", f"/programs/{program}.py"],
        "env": [
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            *({"name": name, "value": value} for name, value in (env or {}).items()),
        ],
        "volumeMounts": [{"name": "programs", "mountPath": "/programs", "readOnly": True}],
    }
    volumes = [{"name": "programs", "configMap": {"name": "programs"}}]
    return pod_spec([container], volumes=volumes, serviceAccountName=account, **spec)


def programs() -> Object:
    """The ConfigMap with the programs that agents run."""
    files = {path.name: path.read_text(encoding="utf-8") for path in PROGRAMS.glob("*.py")}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "programs"},
        "data": files,
    }


def pod_spec(containers: Sequence[Object], **spec: Any) -> Object:
    """A pod with no more rights than a restricted namespace gives."""
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _POD_SECURITY,
        "containers": [
            {"imagePullPolicy": "IfNotPresent", "securityContext": _CONTAINER_SECURITY, **each}
            for each in containers
        ],
        **spec,
    }


def template(name: str, spec: Object, *, injected: bool = False, **annotations: str) -> Object:
    """A pod template labelled `app: <name>`; annotations are those of `holdfast.dev`."""
    labels = {"app": name, **({"holdfast.dev/inject": "true"} if injected else {})}
    ours = {f"holdfast.dev/{key}": value for key, value in annotations.items()}
    return {"metadata": {"labels": labels, "annotations": ours}, "spec": spec}


def deployment(
    name: str,
    spec: Object,
    *,
    replicas: int = 1,
    injected: bool = False,
    strategy: str = "RollingUpdate",
) -> Object:
    return named(
        "apps/v1",
        "Deployment",
        name,
        {
            "replicas": replicas,
            "strategy": {"type": strategy},
            "selector": {"matchLabels": {"app": name}},
            "template": template(name, spec, injected=injected),
        },
    )


def service(name: str, port: int) -> Object:
    return named("v1", "Service", name, {"selector": {"app": name}, "ports": [{"port": port}]})


def pod(name: str, spec: Object, *, injected: bool = False, **annotations: str) -> Object:
    found = template(name, spec, injected=injected, **annotations)
    meta = {**found["metadata"], "name": name}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": found["spec"]}


def job(name: str, spec: Object, *, injected: bool = False) -> Object:
    return named("batch/v1", "Job", name, job_spec(name, spec, injected=injected))


def cron_job(name: str, spec: Object, *, injected: bool = False) -> Object:
    """A CronJob that is never due by itself: a Job is made from it by hand."""
    wanted = {
        "schedule": "0 0 29 2 *",
        "jobTemplate": {"spec": job_spec(name, spec, injected=injected)},
    }
    return named("batch/v1", "CronJob", name, wanted)


def job_spec(name: str, spec: Object, *, injected: bool) -> Object:
    run_once = {**spec, "restartPolicy": "Never"}
    return {"backoffLimit": 0, "template": template(name, run_once, injected=injected)}


def decoded(text: str) -> str:
    """An entry of a Secret."""
    return base64.b64decode(text).decode()


def named(version: str, kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}
