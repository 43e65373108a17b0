"""What `holdfast dev` says: a table and coloured words on a terminal, plain lines elsewhere."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TextIO, cast

from rich.console import Console
from rich.table import Table

from holdfast.errors import PolicyInvalid
from holdfast.policy import OnFull, Policy
from holdfast_cli.local.manifests import API_VERSION, BACKEND, ERASURE, RESOURCE, Key, Manifest
from holdfast_cli.local.objects import OF_ANY_SERVER, Edits, Objects
from holdfast_cli.local.server import ServerAddress
from holdfast_operator.reasons import ConditionType, PolicyReason
from holdfast_operator.resources import MemoryResource
from holdfast_operator.services.objects import status_of
from holdfast_operator.services.outcome import Event
from holdfast_operator.services.ports import Body
from holdfast_operator.status import BackendStatus, ConditionStatus, ResourceStatus

_COLUMNS: Final = ("MEMORY", "READY", "REASON", "LIMITS", "TTL")
_GAP: Final = "  "


@dataclass(frozen=True, slots=True)
class Way:
    """How a program gets to the memories of one namespace.

    Attributes:
        namespace: the namespace.
        prefix: the key prefix of their backend.
    """

    namespace: str
    prefix: str


class Reporter:
    """Prints. Until `ready` was called, looks at objects are not worth a line.

    Args:
        output: where to.
    """

    def __init__(self, output: TextIO) -> None:
        self._console = Console(file=output, highlight=False, markup=False)
        self._started = False

    def ready(
        self,
        objects: Objects,
        later: Sequence[Manifest],
        server: ServerAddress,
        kept: str,
        http: str | None,
    ) -> None:
        """Say how to connect and what there is; from now on every change gets a line.

        Args:
            objects: what there is.
            later: objects that are left out.
            server: which one it is.
            kept: where its data are, as the end of a sentence.
            http: where the sidecar's API is; None without it.
        """
        memories = [(key, body) for key, body in objects.bodies().items() if key.kind == RESOURCE]
        self._say(f"{_product(objects)} on {server.endpoint}, {kept}. Ctrl-C ends it.")
        self._say("")
        self._lines_to_paste(memories, objects, server)
        self._over_http(memories, objects, http)
        rows = [_row(key, body) for key, body in sorted(memories, key=lambda pair: pair[0])]
        self._say("")
        self._table(rows)
        for key, body in memories:
            for sentence in (*_obstacle(body), *_remarks(body)):
                self._say(f"{key}: {sentence}")
        for key, body in objects.bodies().items():
            if key.kind == ERASURE:
                self._say(f"{key}: {_said(body)}")
        self.not_carried_out(later)
        self._say("")
        self._started = True

    def not_carried_out(self, later: Iterable[Manifest]) -> None:
        """Say which objects of a kind that is left out here there are."""
        for manifest in later:
            self._say(
                f"{manifest.file}:{manifest.line}: {manifest.key}: `holdfast dev` does not carry out "
                f"{manifest.key.kind}: there is one user, and every program uses the URL; it is left out"
            )

    def edits(self, edits: Edits, objects: Objects) -> None:
        """Say what the manifests changed."""
        for key in edits.added:
            if self._started and key.kind == RESOURCE:
                self._change(key, "added")
        for key, old in edits.edited:
            body = objects.get(key)
            changes = _differences(key, old, body["spec"]) if body is not None else []
            if changes:
                self._change(key, f"edited: {', '.join(changes)}")
        for key in edits.removed:
            if key.kind == RESOURCE:
                self._change(key, "removed")

    def refused(self, faults: Sequence[PolicyInvalid]) -> None:
        """Say what is wrong with an edit, and that nothing of it happened."""
        for fault in faults:
            self._say(f"{_now()}{_GAP}{fault}")
        self._say(f"{_now()}{_GAP}nothing was changed: what was in force stays until this is right")

    def looked(self, key: Key, before: Body, after: Body, events: Sequence[Event]) -> None:
        """Say what a look at an object brought, if that is new."""
        if not self._started:
            return
        for event in events:
            self._change(key, f"{event.reason}: {event.message}")
        old, new = status_of(before, ResourceStatus), status_of(after, ResourceStatus)
        if key.kind == RESOURCE and new.policy_revision != old.policy_revision:
            rest = "; live sessions follow in seconds" if old.policy_revision else ""
            self._change(key, f"revision {new.policy_revision} is in force for new calls{rest}")
        if not events:
            for sentence in _applied(after):
                if sentence not in _applied(before):
                    self._change(key, sentence)
        for sentence in _remarks(after):
            if sentence not in _remarks(before):
                self._change(key, sentence)

    def gone(self, key: Key, events: Sequence[Event]) -> None:
        """Say that an object is gone."""
        for event in events:
            self._change(key, f"{event.reason}: {event.message}")
        if self._started and not events and key.kind == RESOURCE:
            self._change(key, "gone")

    def line(self, text: str) -> None:
        """Say something else."""
        self._say(f"{_now()}{_GAP}{text}")

    def _change(self, key: Key, text: str) -> None:
        self._say(f"{_now()}{_GAP}{key}{_GAP}{text}")

    def _say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True)

    def _lines_to_paste(
        self, memories: Sequence[tuple[Key, Body]], objects: Objects, server: ServerAddress
    ) -> None:
        found = ways(objects)
        for way in found:
            url = server.url(namespace=way.namespace, prefix=way.prefix, shown=True)
            self._say(f"export HOLDFAST_URL='{url}'")
        self._say(_python_line(*_nearest(memories, objects)))

    def _over_http(
        self, memories: Sequence[tuple[Key, Body]], objects: Objects, http: str | None
    ) -> None:
        """Give the one address that clients, `connect()` and MCP begin with, and a call to paste."""
        if http is None:
            self._say("Not over HTTP: pip install 'holdfast[sidecar]' for that")
            return
        self._say(f"Over HTTP, in any language, and for connect(): {http}")
        key, body = _nearest(memories, objects)
        self._say(
            f"curl {http}/v1/memories/{key.name}/sessions/{_segment(body)}/messages"
            """ --json '{"message": {"role": "user", "content": "hi"}}'"""
        )

    def _table(self, rows: Sequence[Sequence[str]]) -> None:
        if self._console.is_terminal:
            table = Table(box=None, pad_edge=False, header_style="bold")
            for name in _COLUMNS:
                table.add_column(name)
            for row in rows:
                style = "green" if row[1] == ConditionStatus.TRUE else "red"
                table.add_row(*row, style=style)
            self._console.print(table)
            return
        widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
        for row in (_COLUMNS, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            self._say(_GAP.join(cells).rstrip())


def ways(objects: Objects) -> list[Way]:
    """Return the ways to all memories: the namespace `local` first, then by name."""
    found = {way_of(objects, key) for key in objects.bodies() if key.kind == RESOURCE}
    return sorted(found, key=lambda way: (way.namespace != "local", way.namespace, way.prefix))


def way_of(objects: Objects, key: Key) -> Way:
    """Return the way to a memory."""
    ref = MemoryResource.from_body(objects.bodies()[key]).spec.backend_ref
    backend = objects.backend(ref.namespace or key.namespace, ref.name)
    assert backend is not None, "a backend lives as long as a memory names it"
    return Way(key.namespace, backend["spec"].get("keyPrefix", "mem"))


def _nearest(memories: Sequence[tuple[Key, Body]], objects: Objects) -> tuple[Key, Body]:
    """Return the memory for examples: the first one of the namespace that is shown first."""
    namespace = ways(objects)[0].namespace
    near = [pair for pair in memories if pair[0].namespace == namespace]
    return min(near, key=lambda pair: pair[0])


def limits_text(policy: Policy) -> str:
    """Return the limits of a session in words."""
    parts = [
        f"{number} {unit}"
        for number, unit in ((policy.max_tokens, "tokens"), (policy.max_messages, "messages"))
        if number is not None
    ]
    refuses = ", then refuses" if policy.on_full is OnFull.REFUSE else ""
    return " and ".join(parts) + refuses


def _row(key: Key, body: Body) -> tuple[str, str, str, str, str]:
    resource = MemoryResource.from_body(body)
    ready = resource.status.condition(ConditionType.READY)
    status, reason = (ready.status.value, ready.reason) if ready is not None else ("Unknown", "")
    policy = resource.spec.policy
    return str(key), status, reason, limits_text(policy), policy.retention.ttl.text


def _said(body: Body) -> str:
    """Return what an object's Ready says."""
    ready = status_of(body, ResourceStatus).condition(ConditionType.READY)
    return ready.message if ready is not None else ""


def _obstacle(body: Body) -> list[str]:
    """Return why an object is not Ready."""
    ready = status_of(body, ResourceStatus).condition(ConditionType.READY)
    return [ready.message] if ready is not None and ready.status is not ConditionStatus.TRUE else []


def _remarks(body: Body) -> list[str]:
    """Return the sentences about an object that neither its Ready column nor an event says."""
    status = status_of(body, ResourceStatus)
    found = [status.condition(ConditionType.NOT_IN_FORCE), status.condition(ConditionType.PAUSED)]
    return [condition.message for condition in found if condition is not None]


def _applied(body: Body) -> list[str]:
    """Return what became of a rollout, once it has ended."""
    applied = status_of(body, ResourceStatus).condition(ConditionType.POLICY_APPLIED)
    if applied is None or applied.reason not in (PolicyReason.APPLIED, PolicyReason.UNSATISFIED):
        return []
    return [f"{applied.reason}: {applied.message}"]


def _product(objects: Objects) -> str:
    """Name the server as it names itself."""
    for key, body in objects.bodies().items():
        server = status_of(body, BackendStatus).server if key.kind == BACKEND else None
        if server is not None and server.product is not None:
            return f"{server.product.capitalize()} {server.version}"
    return "The server"


def _python_line(key: Key, body: Body) -> str:
    fields = MemoryResource.from_body(body).spec.policy.key_fields
    session = ", ".join(f'{name}="1"' for name in fields) or '"first"'
    return (
        f'import holdfast; session = holdfast.connect().memory("{key.name}").session({session})'
        '  # await session.append({"role": "user", "content": "hi"})'
    )


def _segment(body: Body) -> str:
    """Return a session of a memory as its segment of a path."""
    fields = MemoryResource.from_body(body).spec.policy.key_fields
    return ",".join(f"{name}=1" for name in fields) or "first"


def _differences(key: Key, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the fields of a spec that changed, with both values."""
    before, after = (_flat(_effective(key, spec)) for spec in (old, new))
    return [
        f"{path} {before.get(path, 'none')} -> {after.get(path, 'none')}"
        for path in sorted(before.keys() | after.keys())
        if before.get(path) != after.get(path)
    ]


def _effective(key: Key, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    if key.kind != RESOURCE:
        return {name: spec[name] for name in OF_ANY_SERVER if name in spec}
    body = {
        "apiVersion": API_VERSION,
        "kind": RESOURCE,
        "metadata": {"name": key.name},
        "spec": spec,
    }
    read = MemoryResource.from_body(body).spec
    return read.policy.effective() | {"deletionPolicy": read.deletion_policy.value}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, member in value.items():
        if isinstance(member, Mapping):
            found |= _flat(cast("Mapping[str, Any]", member), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = member
    return found


def _now() -> str:
    return time.strftime("%H:%M:%S")
