"""Makes a memory and a binding and waits until both are Ready, or removes them. Steps of `helm test`."""

import argparse
import sys
import time
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

GROUP, VERSION = "holdfast.dev", "v1alpha1"
Object = dict[str, Any]


class Cluster:
    """The objects of the test."""

    def __init__(self) -> None:
        self._api = client.CustomObjectsApi()

    def _place(self, made: Object) -> tuple[str, str, str, str]:
        return GROUP, VERSION, made["metadata"]["namespace"], f"{made['kind'].lower()}s"

    def create(self, made: Object) -> None:
        """Create it; one that is there already is left."""
        body = {"apiVersion": f"{GROUP}/{VERSION}", **made}
        try:
            self._api.create_namespaced_custom_object(*self._place(made), body)
        except ApiException as error:
            if error.status != 409:
                raise

    def ready(self, made: Object) -> tuple[bool, str]:
        """Tell whether it is Ready, and why."""
        place = self._place(made)
        found = self._api.get_namespaced_custom_object(*place, made["metadata"]["name"])
        for condition in found.get("status", {}).get("conditions", ()):
            if condition["type"] == "Ready":
                return condition[
                    "status"
                ] == "True", f"{condition['reason']}: {condition['message']}"
        return False, "nobody has looked at it yet"

    def delete(self, made: Object) -> bool:
        """Delete it; return whether there was anything left of it."""
        place = self._place(made)
        try:
            self._api.delete_namespaced_custom_object(*place, made["metadata"]["name"])
        except ApiException as error:
            if error.status != 404:
                raise
            return False
        return True


def objects(options: argparse.Namespace) -> list[Object]:
    """Return what the test makes, in the order in which it is made."""
    namespace, _, backend = options.backend.partition("/")
    made: list[Object] = []
    if options.endpoint:
        tenant = {"kubernetes.io/metadata.name": options.namespace}
        spec: Object = {
            "endpoints": [options.endpoint],
            "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": tenant}},
        }
        if options.secret:
            spec["authRef"] = {"name": options.secret}
        metadata = {"name": backend, "namespace": namespace}
        made.append({"kind": "MemoryBackend", "metadata": metadata, "spec": spec})
    memory = {
        "backendRef": {"name": backend, "namespace": namespace},
        "retention": {"ttl": "10m"},
        "deletionPolicy": "Delete",
    }
    entry = {"name": options.name, "memoryRef": {"name": options.name}, "access": "ReadWrite"}
    binding = {"serviceAccountName": options.name, "memories": [entry]}
    metadata = {"name": options.name, "namespace": options.namespace}
    made.append({"kind": "MemoryResource", "metadata": metadata, "spec": memory})
    made.append({"kind": "MemoryBinding", "metadata": metadata, "spec": binding})
    return made


def prepare(cluster: Cluster, made: list[Object], end: float) -> int:
    """Create everything, and wait until it is Ready."""
    for each in made:
        cluster.create(each)
    for each in made:
        what = f"{each['kind']} {each['metadata']['name']}"
        while True:
            ready, why = cluster.ready(each)
            if ready:
                print(f"{what} is Ready: {why}")
                break
            if time.monotonic() > end:
                print(f"{what} is not Ready: {why}")
                return 1
            time.sleep(0.5)
    return 0


def remove(cluster: Cluster, made: list[Object], end: float) -> int:
    """Delete everything, and wait until it is gone."""
    for each in reversed(made):
        while cluster.delete(each):
            if time.monotonic() > end:
                print(f"{each['kind']} {each['metadata']['name']} is still there")
                return 1
            time.sleep(0.5)
    print("removed")
    return 0


def main() -> int:
    """Run the step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("step", choices=("prepare", "remove"))
    parser.add_argument("--name", required=True)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--backend", required=True, help="namespace/name")
    parser.add_argument("--endpoint", help="of its server, where the test makes the backend")
    parser.add_argument("--secret", help="with the login to that server")
    parser.add_argument("--kubeconfig", help="instead of the pod's ServiceAccount")
    parser.add_argument("--seconds", type=float, default=180)
    options = parser.parse_args()
    if options.kubeconfig:
        config.load_kube_config(options.kubeconfig)
    else:
        config.load_incluster_config()
    step = {"prepare": prepare, "remove": remove}[options.step]
    end = time.monotonic() + options.seconds
    return step(Cluster(), objects(options), end)


if __name__ == "__main__":
    sys.exit(main())
