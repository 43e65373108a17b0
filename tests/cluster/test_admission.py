"""The admission policies, on a real API server, as people and as the operator's own account."""

import base64
import json
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.administrator import Refused
from tests.harness.control_plane import ControlPlane, KubectlError
from tests.harness.operator_process import ACCOUNT, HOME, ROOT, install
from tests.harness.waiting import until

pytestmark = pytest.mark.cluster

POLICIES = ROOT / "charts/holdfast/files/admission"
SECRET_POLICY = "is for pods of the ServiceAccount support-agent"
ROLES = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: binder}
rules:
- {apiGroups: [holdfast.dev], resources: [memorybindings], verbs: [get, create, update, patch]}
- {apiGroups: [holdfast.dev], resources: [memoryresources], resourceNames: [support], verbs: [bind]}
- {apiGroups: [holdfast.dev], resources: [memoryresources], resourceNames: [notes], verbs: [bindreadonly]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: binder}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: binder}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: binder}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: editor}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: holdfast-edit}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: editor}]
"""


class Place:
    """A namespace with the policies in force."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace

    def send(
        self, manifest: dict[str, Any], *options: str, user: str = "", verb: str = "create"
    ) -> None:
        """Send an object, as the administrator or as somebody else."""
        where = [f"--namespace={self.namespace}", *([f"--as={user}"] if user else []), *options]
        self.plane.kubectl(verb, *where, "-f", "-", input=json.dumps(manifest))

    def refused(self, manifest: dict[str, Any], *, user: str = "", verb: str = "create") -> str:
        """Send an object that must be refused; return the sentence."""
        with pytest.raises(KubectlError) as raised:
            self.send(manifest, user=user, verb=verb)
        return str(raised.value)


@pytest.fixture(scope="module")
def policies(control_plane: ControlPlane) -> Iterator[None]:
    """The policies, in force while the tests here run: others write Secrets as they like."""
    install(control_plane)
    control_plane.apply(POLICIES)
    yield
    control_plane.kubectl("delete", "-f", str(POLICIES), "--wait=false")


@pytest.fixture
def place(control_plane: ControlPlane, namespace: str, policies: None) -> Place:
    administrator = control_plane.administrator
    administrator.apply(namespace, ROLES)
    administrator.create_accounts(namespace, "default", "support-agent", "other")
    return Place(control_plane, namespace)


async def in_force(place: Place, manifest: dict[str, Any], sentence: str, user: str = "") -> None:
    """Wait until a policy refuses: the API server takes a moment to take it up."""

    def refuses() -> bool:
        try:
            place.plane.administrator.create(place.namespace, manifest, dry_run=True, user=user)
        except Refused as error:
            return sentence in str(error)
        return False

    await until(refuses, sentence, every=0.1)


def binding(name: str = "agent", *memories: tuple[str, str]) -> dict[str, Any]:
    entries = [
        {"name": memory, "memoryRef": {"name": memory}, "access": access}
        for memory, access in memories or (("support", "ReadWrite"),)
    ]
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryBinding",
        "metadata": {"name": name},
        "spec": {"serviceAccountName": "support-agent", "memories": entries},
    }


def pod(name: str, account: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "image", **spec.pop("container", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": account,
            "automountServiceAccountToken": False,
            "containers": [container],
            **spec,
        },
    }


SECRET = "agent-holdfast"
USES: dict[str, dict[str, Any]] = {
    "volume": {"volumes": [{"name": "v", "secret": {"secretName": SECRET}}]},
    "projected": {
        "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": SECRET}}]}}]
    },
    # A driver logs in with username and password, at a server that the pod names.
    "driver": {
        "volumes": [
            {"name": "v", "csi": {"driver": "smb", "nodePublishSecretRef": {"name": SECRET}}}
        ]
    },
    "flex": {
        "volumes": [
            {"name": "v", "flexVolume": {"driver": "a/cifs", "secretRef": {"name": SECRET}}}
        ]
    },
    "from": {"container": {"envFrom": [{"secretRef": {"name": SECRET}}]}},
    "entry": {
        "container": {
            "env": [
                {"name": "P", "valueFrom": {"secretKeyRef": {"name": SECRET, "key": "password"}}}
            ]
        }
    },
    "before": {
        "initContainers": [
            {"name": "i", "image": "i", "envFrom": [{"secretRef": {"name": SECRET}}]}
        ]
    },
}


@pytest.mark.asyncio
async def test_the_secret_of_a_binding_is_for_its_service_account(place: Place):
    place.send(pod("early", "other", **USES["volume"]))  # no binding, nothing to protect
    place.send(binding())
    await in_force(place, pod("try", "other", **USES["volume"]), SECRET_POLICY)
    for name, use in USES.items():
        assert SECRET_POLICY in place.refused(pod(f"no-{name}", "other", **use)), name
        place.send(pod(f"yes-{name}", "support-agent", **use))
    assert SECRET_POLICY in place.refused(pod("no-account", "default", **USES["volume"]))
    other = {"volumes": [{"name": "v", "secret": {"secretName": "another"}}]}
    place.send(pod("unconcerned", "other", **other))
    # A container that is put into a running pod later is one of it.
    late = {"name": "late", "image": "image", "envFrom": [{"secretRef": {"name": SECRET}}]}
    patch = json.dumps({"spec": {"ephemeralContainers": [late]}})

    def debug(name: str) -> None:
        where = (f"--namespace={place.namespace}", "--subresource=ephemeralcontainers")
        place.plane.kubectl("patch", "pod", name, *where, "-p", patch)

    with pytest.raises(KubectlError, match=SECRET_POLICY):
        debug("unconcerned")
    debug("yes-volume")


@pytest.mark.asyncio
async def test_a_binding_needs_the_verb_on_each_of_its_memories(place: Place):
    wide = binding("wide", ("support", "ReadWrite"), ("notes", "ReadWrite"))
    await in_force(place, wide, "you need the verb bind on memoryresources/notes", "binder")
    place.send(binding("one"), user="binder")
    place.send(binding("two", ("support", "ReadWrite"), ("notes", "ReadOnly")), user="binder")
    answer = place.refused(binding("three", ("support", "ReadOnly")), user="binder")
    assert "you need the verb bindreadonly on memoryresources/support" in answer
    # Widening asks, and so does another memory; an edit of anything else does not.
    wider = binding("two", ("support", "ReadWrite"), ("notes", "ReadWrite"))
    assert "bind on memoryresources/notes" in place.refused(wider, user="binder", verb="apply")
    more = binding("one", ("support", "ReadWrite"), ("secret", "ReadOnly"))
    assert "bindreadonly on memoryresources/secret" in place.refused(
        more, user="binder", verb="apply"
    )
    place.send(binding("two", ("support", "ReadWrite")), user="binder", verb="apply")


@pytest.mark.asyncio
async def test_sixteen_memories_are_judged_one_by_one(place: Place):
    names = [(f"memory-{number}", "ReadWrite") for number in range(16)]
    await in_force(place, binding("all", *names), "bind on memoryresources/memory-0", "binder")
    place.send(binding("all", *names), user="editor")
    for position in (0, 7, 15):
        tried = [(f"memory-{number}", "ReadWrite") for number in range(16)]
        tried[position] = ("support", "ReadWrite")
        answer = place.refused(binding("some", *tried), user="binder")
        assert "you need the verb bind on memoryresources/memory-" in answer
    fifteen = [*names[:15], ("other", "ReadWrite")]
    place.send(binding("all", *fifteen), user="editor", verb="apply")


def secret(name: str, kind: str, owner: dict[str, Any] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    data = {"password": base64.b64encode(b"x").decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data}


@pytest.mark.asyncio
async def test_the_operator_writes_the_secrets_of_bindings_and_no_others(place: Place):
    plane, where = place.plane, f"--namespace={place.namespace}"
    plane.apply(ROOT / "charts/holdfast/files/rbac/binding-secrets.yaml", namespace=place.namespace)
    operator = f"system:serviceaccount:{HOME}:{ACCOUNT}"
    ours = "servicebinding.io/holdfast"
    owner = {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "MemoryBinding",
        "name": "agent",
        "uid": "00000000-0000-0000-0000-000000000001",
        "controller": True,
    }
    sentence = "writes no Secret but those of type servicebinding.io/holdfast"
    await in_force(place, secret("plain", "Opaque", None), sentence, operator)
    for kind, reference in (
        ("Opaque", owner),
        (ours, None),
        (ours, {**owner, "controller": False}),
        (ours, {**owner, "kind": "MemoryResource"}),
        (ours, {**owner, "apiVersion": "example.com/v1"}),
    ):
        assert sentence in place.refused(secret("taken", kind, reference), user=operator)
    place.send(secret(SECRET, ours, owner), user=operator)
    place.send(secret("prod-db", "Opaque", None))
    replaced = secret(SECRET, ours, owner)
    replaced["data"]["password"] = base64.b64encode(b"y").decode()
    place.send(replaced, user=operator, verb="replace")
    disowned = secret(SECRET, ours, None)
    assert sentence in place.refused(disowned, user=operator, verb="replace")
    theirs = secret("prod-db", "Opaque", owner)
    assert sentence in place.refused(theirs, user=operator, verb="replace")
    with pytest.raises(KubectlError, match=sentence):
        plane.kubectl(where, f"--as={operator}", "delete", "secret", "prod-db")
    plane.kubectl(where, f"--as={operator}", "delete", "secret", SECRET)
    for verb in ("list", "watch", "patch"):
        with pytest.raises(KubectlError):
            plane.kubectl(where, "auth", "can-i", verb, "secrets", f"--as={operator}", "--quiet")


def test_who_may_edit_a_namespace_may_bind_and_who_looks_may_not(place: Place):
    plane, where = place.plane, f"--namespace={place.namespace}"
    plane.apply(
        textwrap.dedent(
            """
            apiVersion: rbac.authorization.k8s.io/v1
            kind: RoleBinding
            metadata: {name: viewer}
            roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: holdfast-view}
            subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: viewer}]
            """
        ),
        namespace=place.namespace,
    )

    def may(user: str, verb: str, what: str) -> bool:
        try:
            plane.kubectl(where, "auth", "can-i", verb, what, f"--as={user}", "--quiet")
        except KubectlError:
            return False
        return True

    assert may("editor", "create", "memorybindings.holdfast.dev")
    assert may("editor", "bind", "memoryresources.holdfast.dev")
    assert may("editor", "bindreadonly", "memoryresources.holdfast.dev")
    assert may("viewer", "list", "memorybindings.holdfast.dev")
    assert not may("viewer", "create", "memorybindings.holdfast.dev")
    assert not may("viewer", "bind", "memoryresources.holdfast.dev")
    label = "servicebinding.io/controller=true"
    roles = json.loads(plane.kubectl("get", "clusterroles", "-l", label, "-o", "json"))["items"]
    [rule] = [rule for role in roles for rule in role["rules"]]
    assert (rule["resources"], rule["verbs"]) == (["memorybindings"], ["get", "list", "watch"])
