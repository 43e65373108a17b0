"""What the programs of a node are told: pure functions from paths to files and command lines."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.certificates import KeyPair
from tests.harness.node.namespaces import ADDRESS
from tests.harness.node.programs import Programs

POD_RANGE = "10.244.0.0/22"
NAME_SERVER = "10.96.0.10"
PAUSE_IMAGE = "holdfast.test/pause:1"
NAMES_IMAGE = "holdfast.test/coredns:1"

_LOOPBACK = "127.0.0.1"

# Parts of containerd that need what not every machine has.
_UNUSED = [
    *(f"io.containerd.snapshotter.v1.{kind}" for kind in ("aufs", "btrfs", "devmapper", "zfs")),
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
]


@dataclass(frozen=True, slots=True)
class Files:
    """Where things are in a node's directory, and what the node is called.

    Attributes:
        name: of the node, its cgroup and, after a dash, its directory.
        directory: everything of it; short, since sockets are in it.
    """

    name: str
    directory: Path

    @property
    def socket(self) -> Path:
        """Containerd's."""
        return self.directory / "containerd.sock"

    @property
    def containerd_settings(self) -> Path:
        return self.directory / "containerd.toml"

    @property
    def kubelet_settings(self) -> Path:
        return self.directory / "kubelet.json"

    @property
    def networks(self) -> Path:
        return self.directory / "networks"


def write(files: Files, programs: Programs, *, authority: Path, serving: KeyPair) -> None:
    """Write the files that the programs read.

    Args:
        authority: the certificate authority whose clients kubelet believes.
        serving: kubelet's own certificate.
    """
    files.containerd_settings.write_text(containerd(files, programs), encoding="utf-8")
    names = files.directory / "resolv.conf"
    names.write_text("# There is nobody to ask outside of the cluster.\n", encoding="utf-8")
    _write_json(files.kubelet_settings, kubelet(files, authority, serving, names))
    files.networks.mkdir()
    _write_json(files.networks / "10-pods.conflist", pod_network(files))


def containerd(files: Files, programs: Programs) -> str:
    """Return containerd's settings, with folders and a socket of its own."""
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    runtime = f"{cri}.containerd.runtimes.runc"
    lines = [
        "version = 2",
        f'root = "{files.directory}/containerd"',
        f'state = "{files.directory}/containerd-state"',
        f"disabled_plugins = {json.dumps(_UNUSED)}",
        "[grpc]",
        f'address = "{files.socket}"',
        '[plugins."io.containerd.internal.v1.opt"]',
        f'path = "{files.directory}/opt"',
        f"[{cri}]",
        f'sandbox_image = "{PAUSE_IMAGE}"',
        # A root without CAP_SYS_RESOURCE may not lower the score, and its pods would not start.
        "restrict_oom_score_adj = true",
        # A profile would stay in the machine's kernel.
        "disable_apparmor = true",
        f'stream_server_address = "{_LOOPBACK}"',
        f"[{cri}.containerd]",
        'default_runtime_name = "runc"',
        f"[{runtime}]",
        'runtime_type = "io.containerd.runc.v2"',
        f"[{runtime}.options]",
        "SystemdCgroup = false",
        f"[{cri}.cni]",
        f'bin_dir = "{programs.plugins}"',
        f'conf_dir = "{files.networks}"',
    ]
    return "\n".join(lines) + "\n"


def kubelet(files: Files, authority: Path, serving: KeyPair, names: Path) -> Mapping[str, Any]:
    """Return kubelet's settings."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(authority)},
        },
        # Whoever has a certificate of this authority is the API server.
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": str(serving.certificate),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{files.socket}",
        "resolvConf": str(names),
        "clusterDNS": [NAME_SERVER],
        "clusterDomain": "cluster.local",
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": True,
        "cgroupRoot": f"/{files.name}",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        # A disk that is nearly full, or a busy machine, is no reason to end pods here.
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMaximumGCAge": "0s",
        "healthzBindAddress": _LOOPBACK,
        # How long a file in a pod may be behind its Secret.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "volumePluginDir": str(files.directory / "volume-plugins"),
    }


def pod_network(files: Files) -> Mapping[str, Any]:
    """Return how pods are connected: each by a link of its own, over which everything is routed.

    On a shared bridge two pods of one node would answer each other past the rules for Services.
    """
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": POD_RANGE}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(files.directory / "pod-addresses"),
    }
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {"type": "ptp", "ipMasq": False, "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def commands(
    files: Files, programs: Programs, kubeconfigs: Mapping[str, Path], *, authority: Path, key: Path
) -> dict[str, list[str]]:
    """Return the command line of every program of the node, by the program's name.

    Args:
        kubeconfigs: for each of them that talks to the API server.
        authority: the certificate authority of the API server, which every pod is told.
        key: signs the tokens of ServiceAccounts.
    """
    kubernetes = {
        name: [str(programs.node[name]), f"--kubeconfig={path}"]
        for name, path in kubeconfigs.items()
    }
    kubernetes["kubelet"] += [
        f"--config={files.kubelet_settings}",
        f"--root-dir={files.directory}/kubelet",
        f"--cert-dir={files.directory}",
        f"--hostname-override={files.name}",
        f"--node-ip={ADDRESS}",
    ]
    kubernetes["kube-proxy"] += [
        "--proxy-mode=iptables",
        f"--cluster-cidr={POD_RANGE}",
        f"--hostname-override={files.name}",
        # These are the machine's.
        "--conntrack-max-per-core=0",
        "--conntrack-tcp-timeout-established=0s",
        "--conntrack-tcp-timeout-close-wait=0s",
        f"--healthz-bind-address={_LOOPBACK}:10256",
        f"--metrics-bind-address={_LOOPBACK}:10249",
    ]
    for name in ("kube-controller-manager", "kube-scheduler"):
        kubernetes[name] += [
            "--authentication-skip-lookup=true",
            f"--bind-address={_LOOPBACK}",
            "--leader-elect=false",
        ]
    kubernetes["kube-controller-manager"] += [
        f"--service-account-private-key-file={key}",
        f"--root-ca-file={authority}",
        # As a cluster that is installed has it: every controller with its own rights.
        "--use-service-account-credentials=true",
    ]
    containerd = [programs.system["containerd"], f"--config={files.containerd_settings}"]
    return {"containerd": containerd, **kubernetes}


def name_server() -> list[Mapping[str, Any]]:
    """Return the manifests of the cluster's name server, which knows the cluster's names only."""
    labels = {"k8s-app": "kube-dns"}
    meta = {"name": "coredns", "namespace": "kube-system", "labels": labels}
    corefile = (
        ".:53 {\n errors\n health :8080\n ready :8181\n"
        " kubernetes cluster.local in-addr.arpa ip6.arpa {\n  pods insecure\n }\n cache 5\n}\n"
    )
    container = {
        "name": "coredns",
        "image": NAMES_IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/coredns", "readOnly": True}],
    }
    pod = {
        "serviceAccountName": "coredns",
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "terminationGracePeriodSeconds": 1,
        "containers": [container],
        "volumes": [{"name": "settings", "configMap": {"name": "coredns"}}],
    }
    rights = [
        {
            "apiGroups": [""],
            "resources": ["services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {
            "apiGroups": ["discovery.k8s.io"],
            "resources": ["endpointslices"],
            "verbs": ["list", "watch"],
        },
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "coredns"}
    subject = {"kind": "ServiceAccount", "name": "coredns", "namespace": "kube-system"}
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    rbac = "rbac.authorization.k8s.io/v1"
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": rbac,
            "kind": "ClusterRole",
            "metadata": {"name": "coredns"},
            "rules": rights,
        },
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": "coredns"},
            "roleRef": role,
            "subjects": [subject],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"Corefile": corefile}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**meta, "name": "kube-dns"},
            "spec": {"clusterIP": NAME_SERVER, "selector": labels, "ports": ports},
        },
    ]


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")
