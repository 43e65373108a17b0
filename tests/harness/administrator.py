"""The API server as its administrator, over connections that stay: no process for each question.

A test that waits for an object looks at it again and again. `kubectl` is a process of a tenth of a second
of processor time, so it is for what people would do by hand; whoever only waits asks here.
"""

import contextlib
import http.client
import json
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Final

import yaml

__all__ = ["Administrator", "NoSuchObject", "Refused"]

_GROUP: Final = "/apis/holdfast.dev/v1alpha1"
_RBAC: Final = "/apis/rbac.authorization.k8s.io/v1"
_KINDS: Final = {
    "configmap": ("/api/v1", "configmaps"),
    "event": ("/api/v1", "events"),
    "secret": ("/api/v1", "secrets"),
    "serviceaccount": ("/api/v1", "serviceaccounts"),
    "lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "pod": ("/api/v1", "pods"),
    "role": (_RBAC, "roles"),
    "rolebinding": (_RBAC, "rolebindings"),
    "memorybackend": (_GROUP, "memorybackends"),
    "memorybinding": (_GROUP, "memorybindings"),
    "memoryerasure": (_GROUP, "memoryerasures"),
    "memoryresource": (_GROUP, "memoryresources"),
}
_OF_CLUSTER: Final = {
    "clusterrole": (_RBAC, "clusterroles"),
    "clusterrolebinding": (_RBAC, "clusterrolebindings"),
    "customresourcedefinition": ("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "mutatingwebhookconfiguration": (
        "/apis/admissionregistration.k8s.io/v1",
        "mutatingwebhookconfigurations",
    ),
    "namespace": ("/api/v1", "namespaces"),
}
_SHORT: Final = {
    "crd": "customresourcedefinition",
    "membackend": "memorybackend",
    "membind": "memorybinding",
    "memerase": "memoryerasure",
    "memres": "memoryresource",
}
_PATIENCE: Final = 60.0
"""Seconds for which an API server may ask to be left alone."""
_APPLY: Final = "fieldManager=kubectl&force=true&fieldValidation=Strict"


class Refused(Exception):
    """The API server refused a request; the message is what it said.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class NoSuchObject(Refused):
    """There is no such object, or no such kind."""


class Administrator:
    """Requests of the administrator; any thread may ask.

    Args:
        port: of the API server.
        host: where it listens.
        authority: file of the authority that signed its certificate.
        certificate: file of the administrator's certificate.
        key: file of its key.
    """

    def __init__(
        self, port: int, *, host: str, authority: Path, certificate: Path, key: Path
    ) -> None:
        self._host = host
        self._port = port
        self._context = ssl.create_default_context(cafile=str(authority))
        self._context.load_cert_chain(certificate, key)
        self._idle: list[http.client.HTTPSConnection] = []
        self._lock = threading.Lock()

    def get(self, namespace: str, what: str) -> dict[str, Any]:
        """Return an object, named as kubectl does: `memres/support`, `secret/login`.

        Raises:
            NoSuchObject: it is not there.
        """
        return self._ask("GET", _path(namespace, what))

    def find(self, namespace: str, what: str) -> dict[str, Any] | None:
        """Return an object; None when it is not there."""
        try:
            return self.get(namespace, what)
        except NoSuchObject:
            return None

    def all(self, namespace: str, kind: str) -> list[dict[str, Any]]:
        """Return all objects of a kind: `event`, `memres`."""
        return self._ask("GET", _path(namespace, kind))["items"]

    def clear(self) -> None:
        """Take away all objects of ours in all namespaces, although nobody ends their deletion."""
        for kind in ("memoryerasure", "memorybinding", "memoryresource", "memorybackend"):
            base, plural = _KINDS[kind]
            with contextlib.suppress(NoSuchObject):  # the kind, where it is not installed
                for body in self._ask("GET", f"{base}/{plural}")["items"]:
                    self._remove(kind, body["metadata"])

    def _remove(self, kind: str, metadata: dict[str, Any]) -> None:
        namespace, what = metadata["namespace"], f"{kind}/{metadata['name']}"
        with contextlib.suppress(NoSuchObject):  # by whoever works there still
            if metadata.get("finalizers"):
                self.merge(namespace, what, {"metadata": {"finalizers": None}})
            if "deletionTimestamp" not in metadata:
                self.delete(namespace, what)

    def apply(self, namespace: str, manifest: str) -> None:
        """Apply the objects of a YAML or JSON text as `kubectl apply --server-side` does.

        Args:
            namespace: of those that name none.
            manifest: the text.

        Raises:
            Refused: one was refused; those before it were applied.
        """
        for document in yaml.load_all(manifest, Loader=_Loader):
            what = f"{document['kind'].lower()}/{document['metadata']['name']}"
            where = document["metadata"].get("namespace", namespace)
            self._ask(
                "PATCH",
                f"{_path(where, what)}?{_APPLY}",
                document,
                "application/apply-patch+yaml",
            )

    def merge(self, namespace: str, what: str, change: dict[str, Any]) -> None:
        """Change an object by a merge patch."""
        self._ask("PATCH", _path(namespace, what), change, "application/merge-patch+json")

    def create(
        self, namespace: str, body: dict[str, Any], *, dry_run: bool = False, user: str = ""
    ) -> dict[str, Any]:
        """Create an object and return it as it was stored.

        Args:
            namespace: where.
            body: the object.
            dry_run: everything is done but storing it.
            user: who asks, a ServiceAccount by its full name; absent: the administrator.

        Raises:
            Refused: it was refused.
        """
        path = _path(namespace, body["kind"].lower())
        dry = "&dryRun=All" if dry_run else ""
        headers = {"Impersonate-User": user} if user else {}
        return self._ask("POST", f"{path}?fieldValidation=Strict{dry}", body, **headers)

    def annotate(self, namespace: str, what: str, *annotations: str) -> None:
        """Set annotations, `name=value`, or take them away, `name-`, as kubectl does."""
        parts = [one.partition("=") for one in annotations]
        notes = {
            name if equal else name[:-1]: value if equal else None for name, equal, value in parts
        }
        self.merge(namespace, what, {"metadata": {"annotations": notes}})

    def delete(self, namespace: str, what: str) -> None:
        """Ask for the deletion of an object, without waiting until it is gone."""
        self._ask("DELETE", _path(namespace, what))

    def create_namespace(self, name: str) -> None:
        """Create a namespace."""
        self._ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    def create_accounts(self, namespace: str, *names: str) -> None:
        """Create ServiceAccounts: nobody else does, not even `default`."""
        for name in names:
            body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}}
            self.create(namespace, body)

    def token(self, namespace: str, account: str, *, seconds: int) -> str:
        """Return a token of a ServiceAccount that the API server issues for so long."""
        path = f"{_path(namespace, f'serviceaccount/{account}')}/token"
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        return self._ask("POST", path, request)["status"]["token"]

    def answers(self, path: str) -> bool:
        """Whether a GET is answered with 200."""
        try:
            return self._exchange("GET", path)[0] == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    def close(self) -> None:
        """Close the connections; again is harmless."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        content: str = "application/json",
        **headers: str,
    ) -> dict[str, Any]:
        try:
            status, text = self._exchange(method, path, body, content, **headers)
        except (OSError, http.client.HTTPException):
            # It restarted: nothing here changes more by being said twice, but for a new namespace,
            # whose name would be refused.
            self.close()
            status, text = self._exchange(method, path, body, content, **headers)
        end = time.monotonic() + _PATIENCE
        while status == http.HTTPStatus.TOO_MANY_REQUESTS and time.monotonic() < end:
            time.sleep(0.1)  # it says so for a moment where a definition has changed
            status, text = self._exchange(method, path, body, content, **headers)
        answer: dict[str, Any] = json.loads(text)
        if status >= http.HTTPStatus.BAD_REQUEST:
            kind = NoSuchObject if status == http.HTTPStatus.NOT_FOUND else Refused
            raise kind(status, f"{method} {path}: {answer.get('message')}")
        return answer

    def _exchange(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        content: str = "application/json",
        **headers: str,
    ) -> tuple[int, bytes]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is None:
            connection = http.client.HTTPSConnection(
                self._host, self._port, context=self._context, timeout=60
            )
        with contextlib.ExitStack() as unless_it_is_fine:
            unless_it_is_fine.callback(connection.close)
            text = None if body is None else json.dumps(body)
            connection.request(
                method, path, body=text, headers={"Content-Type": content, **headers}
            )
            answer = connection.getresponse()
            found = answer.status, answer.read()
            unless_it_is_fine.pop_all()
        with self._lock:
            self._idle.append(connection)
        return found


def _path(namespace: str, what: str) -> str:
    kind, _, name = what.partition("/")
    kind = _SHORT.get(kind, kind)
    if kind in _OF_CLUSTER:
        path = "/".join(_OF_CLUSTER[kind])
    else:
        base, plural = _KINDS[kind]
        path = f"{base}/namespaces/{namespace}/{plural}"
    return f"{path}/{name}" if name else path


class _Loader(yaml.CSafeLoader):
    """The C loader; a time stays text, as it does where YAML becomes JSON."""


_Loader.yaml_implicit_resolvers = {
    first: [one for one in found if one[0] != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
